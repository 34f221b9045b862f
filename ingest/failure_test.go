package ingest

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/api"
)

// lines collects a log, a JSON object a line.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// with gives the lines that have a message.
func (l *lines) with(t *testing.T, msg string) (found []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		var one map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &one), line)
		if one["msg"] == msg {
			found = append(found, one)
		}
	}
	return found
}

// A failed request is in the log under the name that its answer has: the caller's, if it gave one, or ours. Of many that
// fail for one reason in a short time the first is.
func TestFailedRequestIsNamed(t *testing.T) {
	t.Parallel()
	var log lines
	b := setup(t, options{partitions: 1, noStreams: true, log: slog.New(slog.NewJSONHandler(&log, nil)), routes: []api.Route{
		{Method: http.MethodGet, Path: "/panic", Needs: api.ScopeRead, Serve: func(http.ResponseWriter, *http.Request) { panic("a bug") }},
		{Method: http.MethodGet, Path: "/flush", Needs: api.ScopeRead, Serve: func(w http.ResponseWriter, _ *http.Request) {
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Errorf("the writer below cannot be reached: %v", err)
			}
			_, _ = w.Write([]byte("{}"))
		}},
		{Method: http.MethodGet, Path: "/busy", Needs: api.ScopeRead, Serve: func(w http.ResponseWriter, _ *http.Request) {
			api.Problem{Status: http.StatusServiceUnavailable, Code: "busy"}.Write(w)
		}},
	}})
	ask := func(method, path, body, id string) got {
		req, err := http.NewRequestWithContext(t.Context(), method, b.url+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		if id != "" {
			req.Header.Set("X-Request-Id", id)
		}
		g, err := b.do(req)
		require.NoError(t, err)
		return g
	}

	g := ask(http.MethodPost, "/message/send", example, "proxy-7")
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	require.Equal(t, "proxy-7", g.header.Get("X-Request-Id"))
	for range 3 {
		require.Equal(t, g.code(), ask(http.MethodPost, "/message/send", example, "").code())
	}
	failed := log.with(t, "a request failed")
	require.Len(t, failed, 1)
	require.Equal(t, "proxy-7", failed[0]["request_id"])
	require.Equal(t, "send", failed[0]["route"])
	require.Equal(t, g.code(), failed[0]["code"])
	require.Equal(t, "WARN", failed[0]["level"])

	g = ask(http.MethodGet, "/panic", "", "two words")
	require.Equal(t, http.StatusInternalServerError, g.status)
	id := g.header.Get("X-Request-Id")
	require.NotEmpty(t, id)
	require.NotEqual(t, "two words", id)
	panics := log.with(t, "a request panicked")
	require.Len(t, panics, 1)
	require.Equal(t, id, panics[0]["request_id"])

	// Routes that others answer too.
	require.Equal(t, http.StatusOK, ask(http.MethodGet, "/flush", "", "").status)
	require.Equal(t, http.StatusServiceUnavailable, ask(http.MethodGet, "/busy", "", "reader-1").status)
	require.Equal(t, http.StatusServiceUnavailable, ask(http.MethodGet, "/busy", "", "reader-2").status)
	failed = log.with(t, "a request failed")
	require.Len(t, failed, 2)
	require.Equal(t, "reader-1", failed[1]["request_id"])
	require.Equal(t, "/busy", failed[1]["route"])

	g = ask(http.MethodPost, "/message/send", "{", "")
	require.Equal(t, http.StatusBadRequest, g.status)
	require.NotEmpty(t, g.header.Get("X-Request-Id"))
	require.NotEqual(t, id, g.header.Get("X-Request-Id"))
	require.Len(t, log.with(t, "a request failed"), 2, "that a caller is wrong is not for the operator's log")
}
