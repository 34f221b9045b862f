package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sendhouse/sendhouse/pkg/guard"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// EmbeddedFolder is where the embedded server's files are in the data folder of `sendhouse up`.
const EmbeddedFolder = "nats"

// operatorFile holds, in the embedded server's folder, the seed of the NKey of which the server allows everything.
const operatorFile = "operator.nk"

// OperatorFile is the path of the operator's seed below the data folder of `sendhouse up`. The server makes it at its first start, for its
// own user only.
func OperatorFile(dataDir string) string { return filepath.Join(dataDir, EmbeddedFolder, operatorFile) }

// openOperator reads the operator's key of the server whose files are in dir, or makes it.
func openOperator(dir string) (nkeys.KeyPair, error) {
	path := filepath.Join(dir, operatorFile)
	seed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		seed, err = makeSeed(path)
	}
	if err != nil {
		return nil, fmt.Errorf("key of the embedded NATS: %w", err)
	}
	key, err := nkeys.ParseDecoratedUserNKey(seed)
	if err != nil {
		return nil, fmt.Errorf("key of the embedded NATS: %s does not hold the seed of a user's NKey: %w (remove the file, and the next start makes another key)", path, err)
	}
	return key, nil
}

// makeSeed makes a key and keeps its seed in a file that is whole or not there.
func makeSeed(path string) (seed []byte, err error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("make it: %w", err)
	}
	seed, err = key.Seed()
	if err != nil {
		return nil, fmt.Errorf("make it: %w", err)
	}
	if err := lifecycle.ReplaceFile(path, append(seed, '\n'), 0o600); err != nil {
		return nil, err //nolint:wrapcheck // names the file
	}
	return seed, nil
}

// WithOperator returns the flags with the operator's key of the embedded server on this machine, if nothing else says who asks and
// the key is in the data folder; found reports whether it is.
func (c ClientConfig) WithOperator() (_ ClientConfig, found bool) {
	if c.DataDir == "" || c.Credentials != "" || c.NKey != "" || !onlyThisMachine(c.URL) {
		return c, false
	}
	path := OperatorFile(c.DataDir)
	file, err := os.Open(path)
	if err != nil {
		return c, false // the server says what is missing, if it is missed
	}
	_ = file.Close() // it was only tried
	c.NKey = path
	return c, true
}

// onlyThisMachine reports whether a list of addresses is one, without a password, that only this machine reaches.
func onlyThisMachine(list string) bool {
	if !strings.Contains(list, "://") {
		list = "nats://" + list
	}
	address, err := url.Parse(list)
	return err == nil && address.User == nil && guard.IsLoopback(address.Host)
}

// RefusesKey reports whether a server did not take the key that was found for it, since it is another one that asks for none or for others.
func RefusesKey(err error) bool {
	return errors.Is(err, nats.ErrNkeysNotSupported) || errors.Is(err, nats.ErrAuthorization)
}

// ErrReadOnly is wrapped by the error about a connection without credentials to an embedded server, for which it is not enough.
var ErrReadOnly = errors.New("the NATS that `sendhouse up` embeds lets clients without credentials read the message log, and no more")

// CheckWrites is nil if a connection of these flags may do more than read. It knows the embedded server by its name.
func (c ClientConfig) CheckWrites(nc *nats.Conn) error {
	if nc.ConnectedServerName() != embeddedName || c.Credentials != "" || c.NKey != "" {
		return nil
	}
	return fmt.Errorf("NATS at %s: %w: give --nats-nkey the file %s of its data folder, or run this as the user and with the --data-dir of `sendhouse up` (here: %s)",
		nc.ConnectedUrlRedacted(), ErrReadOnly, filepath.Join(EmbeddedFolder, operatorFile), c.DataDir)
}
