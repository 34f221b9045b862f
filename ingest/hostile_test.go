package ingest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestHostileInputs writes what should break a server to its port. Each is told what is wrong with it, in
// the error shape and with a status of the caller's fault; nobody else notices.
func TestHostileInputs(t *testing.T) { //nolint:paralleltest // counts all goroutines
	var log syncBuffer
	b := setup(t, options{log: slog.New(slog.NewTextHandler(&log, nil))})
	b.sequence()
	require.Equal(t, http.StatusOK, b.post(example).status)
	b.client.CloseIdleConnections()
	require.Eventually(t, func() bool { return b.service.connections.Load() == 0 }, testTimeout, time.Millisecond)
	door := []string{"net/http.(*", "ingest.(*listener)", "ingest.(*conn)", "ingest.(*tlsConn)", "fastpath.(*"}
	goroutines := goroutinesOf(door...)

	rows := hostileInputs()
	require.GreaterOrEqual(t, len(rows), 500)
	t.Logf("%d inputs", len(rows))
	for _, row := range rows { //nolint:paralleltest // see above
		t.Run(row.name, func(t *testing.T) { b.attack(t, row, false) })
		t.Run(row.name+", behind a send", func(t *testing.T) { b.attack(t, row, true) })
	}

	require.Equal(t, http.StatusOK, b.post(with(``)).status, "it serves as before")
	b.client.CloseIdleConnections()
	require.Eventually(t, func() bool { return b.service.connections.Load() == 0 }, testTimeout, time.Millisecond)
	require.Eventually(t, func() bool { return goroutinesOf(door...) <= goroutines }, testTimeout, time.Millisecond, "goroutines are left")
	require.NotContains(t, log.String(), "panic")
	require.Zero(t, b.metric("sendhouse_ingest_requests_total", `reason="internal"`))
	require.Equal(t, int64(b.service.cfg.BodiesBytesMax), b.service.requests.budget.left.Load(), "all memory was given back")
}

// goroutinesOf is how many goroutines have one of these words in their stack.
func goroutinesOf(words ...string) (n int) {
	for stack := range strings.SplitSeq(stacks(), "\n\n") {
		if slices.ContainsFunc(words, func(word string) bool { return strings.Contains(stack, word) }) {
			n++
		}
	}
	return n
}

// attack writes an input and checks every answer to it. Behind a send, it comes where the connection is on the fast path.
func (b *bundle) attack(t *testing.T, row hostileInput, behindSend bool) {
	t.Helper()
	c, err := net.Dial("tcp", b.service.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(testTimeout)))
	in := bufio.NewReader(c)
	if behindSend {
		_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", pathSend, len(example), example)
		require.NoError(t, err)
		res, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	written := make(chan struct{})
	go func() { // beside the reading: the answer may come before all is written
		defer close(written)
		_, _ = io.WriteString(c, row.raw) // the server may have heard enough
		if row.cut {
			_ = c.(*net.TCPConn).CloseWrite()
		}
	}()
	method, _, _ := strings.Cut(row.raw, " ")
	answers := 0
	for {
		res, err := http.ReadResponse(in, &http.Request{Method: method})
		if answers > 0 || row.cut {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
				break
			}
		}
		require.NoError(t, err)
		if res.StatusCode == http.StatusContinue {
			continue
		}
		answers++
		requireRefused(t, res, method == http.MethodHead)
		if answers == 1 && !row.cut {
			<-written
			_ = c.(*net.TCPConn).CloseWrite() // whatever else there is to say comes now
		}
	}
	<-written
	if row.alone {
		require.Equal(t, 1, answers)
	}
}

// requireRefused checks that an answer is 4xx and has the error shape.
func requireRefused(t *testing.T, res *http.Response, headOnly bool) {
	t.Helper()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	g := got{status: res.StatusCode, header: res.Header, raw: string(raw)}
	require.True(t, g.status >= 400 && g.status < 500, "%d %s", g.status, raw)
	if headOnly {
		require.Equal(t, "application/json", res.Header.Get("Content-Type"))
		return
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&g.body), "%s", raw)
	requireShape(t, g)
}

