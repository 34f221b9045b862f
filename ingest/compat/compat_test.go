package compat

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/pkg/api"
)

// serve answers one request of a caller.
func serve(t testing.TB, method, path string, header http.Header, next http.HandlerFunc) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader("{}"))
	r.Header = header
	w := httptest.NewRecorder()
	Handler(next).ServeHTTP(w, r)
	return w
}

func writes(contentType string, pieces ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		for _, piece := range pieces {
			if n, err := io.WriteString(w, piece); n != len(piece) || err != nil {
				panic(fmt.Sprint(n, err))
			}
		}
	}
}

func TestRequestHeaders(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, method, path string
		given, want        http.Header
	}{
		{"no Content-Type", "POST", "/message/send", http.Header{}, http.Header{"Content-Type": {"application/json"}}},
		{"a form", "POST", "/message/send/", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, http.Header{"Content-Type": {"application/json"}}},
		{"text", "POST", "/channel", http.Header{"Content-Type": {"text/plain;charset=UTF-8"}}, http.Header{"Content-Type": {"application/json"}}},
		{"lines", "POST", "/message/sendbulk", http.Header{"Content-Type": {"application/x-ndjson"}}, http.Header{"Content-Type": {"application/x-ndjson"}}},
		{"a GET", "GET", "/channel/whitelist", http.Header{}, http.Header{}},
		{"a compressed body", "POST", "/channel", http.Header{"Content-Encoding": {"gzip"}}, http.Header{"Content-Encoding": {"gzip"}, "Content-Type": {"application/json"}}},
		{"the manager token", "GET", "/health", http.Header{"Token": {"x"}}, http.Header{"Token": {"x"}, "Authorization": {"Bearer x"}}},
		{"both tokens", "GET", "/health", http.Header{"Token": {"x"}, "Authorization": {"Bearer y"}}, http.Header{"Token": {"x"}, "Authorization": {"Bearer x"}}},
		{"an empty token", "GET", "/health", http.Header{"Token": {""}, "Authorization": {"Bearer y"}}, http.Header{"Token": {""}, "Authorization": {"Bearer y"}}},
		{"two manager tokens", "GET", "/health", http.Header{"Token": {"x", "y"}}, http.Header{"Token": {"x", "y"}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var got http.Header
			serve(t, row.method, row.path, row.given, func(_ http.ResponseWriter, r *http.Request) { got = r.Header })
			require.Equal(t, row.want, got)
		})
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	const sent = `"message_id":7,"message_idstr":"7","message_seq":1,"client_msg_no":"a\"}"`
	problem := func(w http.ResponseWriter, _ *http.Request) {
		api.Problem{Status: http.StatusForbidden, Code: "denylisted", Msg: `say "please"`, Field: "from_uid", Reason: 4, RetryAfter: 2}.Write(w)
	}
	for _, row := range []struct {
		name, path string
		next       http.HandlerFunc
		want       string
	}{
		{"a send", "/message/send", writes("application/json", "{"+sent+"}\n"), `{"status":200,"reason":1,` + sent + `,"data":{` + sent + "}}\n"},
		{"a send with a slash", "/message/send/", writes("application/json", "{"+sent+"}\n"), `{"status":200,"reason":1,` + sent + `,"data":{` + sent + "}}\n"},
		{"the answer to many sends", "/message/sendbulk", writes("application/json", "[{"+sent+"}]\n"), "[{" + sent + "}]\n"},
		{"another answer", "/channel", writes("application/json", `{"status":200}`), `{"status":200}`},
		{"no JSON", "/docs", writes("text/html; charset=utf-8", `<p>"from_uid":"____system"`), `<p>"from_uid":"____system"`},
		{"an answer that is no object", "/message/send", writes("application/json", "[]\n"), "[]\n"},
		{"an empty object", "/message/send", writes("application/json", "{}\n"), "{}\n"},
		{"an error", "/channel", problem, `{"status":403,"code":"denylisted","msg":"say \"please\"","field":"from_uid","reason":4,"error":"say \"please\""}` + "\n"},
		{"an error of a send", "/message/send", problem, `{"status":403,"code":"denylisted","msg":"say \"please\"","field":"from_uid","reason":4,"error":"say \"please\""}` + "\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, row.want, serve(t, http.MethodPost, row.path, http.Header{}, row.next).Body.String())
		})
	}
}

