package clickhouse

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/ClickHouse/clickhouse-go/v2"

	embedded "github.com/sendhouse/sendhouse/pkg/engine"
	"github.com/sendhouse/sendhouse/pkg/guard"
)

// Limits of the files that are read.
const (
	passwordBytesMax = 4 << 10
	caBytesMax       = 4 << 20
)

// setAuth completes user and password. Each must have a single source: with two, an operator might rely on the one that is
// not used.
func (c Config) setAuth(auth *clickhouse.Auth) error {
	if c.ClickHouseUser != "" {
		if auth.Username != "" && auth.Username != c.ClickHouseUser {
			return errors.New("--clickhouse-user: the DSN names another user")
		}
		auth.Username = c.ClickHouseUser
	}
	var sources []string
	if auth.Password != "" {
		sources = append(sources, "--clickhouse-dsn")
	}
	if !c.ClickHousePassword.IsZero() {
		sources = append(sources, "SENDHOUSE_CLICKHOUSE_PASSWORD")
		auth.Password = c.ClickHousePassword.Reveal()
	}
	if c.ClickHousePasswordFile != "" {
		sources = append(sources, "--clickhouse-password-file")
		password, err := readPassword(c.ClickHousePasswordFile)
		if err != nil {
			return fmt.Errorf("--clickhouse-password-file: %w", err)
		}
		auth.Password = password
	}
	if len(sources) > 1 {
		return fmt.Errorf("the password of ClickHouse is given more than once: by %s", strings.Join(sources, " and by "))
	}
	return nil
}

// WithOwner returns the configuration of a command that changes tables, completed for the ClickHouse that `sendhouse up`
// embeds: its address if none is given, and, if the address is local, no credentials are given and the data folder has
// one, the owner's password.
func (c Config) WithOwner(dataDir string) Config {
	path := filepath.Join(dataDir, embedded.PasswordFile)
	if _, err := os.Stat(path); dataDir == "" || err != nil {
		return c // the server reports what is missing
	}
	c.ClickHouseDSN = cmp.Or(c.ClickHouseDSN, "http://127.0.0.1:8123/"+DatabaseDefault)
	address, err := url.Parse(c.ClickHouseDSN)
	if err != nil || !guard.IsLoopback(address.Host) || address.User != nil || address.Query().Has("password") ||
		c.ClickHouseUser != "" || c.ClickHousePasswordFile != "" || !c.ClickHousePassword.IsZero() {
		return c
	}
	c.ClickHouseUser, c.ClickHousePasswordFile = embedded.User, path
	return c
}

// readPassword returns the content of a file without trailing white space, which editors add.
func readPassword(path string) (string, error) {
	text, err := readBounded(path, passwordBytesMax)
	if err != nil {
		return "", err
	}
	password := strings.TrimRightFunc(string(text), unicode.IsSpace)
	if password == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return password, nil
}

// readBounded reads a whole file of at most bytesMax bytes.
func readBounded(path string, bytesMax int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err //nolint:wrapcheck // it names the file
	}
	defer func() { _ = f.Close() }() // read-only: nothing to lose
	text, err := io.ReadAll(io.LimitReader(f, bytesMax+1))
	if err != nil {
		return nil, err //nolint:wrapcheck // it names the file
	}
	if int64(len(text)) > bytesMax {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, bytesMax)
	}
	return text, nil
}

// setTLS enables and configures TLS if one of its settings is given.
func (c Config) setTLS(scheme string, o *clickhouse.Options) error {
	asked := ""
	for _, flag := range []struct{ name, value string }{
		{"--clickhouse-tls-ca", c.ClickHouseTLSCA},
		{"--clickhouse-tls-cert", c.ClickHouseTLSCert},
		{"--clickhouse-tls-key", c.ClickHouseTLSKey},
		{"--clickhouse-tls-server-name", c.ClickHouseTLSName},
	} {
		if flag.value != "" && asked == "" {
			asked = flag.name
		}
	}
	if asked == "" && o.TLS == nil {
		return nil
	}
	if scheme == "http" {
		return fmt.Errorf("%s: http:// in --clickhouse-dsn is not encrypted, use https://", asked)
	}
	if o.TLS == nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	o.TLS.MinVersion = tls.VersionTLS12
	if c.ClickHouseTLSName != "" {
		o.TLS.ServerName = c.ClickHouseTLSName
	}
	return errors.Join(c.setAuthorities(o.TLS), c.setCertificate(o.TLS))
}

func (c Config) setAuthorities(t *tls.Config) error {
	if c.ClickHouseTLSCA == "" {
		return nil
	}
	pem, err := readBounded(c.ClickHouseTLSCA, caBytesMax)
	if err != nil {
		return fmt.Errorf("--clickhouse-tls-ca: %w", err)
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("--clickhouse-tls-ca: %s holds no certificate in PEM form", c.ClickHouseTLSCA)
	}
	return nil
}

// setCertificate reads the certificate for each connection, so that a renewed one takes effect without a restart. It also
// reads it once now, so that an invalid one fails the start.
func (c Config) setCertificate(t *tls.Config) error {
	certFile, keyFile := c.ClickHouseTLSCert, c.ClickHouseTLSKey
	switch {
	case certFile == "" && keyFile == "":
		return nil
	case keyFile == "":
		return errors.New("--clickhouse-tls-cert: requires --clickhouse-tls-key")
	case certFile == "":
		return errors.New("--clickhouse-tls-key: requires --clickhouse-tls-cert")
	}
	if _, err := tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		return fmt.Errorf("--clickhouse-tls-cert: %w", err)
	}
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("--clickhouse-tls-cert: %w", err)
		}
		return &pair, nil
	}
	return nil
}
