package ingest

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/groupcommit"
	"github.com/sendhouse/sendhouse/ingest/internal/ingesttest"
	"github.com/sendhouse/sendhouse/ingest/request"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// dial opens a connection to the API without a deadline.
func (b *bundle) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", b.service.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(testTimeout)))
	return c
}

// TestTooManyConnections: connections above the limit receive 503, and those below it are not affected.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, config: func(c *Config) { c.ConnectionsMax = 10 }})
	b.sequence()
	var open []net.Conn
	for range 10 {
		open = append(open, b.dial(t))
	}
	require.Eventually(t, func() bool { return b.service.listener.Open() == 10 }, testTimeout, time.Millisecond)
	for range 3 {
		g := b.post(example)
		require.Equal(t, http.StatusServiceUnavailable, g.status, g.raw)
		requireShape(t, g)
		require.Equal(t, "overloaded", g.code())
		require.Contains(t, g.body["msg"], "connections")
	}
	_, err := io.WriteString(open[3], posted("/message/send", "application/json", example))
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(open[3]), nil)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusOK, res.StatusCode)

	for _, c := range open {
		require.NoError(t, c.Close())
	}
	require.Eventually(t, func() bool { return b.service.listener.Open() == 0 }, testTimeout, time.Millisecond)
	require.Equal(t, http.StatusOK, b.post(example).status)
}

// TestSlowClients: a client that sends a byte now and then is disconnected when the time for the whole request is up, and
// delays no other client.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	const headerTimeout, bodyTimeout = 300 * time.Millisecond, 600 * time.Millisecond
	b := setup(t, options{partitions: 1, config: func(c *Config) {
		c.HeaderReadTimeout, c.BodyReadTimeout, c.IdleTimeout = headerTimeout, bodyTimeout, bodyTimeout
	}})
	b.sequence()
	for _, row := range []struct {
		name, begin string
		answer      string // "": closed without a response
	}{
		{"nothing", "", ""},
		{"a header", "POST /message/send HTTP/1.1\r\nHost: x\r\nX: ", ""},
		{"a body", "POST /message/send HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n", `"code":"body_unreadable"`},
		{"chunks", "POST /message/send HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n", `"code":"body_unreadable"`},
		{"a bulk", "POST /message/sendbulk HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 100000\r\n\r\n", `"code":"body_unreadable"`},
		{"nothing after a response", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "ok"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := b.dial(t)
			_, err := io.WriteString(c, row.begin)
			require.NoError(t, err)
			if row.begin != "" && row.answer != "ok" {
				go func() { // ends when the server closes the connection, or the test does
					drip := time.NewTicker(headerTimeout / 10)
					defer drip.Stop()
					for range drip.C {
						if _, err := io.WriteString(c, " "); err != nil {
							return
						}
					}
				}()
			}
			answer, err := io.ReadAll(c)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it was not cut off")
			require.Contains(t, string(answer), row.answer)
			if row.answer == "" {
				require.Empty(t, answer)
			}
		})
	}
	require.Equal(t, http.StatusOK, b.post(example).status, "meanwhile")
}

// TestClientThatDoesNotRead: a client that keeps sending requests and reads no response is disconnected when the write
// timeout is up.
func TestClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, config: func(c *Config) {
		c.HeaderReadTimeout, c.BodyReadTimeout, c.AckTimeout, c.AnswerTimeout = 100*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond
		c.WriteTimeout = 500 * time.Millisecond
	}})
	b.sequence()
	c := b.dial(t)
	asked := make(chan error, 1)
	go func() { // ends when the connection does
		requests := strings.Repeat("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 1000)
		for {
			if _, err := io.WriteString(c, requests); err != nil {
				asked <- err
				return
			}
		}
	}()
	require.NotErrorIs(t, receive(t, asked), os.ErrDeadlineExceeded, "it was not cut off")
	require.Equal(t, http.StatusOK, b.post(example).status, "meanwhile")
	b.client.CloseIdleConnections()
	require.Eventually(t, func() bool { return b.service.listener.Open() == 0 }, testTimeout, time.Millisecond)
}

