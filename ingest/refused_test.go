package ingest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRefusedWhileUploading: a client that writes all of its request before it reads, as most do, gets the answer to a large body, and
// the same one on the fast path, by net/http, and over TLS.
func TestRefusedWhileUploading(t *testing.T) {
	t.Parallel()
	tokens := tokenFile(t, tokenLine("send", "sender"))
	ca, files := newAuthority(t, "ca"), newTLSFiles(t)
	cert, key := ca.sign("sendhouse")
	files.write(t, cert, key)
	plain := setup(t, options{partitions: 1, config: func(c *Config) { c.APITokensFile = tokens }})
	secured := setup(t, options{partitions: 1, config: func(c *Config) {
		c.APITokensFile, c.TLSCertFile, c.TLSKeyFile = tokens, files.cert, files.key
	}})
	const authorization, asJSON = "Authorization: Bearer sender", "Content-Type: application/json"
	large, endless := bytes.Repeat([]byte("x"), 12<<20), strings.Repeat(fmt.Sprintf("%x\r\n%s\r\n", 1<<20, bytes.Repeat([]byte("x"), 1<<20)), 12)+"0\r\n\r\n"
	length := fmt.Sprintf("Content-Length: %d", len(large))
	for _, row := range []struct {
		name   string
		head   string // the request line without the protocol
		fields []string
		status int
	}{
		{"no token", "POST /message/send", []string{asJSON, length}, http.StatusUnauthorized},
		{"no token, by net/http", "POST /message/send?", []string{asJSON, length}, http.StatusUnauthorized},
		{"media type", "POST /message/send", []string{authorization, "Content-Type: text/plain", length}, http.StatusUnsupportedMediaType},
		{"too large", "POST /message/send", []string{authorization, asJSON, length}, http.StatusRequestEntityTooLarge},
		{"too large, by net/http", "POST /message/send?", []string{authorization, asJSON, length}, http.StatusRequestEntityTooLarge},
		{"too large, in chunks", "POST /message/send", []string{authorization, asJSON, "Transfer-Encoding: chunked"}, http.StatusRequestEntityTooLarge},
		{"bulk without token", "POST /message/sendbulk", []string{asJSON, length}, http.StatusUnauthorized},
		{"bulk of another type", "POST /message/sendbulk", []string{authorization, "Content-Type: text/plain", length}, http.StatusUnsupportedMediaType},
		{"no scope", "POST /user/systemuids_add", []string{authorization, asJSON, length}, http.StatusForbidden},
		{"no route", "POST /nothing", []string{authorization, asJSON, length}, http.StatusNotFound},
		{"no method", "PUT /message/send", []string{authorization, asJSON, length}, http.StatusMethodNotAllowed},
		{"net/http's own", "POST /message/send", []string{"Host: second", length}, http.StatusBadRequest},
		{"net/http's own, a long head", "POST /message/send", []string{"X: " + strings.Repeat("x", 64<<10), length}, http.StatusRequestHeaderFieldsTooLarge},
	} {
		for name, b := range map[string]*bundle{"plain": plain, "TLS": secured} {
			t.Run(row.name+" "+name, func(t *testing.T) {
				t.Parallel()
				var c net.Conn = b.dial(t)
				if b == secured {
					config := secureClient(t, ca).Transport.(*http.Transport).TLSClientConfig.Clone()
					config.ServerName = "127.0.0.1"
					c = tls.Client(c, config)
				}
				_, err := fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: h\r\n%s\r\n\r\n", row.head, strings.Join(row.fields, "\r\n"))
				require.NoError(t, err)
				body := string(large)
				if row.fields[len(row.fields)-1] != length {
					body = endless
				}
				_, err = io.WriteString(c, body)
				require.NoError(t, err, "all of it is taken")
				in := bufio.NewReader(c)
				res, err := http.ReadResponse(in, nil)
				require.NoError(t, err)
				require.True(t, res.Close)
				require.Equal(t, row.status, res.StatusCode)
				requireRefused(t, res, false)
				_, err = in.ReadByte()
				require.ErrorIs(t, err, io.EOF, "it is closed and not reset")
				require.NoError(t, c.Close())
			})
		}
	}
	t.Cleanup(func() {
		for _, b := range []*bundle{plain, secured} {
			require.Eventually(t, func() bool { return b.service.connections.Load() == 0 }, testTimeout, time.Millisecond, "nothing is left of them")
		}
	})
}

// TestLingeringEndsWithTheService: a client that sends and sends does not hold up the drain.
func TestLingeringEndsWithTheService(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	c := b.dial(t)
	_, err := io.WriteString(c, "POST /nothing HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000000\r\n\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
		}
	}()
	b.stop()
	err = receive(t, b.ended)
	b.ended <- err // for the clean-up
	require.NoError(t, err)
	<-refused
}