// TestOtherErrors: an error in another form is passed on as it is.
func TestOtherErrors(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "{}", "[1]", "no JSON", `{"status":400}`, `{"msg":"cut`} {
		w := serve(t, http.MethodPost, "/channel", http.Header{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, body) // to a recorder
		})
		require.Equal(t, http.StatusBadRequest, w.Code)
		require.Equal(t, body, w.Body.String())
	}
}

// TestSystemSender: messages of the system account have no sender, however the answer is divided into writes, and nothing
// else changes.
func TestSystemSender(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		type message struct {
			FromUID     string `json:"from_uid"`
			ClientMsgNo string `json:"client_msg_no"`
		}
		tricky := []string{permission.SystemUID, "", "u", `"from_uid":"____system"`, `\"from_uid\":\"____system\"`, `"from_uid":"`, `____system"`, `\`, `"`}
		messages := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) message {
			return message{rapid.SampledFrom(tricky).Draw(rt, "from"), rapid.SampledFrom(tricky).Draw(rt, "no")}
		}), 1, -1).Draw(rt, "messages")
		given := mustMarshal(rt, messages)
		want := append([]message{}, messages...)
		for i := range want {
			if want[i].FromUID == permission.SystemUID {
				want[i].FromUID = ""
			}
		}
		var pieces []string
		for rest := given; rest != ""; {
			n := rapid.IntRange(1, min(len(rest), 40)).Draw(rt, "bytes")
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		w := serve(t, http.MethodPost, "/channel/messagesync", http.Header{}, writes("application/json", pieces...))
		require.Equal(rt, mustMarshal(rt, want), w.Body.String())
	})
}

func mustMarshal(t require.TestingT, v any) string {
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

// TestCutAnswer: what was held back at the end of an answer is not lost, and does not reach the next one.
func TestCutAnswer(t *testing.T) {
	t.Parallel()
	const cut = `{"from_uid":"____sys`
	h := Handler(writes("application/json", cut))
	for range 3 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/messages", http.NoBody))
		require.Equal(t, cut, w.Body.String()) //nolint:testifylint // it is not whole, so no JSON
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	require.NoError(t, Check(Off))
	require.NoError(t, Check(WuKongIM))
	require.EqualError(t, Check("v2"), `api-compat "v2": must be off or wukongim`)
}

const sentBody = `{"message_id":383347413777121280,"message_idstr":"383347413777121280","message_seq":1,"client_msg_no":"client_msg_123"}` + "\n"

// discard is a writer that costs nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// sends returns a handler that answers as that of a send does.
func sends() http.Handler {
	contentType, body := []string{"application/json"}, []byte(sentBody)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = contentType
		_, _ = w.Write(body)
	})
}

// TestSentAllocatesNothing tests a reused answer and not the pool, which drops some of what it gets when the race detector runs.
func TestSentAllocatesNothing(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts those of other goroutines too
	next, r := sends(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/message/send", http.NoBody)
	a, w := new(answer), discard{make(http.Header)}
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		a.ResponseWriter, a.isSend = w, true
		next.ServeHTTP(a, r)
		a.end()
	}))
}

// BenchmarkSent compares the answer to a send with and without this package.
func BenchmarkSent(b *testing.B) {
	for name, h := range map[string]http.Handler{"without": sends(), "with": Handler(sends())} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/message/send", http.NoBody)
			w := discard{make(http.Header)}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
	}
}
