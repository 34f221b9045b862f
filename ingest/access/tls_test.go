package access

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/internal/ingesttest"
)

func TestCertificateFiles(t *testing.T) {
	t.Parallel()
	ca := ingesttest.NewAuthority(t, "ca")
	cert, key := ca.Sign("one")
	_, otherKey := ca.Sign("two")
	files := ingesttest.NewTLSFiles(t)
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
		files.Write(t, row.cert, row.key)
		clientCA := ""
		if row.clientCA != nil {
			clientCA = files.ClientCA
			require.NoError(t, os.WriteFile(clientCA, row.clientCA, 0o600))
		}
		_, err := openCertificates(files.Cert, files.Key, clientCA, slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, row.says, row.name)
		require.NotContains(t, err.Error(), strings.TrimSpace(string(key)))
	}
}

// TestBrokenCertificateChangesNothing: a certificate that does not match its key, as happens while files are being
// replaced.
func TestBrokenCertificateChangesNothing(t *testing.T) {
	t.Parallel()
	ca := ingesttest.NewAuthority(t, "ca")
	files := ingesttest.NewTLSFiles(t)
	first, firstKey := ca.Sign("first")
	second, secondKey := ca.Sign("second")
	files.Write(t, first, firstKey)
	synctest.Test(t, func(t *testing.T) {
		var log ingesttest.Log
		c, err := openCertificates(files.Cert, files.Key, "", slog.New(slog.NewTextHandler(&log, nil)))
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
		require.NoError(t, os.WriteFile(files.Cert, second, 0o600))
		require.Equal(t, "first", name(), "its key is not there yet")
		require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"))
		require.NoError(t, os.WriteFile(files.Key, secondKey, 0o600))
		require.Equal(t, "second", name())
		require.NotContains(t, log.String(), "PRIVATE KEY")
	})
}
