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

// certificates is what TLS needs, followed while the files change. A connection that has been
// made keeps what it was made with.
type certificates struct {
	*follower
	current atomic.Pointer[tls.Config]
}

// openCertificates reads the files for the first time. Without a clientCA clients need no
// certificate.
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

// take puts a certificate, its key and perhaps the clients' authorities in force.
func (c *certificates) take(files [][]byte) error {
	pair, err := tls.X509KeyPair(files[0], files[1])
	if err != nil { // names no secrets
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
		// A resumed session would bring along a certificate that was checked against the
		// authorities of before.
		cfg.SessionTicketsDisabled = true
	}
	c.current.Store(cfg)
	return nil
}

// baseTLS is what holds for every connection. HTTP/2 is not spoken: what it gains, many requests
// on one connection, bulks have too, and a proxy in front may speak it.
func baseTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
}

// config asks for what is in force with each handshake.
func (c *certificates) config() *tls.Config {
	cfg := baseTLS()
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load(), nil }
	return cfg
}

// expiry is when the certificate that is in force expires.
func (c *certificates) expiry() time.Time { return c.current.Load().Certificates[0].Leaf.NotAfter }
