package load

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func newTestClient(t testing.TB, url string, timeout time.Duration) *client {
	t.Helper()
	e, err := newEndpoint(url+"/base/", "/message/send", "application/json", "secret")
	require.NoError(t, err)
	c := newClient(e, timeout)
	t.Cleanup(c.close)
	return c
}

func TestClientSpeaksHTTP(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(err)
		}
		if r.URL.Path != "/base/message/send" || r.Header.Get("Authorization") != "Bearer secret" || r.Method != http.MethodPost {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		w.Header().Set("Retry-After", "7")
		w.Header().Set("idempotent-replayed", "true")
		if strings.HasPrefix(string(body), "close") {
			w.Header().Set("Connection", "close")
		}
		if strings.HasPrefix(string(body), "chunks") {
			for range 3 {
				_, _ = io.WriteString(w, strings.Repeat("x", 5000))
				_ = http.NewResponseController(w).Flush()
			}
			return
		}
		_, _ = w.Write(body)
	})
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c := newTestClient(t, server.URL, 5*time.Second)
	for i, body := range []string{"a", "", strings.Repeat("b", 100_000), "chunks", "close", "c"} {
		r, err := c.post(t.Context(), []byte(body))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, r.status)
		require.True(t, r.replayed)
		require.Equal(t, 7*time.Second, r.retryAfter)
		if body == "chunks" {
			body = strings.Repeat("x", 15_000)
		}
		require.Equal(t, body, string(r.body), "%d", i)
	}
	require.EqualValues(t, 2, c.dials, "one more after Connection: close")
}

// A server may close an idle connection at any moment; the request goes over a new one.
func TestClientConnectsAnew(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	t.Cleanup(server.Close)
	c := newTestClient(t, server.URL, 5*time.Second)
	for range 3 {
		r, err := c.post(t.Context(), []byte("x"))
		require.NoError(t, err)
		require.Equal(t, "ok", string(r.body))
		server.CloseClientConnections()
	}
	require.EqualValues(t, 3, c.dials)
}

func TestClientTimesOut(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	c := newTestClient(t, server.URL, 20*time.Millisecond)
	_, err := c.post(t.Context(), []byte("x"))
	require.ErrorContains(t, err, "timeout")
}

func TestClientRefusesWhatIsNoAnswer(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(1<<40) + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 100) + "\r\n",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = io.WriteString(conn, text)
			_ = conn.Close()
		}))
		c := newTestClient(t, server.URL, 5*time.Second)
		_, err := c.post(t.Context(), []byte("x"))
		require.ErrorIs(t, err, errBadAnswer, "%q", text)
		server.Close()
	}
}

func BenchmarkClient(b *testing.B) {
	answer := `{"message_id":383347413777121280,"message_idstr":"383347413777121280","message_seq":1,"client_msg_no":"bench-123"}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, answer)
	}))
	b.Cleanup(server.Close)
	body := fmt.Appendf(nil, `{"payload":%q}`, strings.Repeat("A", 136))
	b.Run("own", func(b *testing.B) {
		c := newTestClient(b, server.URL, 5*time.Second)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.post(b.Context(), body); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("net/http", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r, err := http.Post(server.URL+"/base/message/send", "application/json", strings.NewReader(string(body)))
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, r.Body)
			_ = r.Body.Close()
		}
	})
}
