package fastpath

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	testTimeout = 20 * time.Second
	path        = "/message/send"
)

// front is a server on the loopback interface that counts the requests of the fast path.
type front struct {
	*Server
	addr   string
	here   atomic.Int64 // requests answered on the fast path
	served chan error
}

// setup serves a handler with the fast path; change may alter the settings of net/http.
func setup(t *testing.T, handler http.HandlerFunc, change func(*http.Server)) *front {
	t.Helper()
	f := &front{served: make(chan error, 1)}
	rest := reference(func(w http.ResponseWriter, r *http.Request) {
		if _, here := w.(*response); here {
			f.here.Add(1)
		}
		handler(w, r)
	})
	if change != nil {
		change(rest)
	}
	f.Server = New(path, rest, slog.New(slog.DiscardHandler))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f.addr = l.Addr().String()
	go func() { f.served <- f.Serve(l) }()
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// reference is net/http as ingest sets it up.
func reference(handler http.HandlerFunc) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: testTimeout, ReadTimeout: testTimeout, WriteTimeout: testTimeout, IdleTimeout: testTimeout,
		DisableGeneralOptionsHandler: true, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
}

// serveReference serves a handler with net/http alone.
func serveReference(t *testing.T, handler http.HandlerFunc) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := reference(handler)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return l.Addr().String()
}

// echo answers with everything that a handler sees of a request. A header field of the request selects other kinds of
// response.
func echo(w http.ResponseWriter, r *http.Request) {
	seen := struct {
		Method, URI, Path, RawQuery, Host, Proto string
		Major, Minor                             int
		Length                                   int64
		Encoding                                 []string
		Header                                   http.Header
		Body, Failed                             string
	}{
		Method: r.Method, URI: r.RequestURI, Path: r.URL.Path, RawQuery: r.URL.RawQuery, Host: r.Host, Proto: r.Proto,
		Major: r.ProtoMajor, Minor: r.ProtoMinor, Length: r.ContentLength, Encoding: r.TransferEncoding, Header: r.Header,
	}
	switch r.Header.Get("X-Read") {
	case "nothing":
	case "half":
		_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
	default:
		raw, err := io.ReadAll(r.Body)
		seen.Body = fmt.Sprintf("%d bytes, %x", len(raw), sha256.Sum256(raw))
		if err != nil {
			seen.Failed = err.Error()
		}
	}
	switch r.Header.Get("X-Answer") {
	case "close":
		w.Header().Set("Connection", "close")
	case "status":
		w.Header().Set("X-One", "a\r\nb")
		w.Header()["X-Two"] = []string{"c", "d"}
		w.WriteHeader(http.StatusTeapot)
		w.WriteHeader(http.StatusOK)
	case "none":
		return
	case "bodiless":
		w.WriteHeader(http.StatusNoContent)
		return
	case "abort":
		panic(http.ErrAbortHandler)
	case "large":
		_, _ = w.Write(make([]byte, 3*responseBytesKept))
		return
	}
	raw, err := json.Marshal(seen)
	if err != nil {
		panic(err)
	}
	_, _ = w.Write(raw)
}

// said is what a server sent on a connection.
type said struct {
	answers []string // each: status, header without Date, and body
	end     string   // why there are no more
}

// talk writes pieces to a server, one packet each, and reads until the server closes the connection. It closes its writing
// side after the given number of responses, or after the last piece if no response is expected.
func talk(t *testing.T, addr string, pieces []string, answers int) (s said) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(testTimeout)))
	written := make(chan struct{})
	go func() {
		defer close(written)
		for _, piece := range pieces {
			_, _ = io.WriteString(c, piece) // the server may have closed the connection
		}
	}()
	in := bufio.NewReader(c)
	for {
		if len(s.answers) == answers {
			<-written
			_ = c.(*net.TCPConn).CloseWrite()
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			s.end = "closed"
			return s
		}
		raw, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		res.Header.Del("Date")
		if len(raw) > 2<<10 {
			res.Header.Del("Content-Length") // net/http sends it in chunks
		}
		s.answers = append(s.answers, fmt.Sprintf("%s %v %s close=%t", res.Status, res.Header, strings.TrimRight(string(raw), "\x00"), res.Close))
	}
}

func post(body string, fields ...string) string { return postTo("h", body, fields...) }

// slashed is post with a slash at the end of the path.
func slashed(body string, fields ...string) string {
	return strings.Replace(post(body, fields...), path, path+"/", 1)
}

func postTo(host, body string, fields ...string) string {
	head := "POST " + path + " HTTP/1.1\r\nHost: " + host + "\r\n"
	for _, field := range fields {
		head += field + "\r\n"
	}
	return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(body), body)
}
