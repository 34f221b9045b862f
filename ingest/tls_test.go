package ingest

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/internal/ingesttest"
	"github.com/sendhouse/sendhouse/pkg/guard"
)

// secureClient trusts an authority, and presents a certificate if it has one. It opens a connection for each request.
func secureClient(t testing.TB, ca *ingesttest.Authority, pair ...[]byte) *http.Client {
	t.Helper()
	cfg := &tls.Config{RootCAs: x509.NewCertPool()}
	cfg.RootCAs.AddCert(ca.Cert)
	if len(pair) == 2 {
		own, err := tls.X509KeyPair(pair[0], pair[1])
		require.NoError(t, err)
		cfg.Certificates = []tls.Certificate{own}
	}
	return &http.Client{Timeout: testTimeout, Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
}

func (b *bundle) secure(client *http.Client) (got, error) {
	req, err := http.NewRequest(http.MethodPost, strings.Replace(b.url, "http:", "https:", 1)+"/message/send", strings.NewReader(example))
	if err != nil {
		return got{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	other := *b
	other.client = client
	return other.do(req)
}

// TestTLS: the certificate is replaced while the API serves; a broken one changes nothing.
func TestTLS(t *testing.T) {
	t.Parallel()
	old, renewed := ingesttest.NewAuthority(t, "old"), ingesttest.NewAuthority(t, "new")
	files := ingesttest.NewTLSFiles(t)
	cert, key := old.Sign("sendhouse")
	files.Write(t, cert, key)
	b := setup(t, options{partitions: 1, config: func(c *Config) { c.Access.TLSCertFile, c.Access.TLSKeyFile = files.Cert, files.Key }})
	b.sequence()

	g, err := b.secure(secureClient(t, old))
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, g.status, g.raw)
	_, err = b.secure(secureClient(t, renewed))
	require.ErrorAs(t, err, new(x509.UnknownAuthorityError))

	stays := &http.Client{Timeout: testTimeout, Transport: &http.Transport{TLSClientConfig: secureClient(t, old).Transport.(*http.Transport).TLSClientConfig}}
	defer stays.CloseIdleConnections()
	_, err = b.secure(stays)
	require.NoError(t, err)

	cert, key = renewed.Sign("sendhouse")
	files.Write(t, cert, key)
	require.Eventually(t, func() bool { _, err := b.secure(secureClient(t, renewed)); return err == nil }, testTimeout, 10*time.Millisecond)
	_, err = b.secure(secureClient(t, old))
	require.ErrorAs(t, err, new(x509.UnknownAuthorityError))
	g, err = b.secure(stays)
	require.NoError(t, err, "a connection keeps what it was made with")
	require.Equal(t, http.StatusOK, g.status)

	// Plain HTTP to the same port receives an error in the error shape.
	g, err = b.try(example)
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, g.status)
	requireShape(t, g)
	require.Contains(t, g.body["msg"], "HTTPS")
	require.Positive(t, b.metric("sendhouse_ingest_tls_handshakes_failed_total", ""))
	require.InDelta(t, time.Now().Add(time.Hour).Unix(), b.metric("sendhouse_ingest_tls_certificate_expiry_timestamp_seconds", ""), 1800)
}

// TestTLSOwnAnswers: net/http's own answers have the error shape over TLS too.
func TestTLSOwnAnswers(t *testing.T) {
	t.Parallel()
	ca := ingesttest.NewAuthority(t, "ca")
	files := ingesttest.NewTLSFiles(t)
	cert, key := ca.Sign("sendhouse")
	files.Write(t, cert, key)
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) { c.Access.TLSCertFile, c.Access.TLSKeyFile = files.Cert, files.Key }})
	c, err := tls.Dial("tcp", b.service.Addr().String(), secureClient(t, ca).Transport.(*http.Transport).TLSClientConfig)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, uint16(tls.VersionTLS13), c.ConnectionState().Version)
	require.NoError(t, c.SetDeadline(time.Now().Add(testTimeout)))
	_, err = io.WriteString(c, "nonsense\r\n\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Contains(t, string(answer), "HTTP/1.1 400 Bad Request\r\n")
	require.Contains(t, string(answer), `"code":"malformed_request"`)

	old, err := tls.Dial("tcp", b.service.Addr().String(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11})
	if err == nil {
		_ = old.Close()
	}
	require.Error(t, err)
}

// TestSlowHandshake: a client that does not continue its handshake is disconnected.
func TestSlowHandshake(t *testing.T) {
	t.Parallel()
	ca := ingesttest.NewAuthority(t, "ca")
	files := ingesttest.NewTLSFiles(t)
	cert, key := ca.Sign("sendhouse")
	files.Write(t, cert, key)
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
		c.Access.TLSCertFile, c.Access.TLSKeyFile, c.HeaderReadTimeout = files.Cert, files.Key, 100*time.Millisecond
	}})
	c, err := net.Dial("tcp", b.service.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(testTimeout)))
	_, err = io.WriteString(c, "\x16\x03\x01")
	require.NoError(t, err)
	_, err = io.ReadAll(c)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Eventually(t, func() bool { return b.service.listener.Open() == 0 }, testTimeout, time.Millisecond)
}

// TestClientCertificates: a client without a certificate, or with one of an unknown authority, is refused; and a change of
// the authorities takes effect.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	server, clients, others := ingesttest.NewAuthority(t, "server"), ingesttest.NewAuthority(t, "clients"), ingesttest.NewAuthority(t, "others")
	files := ingesttest.NewTLSFiles(t)
	cert, key := server.Sign("sendhouse")
	files.Write(t, cert, key)
	require.NoError(t, os.WriteFile(files.ClientCA, clients.PEM, 0o600))
	b := setup(t, options{partitions: 1, config: func(c *Config) {
		c.Access.TLSCertFile, c.Access.TLSKeyFile, c.Access.TLSClientCAFile = files.Cert, files.Key, files.ClientCA
	}})
	b.sequence()

	cert, key = clients.Sign("chat")
	known := secureClient(t, server, cert, key)
	g, err := b.secure(known)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, g.status, g.raw)
	_, err = b.secure(secureClient(t, server))
	require.Error(t, err, "none")
	cert, key = others.Sign("chat")
	stranger := secureClient(t, server, cert, key)
	_, err = b.secure(stranger)
	require.Error(t, err, "an unknown one")

	require.NoError(t, os.WriteFile(files.ClientCA, others.PEM, 0o600))
	require.Eventually(t, func() bool { _, err := b.secure(stranger); return err == nil }, testTimeout, 10*time.Millisecond)
	_, err = b.secure(known)
	require.Error(t, err, "no longer known")
}

func TestCertificateSettings(t *testing.T) {
	t.Parallel()
	files := ingesttest.NewTLSFiles(t)
	cfg := defaultConfig(t)
	cfg.Access.TLSCertFile = files.Cert
	require.ErrorContains(t, cfg.Check(guard.Hosts{}), "give both or none")
	cfg.Access.TLSCertFile, cfg.Access.TLSClientCAFile = "", files.ClientCA
	require.ErrorContains(t, cfg.Check(guard.Hosts{}), "api-tls-client-ca-file")
	cfg = defaultConfig(t)
	cfg.Access.TLSCertFile, cfg.Access.TLSKeyFile = "nowhere", "nowhere"
	_, err := New(cfg, Deps{Logger: logger(t), Registerer: prometheus.NewRegistry()})
	require.ErrorContains(t, err, "api-tls")
}