// TestLogsHoldNoSecrets: whatever fails, and however much is logged, payloads and tokens are not.
func TestLogsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	const secret = "Tr0ub4dor"
	encoded := base64.StdEncoding.EncodeToString([]byte(secret + secret + secret))
	var log syncBuffer
	ca := ingesttest.NewAuthority(t, "ca")
	files := ingesttest.NewTLSFiles(t)
	cert, key := ca.Sign("sendhouse")
	files.Write(t, cert, key)
	path := tokenFile(t, tokenLine("send", secret+"-token"))
	debug := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	body := fmt.Sprintf(`{"from_uid":"u","channel_id":"g","channel_type":2,"client_msg_no":"%s-no","payload":"%s"}`, secret, encoded)
	post := func(b *bundle, token, body string) got {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/message/send?access_token="+secret, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		g, err := b.do(req)
		require.NoError(t, err)
		return g
	}

	b := setup(t, options{partitions: 1, log: debug, config: func(c *Config) { c.Access.APITokensFile, c.PayloadRules = path, request.PayloadRulesWarn }})
	sequencers := b.sequence()
	require.Equal(t, http.StatusOK, post(b, secret+"-token", body).status)
	require.Equal(t, http.StatusConflict, post(b, secret+"-token", strings.Replace(body, `"u"`, `"u","tag_key":"`+secret+`"`, 1)).status)
	require.Equal(t, http.StatusUnauthorized, post(b, secret+"-guess", body).status)
	require.Equal(t, http.StatusBadRequest, post(b, secret+"-token", body[:len(body)-5]).status)
	require.Equal(t, http.StatusBadRequest, post(b, secret+"-token", strings.Replace(body, `:2`, `:"`+secret+`"`, 1)).status)
	for _, raw := range []string{secret + "\r\n\r\n", "GET /" + secret + "\x00 HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: " + secret + "\x01\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " + secret + "\r\n\r\n"} {
		c := b.dial(t)
		_, err := io.WriteString(c, raw)
		require.NoError(t, err)
		answer, err := io.ReadAll(c)
		require.NoError(t, err)
		require.NotContains(t, string(answer), secret, "nor is it given back")
	}
	require.NoError(t, os.WriteFile(path, []byte("send "+secret+"\n"), 0o600))
	testkit.WaitFor(t, testTimeout, "the broken file to be reported", func(context.Context) error {
		if !strings.Contains(log.String(), "cannot reload files") {
			return errors.New("it is not")
		}
		return nil
	})
	sequencers[0].b.server.Shutdown() // requests that fail after access was granted
	require.Eventually(t, func() bool { return errors.Is(b.service.Check(), groupcommit.ErrDisconnected) }, testTimeout, time.Millisecond)
	require.Equal(t, http.StatusServiceUnavailable, post(b, secret+"-token", body).status)

	secure := setup(t, options{partitions: 1, noStreams: true, log: debug, config: func(c *Config) { c.Access.TLSCertFile, c.Access.TLSKeyFile = files.Cert, files.Key }})
	require.Equal(t, http.StatusBadRequest, post(secure, secret, body).status)

	require.Contains(t, log.String(), "level=DEBUG")
	for _, word := range []string{secret, encoded, string(key)} {
		require.NotContains(t, log.String(), word)
	}
}

// TestFirstSendWaits: the first send of a connection, and one sent before the previous one is answered, wait for their
// answers as long as any other, though the client had less time for its header.
func TestFirstSendWaits(t *testing.T) {
	t.Parallel()
	b := setup(t, options{config: func(c *Config) {
		c.HeaderReadTimeout, c.AckTimeout, c.AnswerTimeout = 200*time.Millisecond, time.Second, time.Second
	}}) // no sequencer answers
	c := b.dial(t)
	in := bufio.NewReader(c)
	for n := range 2 {
		_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", pathSend, len(example), example)
		require.NoError(t, err, n)
	}
	for range 2 {
		res, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		raw, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode, "%s", raw)
		require.Contains(t, string(raw), "no_answer")
	}
}
