package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// InboxPrefix begins the subjects on which a role receives answers; after it comes a
// dot and what NATS makes up. A role that may subscribe only below its own prefix
// cannot read the answers of others.
func InboxPrefix(role string) string { return "_INBOX." + role }

// DefaultDataDir is where `sendhouse up` keeps the data of its servers, unless told otherwise.
const DefaultDataDir = "./data"

// ClientConfig says where NATS is and how a process shows who it is. At most one of
// Credentials and NKey may be given; with neither the URL carries it, or the server does not ask.
type ClientConfig struct {
	DataDir     string `name:"data-dir" help:"Folder of the data of the servers that 'sendhouse up' embeds. Other commands on the same machine find the key to its NATS there." default:"./data" placeholder:"PATH"`
	URL         string `name:"nats-url" help:"NATS servers, separated by commas. A URL with a password or token belongs into SENDHOUSE_NATS_URL or the configuration file: a command line can be read by others." placeholder:"nats://HOST:4222"`
	Credentials string `name:"nats-credentials" help:"NATS credentials file (a JWT and its key)." type:"existingfile" placeholder:"PATH"`
	NKey        string `name:"nats-nkey" help:"File with the seed of the NKey that NATS knows this process by." type:"existingfile" placeholder:"PATH"`
	CA          string `name:"nats-ca" help:"Certificates (PEM) that NATS servers are checked against, instead of the system's." type:"existingfile" placeholder:"PATH"`
	Cert        string `name:"nats-cert" help:"Certificate (PEM) to show to NATS, with --nats-cert-key." type:"existingfile" placeholder:"PATH"`
	CertKey     string `name:"nats-cert-key" help:"Key of --nats-cert (PEM)." type:"existingfile" placeholder:"PATH"`
	// PingInterval is a third of how long a connection that was lost and not closed may go unnoticed.
	PingInterval time.Duration `name:"nats-ping-interval" help:"How often NATS is asked whether it is still there. A connection on which two pings went unanswered is replaced at the third." default:"5s"`
}

// Check reports everything that is wrong with the settings. It reads the files that they name.
func (c ClientConfig) Check() error {
	_, err := c.Options("")
	if c.URL != "" {
		err = errors.Join(checkURLs(c.URL), err)
	}
	return err
}

// CheckGiven is Check of a process that has no NATS of its own.
func (c ClientConfig) CheckGiven() error {
	if c.URL == "" {
		return errors.Join(errors.New("--nats-url: is missing (for example nats://localhost:4222)"), c.Check())
	}
	return c.Check()
}

// Options are those of a connection of a role. The files are read here and again at
// each reconnect, so that a renewed certificate needs no restart, and neither do renewed
// credentials. Another NKey does: its public half is read once.
func (c ClientConfig) Options(role string) ([]nats.Option, error) {
	options := []nats.Option{nats.CustomInboxPrefix(InboxPrefix(role))}
	var errs []error
	if c.Credentials != "" && c.NKey != "" {
		errs = append(errs, errors.New("--nats-credentials and --nats-nkey: give one of them"))
	}
	if (c.Cert == "") != (c.CertKey == "") {
		errs = append(errs, errors.New("--nats-cert and --nats-cert-key: give both or neither"))
	}
	if c.PingInterval < 0 {
		errs = append(errs, fmt.Errorf("--nats-ping-interval %s: must not be negative (0 means 5s)", c.PingInterval))
	}
	if c.PingInterval > 0 {
		options = append(options, nats.PingInterval(c.PingInterval))
	}
	if c.Credentials != "" {
		options = append(options, nats.UserCredentials(c.Credentials))
	}
	if c.NKey != "" {
		option, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			errs = append(errs, fmt.Errorf("--nats-nkey %s: %w", c.NKey, err))
		}
		options = append(options, option)
	}
	if c.CA != "" {
		options = append(options, nats.RootCAs(c.CA))
	}
	if c.Cert != "" {
		options = append(options, nats.ClientCert(c.Cert, c.CertKey))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return options, nil
}
