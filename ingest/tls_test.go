package ingest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// authority signs certificates for a test.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{t: t}
	a.key = newKey(t)
	template := certificateTemplate(name)
	template.IsCA, template.KeyUsage, template.BasicConstraintsValid = true, x509.KeyUsageCertSign, true
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func certificateTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// sign makes a certificate and its key, in PEM.
func (a *authority) sign(name string) (cert, key []byte) {
	a.t.Helper()
	private := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, certificateTemplate(name), a.cert, private.Public(), a.key)
	require.NoError(a.t, err)
	encoded, err := x509.MarshalECPrivateKey(private)
	require.NoError(a.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded})
}

// tlsFiles are the three files in a folder of the test.
type tlsFiles struct{ cert, key, clientCA string }

func newTLSFiles(t testing.TB) tlsFiles {
	t.Helper()
	dir := t.TempDir()
	return tlsFiles{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")}
}

func (f tlsFiles) write(t testing.TB, cert, key []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(f.cert, cert, 0o600))
	require.NoError(t, os.WriteFile(f.key, key, 0o600))
}

// secureClient trusts an authority, and shows a certificate if it is given one. It makes a connection
// for each request.
func secureClient(t testing.TB, ca *authority, pair ...[]byte) *http.Client {
	t.Helper()
	cfg := &tls.Config{RootCAs: x509.NewCertPool()}
	cfg.RootCAs.AddCert(ca.cert)
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

// TestTLS: the certificate is changed while the API serves, a broken one changes nothing.
func TestTLS(t *testing.T) {
	t.Parallel()
	old, renewed := newAuthority(t, "old"), newAuthority(t, "new")
	files := newTLSFiles(t)
	cert, key := old.sign("sendhouse")
	files.write(t, cert, key)
	b := setup(t, options{partitions: 1, config: func(c *Config) { c.TLSCertFile, c.TLSKeyFile = files.cert, files.key }})
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

	cert, key = renewed.sign("sendhouse")
	files.write(t, cert, key)
	require.Eventually(t, func() bool { _, err := b.secure(secureClient(t, renewed)); return err == nil }, testTimeout, 10*time.Millisecond)
	_, err = b.secure(secureClient(t, old))
	require.ErrorAs(t, err, new(x509.UnknownAuthorityError))
	g, err = b.secure(stays)
	require.NoError(t, err, "a connection keeps what it was made with")
	require.Equal(t, http.StatusOK, g.status)

	// Plain HTTP to the same port is told so, in the error shape.
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
	ca := newAuthority(t, "ca")
	files := newTLSFiles(t)
	cert, key := ca.sign("sendhouse")
	files.write(t, cert, key)
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) { c.TLSCertFile, c.TLSKeyFile = files.cert, files.key }})
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

// TestSlowHandshake: a client that does not go on with its handshake is cut off.
func TestSlowHandshake(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	files := newTLSFiles(t)
	cert, key := ca.sign("sendhouse")
	files.write(t, cert, key)
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
		c.TLSCertFile, c.TLSKeyFile, c.HeaderReadTimeout = files.cert, files.key, 100*time.Millisecond
	}})
	c, err := net.Dial("tcp", b.service.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(testTimeout)))
	_, err = io.WriteString(c, "\x16\x03\x01")
	require.NoError(t, err)
	_, err = io.ReadAll(c)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Eventually(t, func() bool { return b.service.connections.Load() == 0 }, testTimeout, time.Millisecond)
}

