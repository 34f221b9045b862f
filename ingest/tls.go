package ingest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/sendhouse/sendhouse/ingest/fastpath"
)

const (
	certificateBytesMax = 1 << 20 // of each file
	// plainAnswerTimeout is how long it may take to tell a client that it should speak TLS.
	plainAnswerTimeout = 500 * time.Millisecond
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

// tlsConn is a conn over TLS.
type tlsConn struct {
	conn
	tls *tls.Conn
}

// ConnectionState is where net/http asks what a connection is that is not its own kind of TLS,
// in the connection's goroutine and before it reads. So it is the place to shake hands under a
// time limit of its own. Where that fails, every later read says so.
func (c *tlsConn) ConnectionState() tls.ConnectionState {
	s := c.listener.service
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.HeaderReadTimeout)
	err := c.tls.HandshakeContext(ctx)
	cancel()
	if err == nil {
		return c.tls.ConnectionState()
	}
	s.metrics.handshakesFailed.Inc()
	s.log.Debug("a TLS handshake failed", "client", c.RemoteAddr().String(), "error", err)
	if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok && plain.Conn != nil && looksLikeHTTP(plain.RecordHeader) {
		answerPlain(plain.Conn)
	}
	return tls.ConnectionState{}
}

// looksLikeHTTP says whether the first bytes of a connection are those of a request in plain text.
func looksLikeHTTP(b [5]byte) bool {
	switch string(b[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "PATCH", "DELET":
		return true
	default:
		return false
	}
}

// answerPlain tells a client that speaks HTTP to speak HTTPS.
func answerPlain(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(plainAnswerTimeout))
	p := problem{outcome: outcomeMalformed, msg: "this is an HTTPS address: send the request with TLS"}
	if _, err := c.Write(p.response()); err == nil {
		fastpath.Linger(c)
	}
}