// TestServersOwnAnswers: where a request does not come as far as a handler, net/http answers by itself. Those
// answers have the error shape too, a case each.
func TestServersOwnAnswers(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	for _, row := range []struct {
		name, raw string
		status    int
		code, msg string
	}{
		{"a malformed request line", "nonsense\r\n\r\n", 400, "malformed_request", "the request is not valid HTTP/1.1"},
		{"a malformed header", "GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400, "malformed_request", "the request is not valid HTTP/1.1"},
		{"a header flood", "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 100_000) + "\r\n\r\n", 431, "header_too_large", "the header of the request is larger than is taken"},
		{"no host", "GET / HTTP/1.1\r\n\r\n", 400, "malformed_request", "missing required Host header"},
		{"a malformed host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "malformed_request", "malformed Host header"},
		{"a bad header value", "GET / HTTP/1.1\r\nHost: x\r\nX: a\x01b\r\n\r\n", 400, "malformed_request", "the request is not valid HTTP/1.1"},
		{"an unknown transfer encoding", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "malformed_request", "Transfer-Encoding may only be chunked"},
		{"a bad length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400, "malformed_request", "the request is not valid HTTP/1.1"},
		{"another version", "GET / HTTP/3.0\r\nHost: x\r\n\r\n", 400, "malformed_request", "unsupported protocol version"},
		{"an expectation", "POST /message/send HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: more\r\n\r\n{}", 417, "expectation_failed", "100-continue"},
		{"behind a good request", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n", 400, "malformed_request", "the request is not valid HTTP/1.1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", b.service.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, c.SetDeadline(time.Now().Add(testTimeout)))
			_, err = io.WriteString(c, row.raw)
			require.NoError(t, err)
			in := bufio.NewReader(c)
			res, err := http.ReadResponse(in, nil) //nolint:bodyclose // the connection is closed
			require.NoError(t, err)
			if res.StatusCode == http.StatusOK {
				_, err := io.Copy(io.Discard, res.Body)
				require.NoError(t, err)
				res, err = http.ReadResponse(in, nil) //nolint:bodyclose // see above
				require.NoError(t, err)
			}
			require.Equal(t, row.status, res.StatusCode)
			require.True(t, res.Close)
			raw, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			var body map[string]any
			require.NoError(t, json.Unmarshal(raw, &body), "%s", raw)
			require.Equal(t, row.code, body["code"])
			require.Contains(t, body["msg"], row.msg)
			_, err = in.ReadByte()
			require.ErrorIs(t, err, io.EOF, "and the connection ends")
		})
	}
}

// TestServersOwnIsNotMistaken: nothing that a handler writes is taken for an answer of net/http's own.
func TestServersOwnIsNotMistaken(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "HTTP/1.1 ", "HTTP/1.1 400", "HTTP/1.1 400 Bad Request\r\nDate: x" + serversOwnHeaders, "HTTP/1.1 200 OK" + serversOwnHeaders, "HTTP/1.1 4xx" + serversOwnHeaders,
		"HTTP/1.1 503 x\r\nX: y" + serversOwnHeaders, "{" + "HTTP/1.1 400 Bad Request" + serversOwnHeaders, "HTTP/1.1 400 Bad Request" + serversOwnHeaders + strings.Repeat("x", serversOwnBytesMax),
	} {
		_, own := serversOwn([]byte(text))
		require.False(t, own, "%q", text)
	}
}

func BenchmarkServersOwn(b *testing.B) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Tue, 24 Nov 2026 10:00:00 GMT\r\nContent-Length: 130\r\n\r\n" + strings.Repeat("x", 130))
	b.ReportAllocs()
	for b.Loop() {
		if _, own := serversOwn(answer); own {
			b.Fatal("mistaken")
		}
	}
}