// TestClientCertificates: who shows none, or one that nobody known has signed, is not let in; and which
// authorities are known is seen anew.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	server, clients, others := newAuthority(t, "server"), newAuthority(t, "clients"), newAuthority(t, "others")
	files := newTLSFiles(t)
	cert, key := server.sign("sendhouse")
	files.write(t, cert, key)
	require.NoError(t, os.WriteFile(files.clientCA, clients.pem, 0o600))
	b := setup(t, options{partitions: 1, config: func(c *Config) {
		c.TLSCertFile, c.TLSKeyFile, c.TLSClientCAFile = files.cert, files.key, files.clientCA
	}})
	b.sequence()

	cert, key = clients.sign("chat")
	known := secureClient(t, server, cert, key)
	g, err := b.secure(known)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, g.status, g.raw)
	_, err = b.secure(secureClient(t, server))
	require.Error(t, err, "none")
	cert, key = others.sign("chat")
	stranger := secureClient(t, server, cert, key)
	_, err = b.secure(stranger)
	require.Error(t, err, "an unknown one")

	require.NoError(t, os.WriteFile(files.clientCA, others.pem, 0o600))
	require.Eventually(t, func() bool { _, err := b.secure(stranger); return err == nil }, testTimeout, 10*time.Millisecond)
	_, err = b.secure(known)
	require.Error(t, err, "no longer known")
}

func TestCertificateFiles(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	cert, key := ca.sign("one")
	_, otherKey := ca.sign("two")
	files := newTLSFiles(t)
	for _, row := range []struct {
		name      string
		cert, key []byte
		clientCA  []byte
		says      string
	}{
		{"no certificate", nil, key, nil, "cert.pem"},
		{"no key", cert, nil, nil, "key.pem"},
		{"the key of another", cert, otherKey, nil, "does not match"},
		{"the wrong way round", key, cert, nil, "switched"},
		{"no authority", cert, key, []byte("x"), "ca.pem: holds no certificate"},
		{"too large", cert, bytes.Repeat(key, 1<<20/len(key)+1), nil, "larger than 1MiB"},
	} {
		files.write(t, row.cert, row.key)
		clientCA := ""
		if row.clientCA != nil {
			clientCA = files.clientCA
			require.NoError(t, os.WriteFile(clientCA, row.clientCA, 0o600))
		}
		_, err := openCertificates(files.cert, files.key, clientCA, logger(t))
		require.ErrorContains(t, err, row.says, row.name)
		require.NotContains(t, err.Error(), strings.TrimSpace(string(key)))
	}
	cfg := defaultConfig(t)
	cfg.TLSCertFile = files.cert
	require.ErrorContains(t, cfg.validate(), "give both or none")
	cfg.TLSCertFile, cfg.TLSClientCAFile = "", files.clientCA
	require.ErrorContains(t, cfg.validate(), "api-tls-client-ca-file")
	cfg = defaultConfig(t)
	cfg.TLSCertFile, cfg.TLSKeyFile = "nowhere", "nowhere"
	_, err := New(cfg, Deps{Logger: logger(t), Registerer: prometheus.NewRegistry()})
	require.ErrorContains(t, err, "api-tls")
}

// TestBrokenCertificateChangesNothing: a certificate without its key, as it is while files are replaced.
func TestBrokenCertificateChangesNothing(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	files := newTLSFiles(t)
	first, firstKey := ca.sign("first")
	second, secondKey := ca.sign("second")
	files.write(t, first, firstKey)
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
		c, err := openCertificates(files.cert, files.key, "", slog.New(slog.NewTextHandler(&log, nil)))
		require.NoError(t, err)
		stop := c.watch()
		defer stop()
		name := func() string {
			time.Sleep(2*c.poll + time.Millisecond) //nolint:forbidigo // of the bubble's clock
			synctest.Wait()
			leaf, err := x509.ParseCertificate(c.current.Load().Certificates[0].Certificate[0])
			require.NoError(t, err)
			return leaf.Subject.CommonName
		}
		require.Equal(t, "first", name())
		require.NoError(t, os.WriteFile(files.cert, second, 0o600))
		require.Equal(t, "first", name(), "its key is not there yet")
		require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"))
		require.NoError(t, os.WriteFile(files.key, secondKey, 0o600))
		require.Equal(t, "second", name())
		require.NotContains(t, log.String(), "PRIVATE KEY")
	})
}
