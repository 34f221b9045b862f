package access

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	certificateBytesMax = 1 << 20 // of each file
)

// certificates holds the TLS configuration, which follows changes of the files. An established connection keeps the
// configuration of its handshake.
type certificates struct {
	*follower
	current atomic.Pointer[tls.Config]
}

// openCertificates reads the files for the first time. Without a clientCA clients need no certificate.
func openCertificates(cert, key, clientCA string, log *slog.Logger) (*certificates, error) {
	c := &certificates{}
	c.follower = &follower{
		what: "the API's certificate", paths: []string{cert, key}, bytesMax: certificateBytesMax, poll: followPollDefault, log: log,
		take: c.take,
	}
	if clientCA != "" {
		c.paths = append(c.paths, clientCA)
	}
	if err := c.open(); err != nil {
		return nil, fmt.Errorf("api-tls-cert-file: %w", err)
	}
	return c, nil
}

// take applies a certificate, its key and, if configured, the authorities of clients.
func (c *certificates) take(files [][]byte) error {
	pair, err := tls.X509KeyPair(files[0], files[1])
	if err != nil { // the error contains no secrets
		return fmt.Errorf("certificate %s and key %s: %w", c.paths[0], c.paths[1], err)
	}
	cfg := baseTLS()
	cfg.Certificates = []tls.Certificate{pair}
	if len(files) > 2 {
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(files[2]) {
			return fmt.Errorf("client authorities %s: holds no certificate in PEM", c.paths[2])
		}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
		// A resumed session would carry a certificate that was checked against the previous authorities.
		cfg.SessionTicketsDisabled = true
	}
	c.current.Store(cfg)
	return nil
}

// baseTLS returns the configuration common to all connections. HTTP/2 is not offered: bulks have its main benefit, many
// requests on one connection, and a proxy in front may offer it.
func baseTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
}

// config returns a configuration that uses, for each handshake, what is in force at that time.
func (c *certificates) config() *tls.Config {
	cfg := baseTLS()
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load(), nil }
	return cfg
}

// expiry returns when the certificate in force expires.
func (c *certificates) expiry() time.Time { return c.current.Load().Certificates[0].Leaf.NotAfter }
