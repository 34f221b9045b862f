// Package ingesttest has what the tests of ingest and its packages share: bodies, files of tokens and certificates, and a
// scripted write-ahead log.
package ingesttest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// With returns a valid body followed by more fields; for a duplicate key the last value counts.
func With(more string) string {
	const valid = `{"from_uid":"alice","channel_id":"g1","channel_type":2,"payload":"aGk="`
	if more == "" {
		return valid + "}"
	}
	return valid + "," + more + "}"
}

// Quoted is a string as JSON.
func Quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// BenchBody is the body of the i-th send of a benchmark: as large as those of a usual load script, with a key of its own.
func BenchBody(i int) string {
	return fmt.Sprintf(`{"header":{"no_persist":0,"red_dot":1,"sync_once":0},"client_msg_no":"b-%d","from_uid":"u%d","channel_id":"c%d","channel_type":1,"expire":0,"payload":"eyJ0eXBlIjoxLCJjb250ZW50IjoiSGVsbG8gV29ybGQsIHRoaXMgaXMgYSB0ZXN0IG1lc3NhZ2UgZm9yIGJlbmNoIn0="}`, i, i%97, i%10000)
}

// Example is the body of the seed page's first example.
const Example = `{
    "header": {
      "no_persist": 0,
      "red_dot": 1,
      "sync_once": 0
    },
    "client_msg_no": "client_msg_123",
    "from_uid": "user123",
    "channel_id": "group123",
    "channel_type": 2,
    "expire": 0,
    "payload": "SGVsbG8gV29ybGQ=",
    "tag_key": "important"
  }`

// TokenLine returns the line of a token, as made with `printf %s TOKEN | sha256sum`.
func TokenLine(scopes, text string) string {
	return fmt.Sprintf("%s sha256:%x\n", scopes, sha256.Sum256([]byte(text)))
}

// TokenFile writes a file of tokens and returns its path.
func TokenFile(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// Authority signs certificates for a test.
type Authority struct {
	t    testing.TB
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
	PEM  []byte
}

// NewAuthority returns a new authority.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	a := &Authority{t: t}
	a.key = newKey(t)
	template := certificateTemplate(name)
	template.IsCA, template.KeyUsage, template.BasicConstraintsValid = true, x509.KeyUsageCertSign, true
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	require.NoError(t, err)
	a.Cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
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

// Sign returns a certificate and its key, in PEM.
func (a *Authority) Sign(name string) (cert, key []byte) {
	a.t.Helper()
	private := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, certificateTemplate(name), a.Cert, private.Public(), a.key)
	require.NoError(a.t, err)
	encoded, err := x509.MarshalECPrivateKey(private)
	require.NoError(a.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded})
}

// TLSFiles are the paths of the three files, in a directory of the test.
type TLSFiles struct{ Cert, Key, ClientCA string }

// NewTLSFiles returns the paths.
func NewTLSFiles(t testing.TB) TLSFiles {
	t.Helper()
	dir := t.TempDir()
	return TLSFiles{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")}
}

// Write writes a certificate and its key to their files.
func (f TLSFiles) Write(t testing.TB, cert, key []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(f.Cert, cert, 0o600))
	require.NoError(t, os.WriteFile(f.Key, key, 0o600))
}

// Log is a buffer for log output that is safe for concurrent use.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *Log) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns what was written.
func (b *Log) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
