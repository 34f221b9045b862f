package fastpath

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/guard"
)

// TestSameAsNetHTTP sends the same to the fast path and to net/http alone, and expects the same responses. Plain requests
// must be served by the fast path, all others by net/http.
func TestSameAsNetHTTP(t *testing.T) {
	t.Parallel()
	guarded := guard.Protect(newGuard(t).Check, http.HandlerFunc(echo)).ServeHTTP
	reference, front := serveReference(t, guarded), setup(t, guarded, nil)
	large := strings.Repeat("x", 300_000)
	for _, row := range []struct { //nolint:paralleltest // counts what was answered where
		name    string
		pieces  []string
		answers int
		here    int // responses from the fast path
	}{
		{"one", []string{post("{}")}, 1, 1},
		{"two", []string{post("{}"), post("[1]")}, 2, 2},
		{"three in one packet", []string{post("a") + post("bb") + post("ccc")}, 3, 3},
		{"a body in pieces", []string{post("")[:0] + "POST " + path + " HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nab", "cd", "ef" + post("g")}, 2, 2},
		{"a large body", []string{post(large), post("g")}, 2, 2},
		{"fields", []string{post("{}", "content-TYPE: application/json", "X-a:b", "X-A:   c  ", "Empty:", "Connection: Keep-Alive", "Authorization: Bearer x")}, 1, 1},
		{"statuses", []string{post("{}", "X-Answer: status"), post("{}", "X-Answer: bodiless"), post("{}", "X-Answer: none"), post("{}", "X-Answer: large")}, 4, 4},
		{"nothing read", []string{post("{}", "X-Read: nothing"), post(large[:1000], "X-Read: nothing"), post("{}")}, 3, 3},
		{"half read", []string{post(large[:100_000], "X-Read: half"), post("{}")}, 2, 2},
		{"too much left unread", []string{post(large, "X-Read: nothing"), post("{}")}, 1, 1},
		{"refused early", []string{post("{}"), post(large, "X-Read: nothing", "X-Answer: close"), post("{}")}, 2, 2},
		{"refused early, by net/http", []string{"POST " + path + "?a=b HTTP/1.1\r\nHost: h\r\nX-Read: nothing\r\nContent-Length: 300000\r\n\r\n" + large, post("{}")}, 1, 0},
		{"refused half read", []string{post(large+large, "X-Read: half"), post("{}")}, 1, 1},
		{"the handler closes", []string{post("{}", "X-Answer: close"), post("{}")}, 1, 1},
		{"the handler aborts", []string{post("{}"), post("{}", "X-Answer: abort")}, 1, 2},
		{"empty lines between", []string{post("{}") + "\r\n" + post("{}") + "\r\n\r\n", post("{}")}, 3, 3},
		{"too many empty lines", []string{post("{}") + "\r\n\r\n\r\n" + post("{}")}, 2, 1},
		{"another path, and back", []string{post("{}") + "GET /other?x=y HTTP/1.1\r\nHost: h\r\n\r\n" + post("{}")}, 3, 1},
		{"a slash at the end", []string{slashed("{}"), post("{}") + slashed("[1]", "X-A: b"), post("{}")}, 4, 4},
		{"two slashes at the end", []string{strings.Replace(post("a"), path, path+"//", 1)}, 1, 0},
		{"an escaped slash at the end", []string{strings.Replace(post("a"), path, path+"%2F", 1)}, 1, 0},
		{"a slash at the end and a query", []string{strings.Replace(post("a"), path, path+"/?a", 1)}, 1, 0},
		{"a query", []string{"POST " + path + "?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na"}, 1, 0},
		{"an absolute URI", []string{"POST http://h" + path + " HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na"}, 1, 0},
		{"HTTP/1.0", []string{"POST " + path + " HTTP/1.0\r\nHost: h\r\nContent-Length: 1\r\n\r\na"}, 1, 0},
		{"chunks", []string{"POST " + path + " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"}, 1, 0},
		{"chunks and a length", []string{post("{}") + "POST " + path + " HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"}, 2, 1},
		{"the client closes", []string{post("{}"), post("{}", "Connection: close"), post("{}")}, 2, 1},
		{"no body", []string{post("")}, 1, 0},
		{"no length", []string{post("{}") + "POST " + path + " HTTP/1.1\r\nHost: h\r\n\r\n"}, 2, 1},
		{"two lengths", []string{post("{}") + post("{}", "Content-Length: 2")}, 2, 1},
		{"two other lengths", []string{post("{}") + post("{}", "Content-Length: 3")}, 2, 1},
		{"a signed length", []string{post("{}") + "POST " + path + " HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\na"}, 2, 1},
		{"a length with a 0 before", []string{"POST " + path + " HTTP/1.1\r\nHost: h\r\nContent-Length: 01\r\n\r\na"}, 1, 0},
		{"no host", []string{post("{}") + "POST " + path + " HTTP/1.1\r\nContent-Length: 1\r\n\r\na"}, 2, 1},
		{"two hosts", []string{post("{}") + post("{}", "Host: i")}, 2, 1},
		{"an empty host", []string{"POST " + path + " HTTP/1.1\r\nHost:\r\nContent-Length: 1\r\n\r\na"}, 1, 0},
		{"a malformed host", []string{"POST " + path + " HTTP/1.1\r\nHost: a/b\r\nContent-Length: 1\r\n\r\na"}, 1, 0},
		{"a folded field", []string{post("{}") + post("{}", "X-A: b\r\n c")}, 2, 1},
		{"a space before the colon", []string{post("{}") + post("{}", "X-A : b")}, 2, 1},
		{"no colon", []string{post("{}") + post("{}", "X-A")}, 2, 1},
		{"no name", []string{post("{}") + post("{}", ": b")}, 2, 1},
		{"a line feed alone", []string{post("{}") + post("{}", "X-A: b\nX-C: d")}, 2, 1},
		{"a carriage return alone", []string{post("{}") + post("{}", "X-A: b\rX-C: d")}, 2, 1},
		{"a tab in a value", []string{post("{}", "X-A: b\tc")}, 1, 0},
		{"a control character", []string{post("{}") + post("{}", "X-A: b\x01c")}, 2, 1},
		{"beyond ASCII", []string{post("{}", "X-A: b\xffc")}, 1, 0},
		{"pragma", []string{post("{}", "Pragma: no-cache")}, 1, 0},
		{"a long head", []string{post("{}", "X-A: "+large[:2*headBytesMax])}, 1, 0},
		{"nonsense after a request", []string{post("{}") + "nonsense\r\n\r\n"}, 2, 1},
		{"a foreign host", []string{postTo("evil.example", "{}"), postTo("evil.example:5001", "{}"), postTo("h", "{}")}, 3, 3},
		{"hosts of this machine", []string{postTo("localhost", "{}"), postTo("127.0.0.1:5001", "{}"), postTo("[::1]:5001", "{}"), postTo("sub.localhost", "{}")}, 4, 4},
		{"odd hosts", []string{postTo("EVIL.example.", "{}"), postTo("LOCALHOST.", "{}"), postTo("[::1", "{}"), postTo("a:b:c.d", "{}"), postTo("1.2.3", "{}")}, 5, 5},
		{"another origin", []string{post("{}", "Origin: http://evil.example"), post("{}", "Origin: null"), post("{}", "Origin: http://h"), post("{}", "origin: https://page.example")}, 4, 4},
		{"another site", []string{post("{}", "Sec-Fetch-Site: cross-site"), post("{}", "sec-fetch-site: same-site"), post("{}", "Sec-Fetch-Site: same-origin"), post("{}", "Sec-Fetch-Site: none", "Origin: http://evil.example")}, 4, 4},
		{"sent twice", []string{post("{}", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"), post("{}", "Origin:", "Origin: http://evil.example"), post("{}", "Sec-Fetch-Site:", "Origin: http://evil.example")}, 3, 3},
		{"silence", nil, 0, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := front.here.Load()
			got := talk(t, front.addr, row.pieces, row.answers)
			require.Equal(t, talk(t, reference, row.pieces, row.answers), got)
			require.Equal(t, int64(row.here), front.here.Load()-before, "answered on the fast path")
		})
	}
}

// newGuard returns a guard with a known name and origin.
func newGuard(t testing.TB) *guard.Guard {
	t.Helper()
	g, err := guard.New(guard.Config{Hosts: guard.Hosts{AllowedHosts: []string{"known.example"}}, Origins: []string{"https://page.example"}})
	require.NoError(t, err)
	return g
}

// FuzzPlain: net/http parses what parse accepts into the same header, host and length, and the guard decides the same for
// both.
func FuzzPlain(f *testing.F) {
	for _, line := range []string{path + "/", path + "//", path + "/?", path + "%2F", path + "/."} {
		f.Add([]byte(strings.Replace(post("a"), path, line, 1)))
	}
	for _, fields := range [][]string{
		nil, {"content-type: application/json"}, {"X-a:b", "x-A:  c "}, {"Empty:"}, {"Connection: keep-alive"}, {"Connection: close"}, {"Pragma: no-cache"},
		{"Transfer-Encoding: chunked"}, {"Content-Length: 1"}, {"Host: b"}, {"X: a\tb"}, {"X : a"}, {": a"}, {"X"}, {"X: a\r\n b"}, {"X: a\nY: b"}, {"X: \xff"},
		{"Expect: 100-continue"}, {"Upgrade: h2c"}, {"Trailer: X"}, {"TE: trailers"}, {"Authorization: Basic x"}, {"X-Forwarded-For: 1.2.3.4, ::1"},
		{"Origin: http://evil.example"}, {"origin: https://page.example"}, {"ORIGIN: null"}, {"Origin:"}, {"Origin: http://h", "Origin: http://evil.example"}, {"Origin : http://h"},
		{"Sec-Fetch-Site: cross-site"}, {"sec-fetch-site: same-origin", "Origin: http://evil.example"}, {"Sec-Fetch-Site:", "Origin: http://evil.example"}, {"Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"},
	} {
		f.Add([]byte(post("a", fields...)))
	}
	for _, host := range []string{
		"evil.example", "known.example:5001", "KNOWN.example.", "localhost", "localhost.", "x.localhost:1", "127.0.0.1", "127.1", "[::1]:5001", "[::1", "::1", "a:b:c.d", "evil.example:", ":5001", ".", "a..b", "-", "[evil.example]",
		"evil.example\r\nX-Host: h", "evil.example ", " h",
	} {
		f.Add([]byte(postTo(host, "a")))
		f.Add([]byte(postTo(host, "a", "Origin: http://"+host)))
	}
	keeper := newGuard(f)
	var seen *http.Request
	handler := guard.Protect(func(r *http.Request) error {
		seen = r
		return keeper.Check(r)
	}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	of := linesOf(path)
	f.Fuzz(func(t *testing.T, raw []byte) {
		end := bytes.Index(raw, []byte("\r\n\r\n"))
		if end < 0 || end+4 > headBytesMax {
			return
		}
		raw = raw[:end+4]
		h := head{header: make(http.Header)}
		if !h.parse(string(raw), of) {
			return
		}
		seen = nil
		status := answerOfReference(t, handler, raw, h.length)
		require.NotNil(t, seen)
		wantStatus := http.StatusOK
		if keeper.Check(&http.Request{Method: http.MethodPost, Host: h.host, Header: h.header}) != nil {
			wantStatus = http.StatusForbidden
		}
		require.Equal(t, wantStatus, status, "%q", raw)
		require.Equal(t, http.MethodPost, seen.Method)
		want := path
		if h.slashed {
			want += "/"
		}
		require.Equal(t, want, seen.RequestURI)
		require.Equal(t, seen.Host, h.host)
		require.Equal(t, seen.ContentLength, h.length)
		require.Equal(t, seen.Header, h.header)
		require.Empty(t, seen.TransferEncoding)
	})
}

// answerOfReference returns the status of net/http's response to a head and a body of that length.
func answerOfReference(t *testing.T, handler http.Handler, raw []byte, length int64) (status int) {
	t.Helper()
	ours, theirs := net.Pipe()
	server := reference(handler.ServeHTTP)
	given := newGivenListener()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(given)
	}()
	given.give(theirs)
	_, err := ours.Write(raw)
	require.NoError(t, err)
	// The handler does not read the body, but net/http does, unless it is too long.
	go func() { _, _ = ours.Write(make([]byte, min(length, 2*unreadBytesMax))) }()
	res, err := http.ReadResponse(bufio.NewReader(ours), nil)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.NoError(t, ours.Close())
	require.NoError(t, server.Close())
	<-ended
	return res.StatusCode
}
