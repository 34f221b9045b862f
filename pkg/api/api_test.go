package api_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/pkg/api"
)

func TestJSONStrings(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "s")
		written := api.AppendString([]byte("x"), s)
		require.Equal(t, written, api.AppendString([]byte("x"), []byte(s)))
		require.True(t, utf8.Valid(written))
		var read string
		require.NoError(t, json.Unmarshal(written[1:], &read))
		require.Equal(t, string([]rune(s)), read, "each byte that is no UTF-8 is U+FFFD")
	})
}

func TestProblem(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	api.Problem{Status: http.StatusServiceUnavailable, Code: "busy", Msg: "say \"please\"", Field: "a,b", Reason: 22, RetryAfter: 3}.Write(w)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "3", w.Header().Get("Retry-After"))
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.JSONEq(t, `{"status":503,"code":"busy","msg":"say \"please\"","field":"a,b","reason":22}`, w.Body.String())

	w = httptest.NewRecorder()
	api.Problem{Status: http.StatusBadRequest, Code: "wrong"}.Write(w)
	require.Empty(t, w.Header().Values("Retry-After"))
}

func TestScopes(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]api.Scope{"send": api.ScopeSend, "manage": api.ScopeManage, "read": api.ScopeRead} {
		got, ok := api.ParseScope(name)
		require.True(t, ok)
		require.Equal(t, want, got)
		require.Equal(t, name, got.String())
	}
	_, ok := api.ParseScope("Send")
	require.False(t, ok)
	require.Equal(t, "send,read", (api.ScopeSend | api.ScopeRead).String())
}

func TestMediaTypeRule(t *testing.T) {
	t.Parallel()
	for contentType, ok := range map[string]bool{
		"application/json": true, "application/json; charset=UTF-8": true, "Application/JSON;charset=utf8": true,
		"": false, "text/plain": false, "application/json; charset=latin1": false,
	} {
		require.Equal(t, ok, api.MediaTypeRule(http.Header{"Content-Type": {contentType}}) == "", contentType)
	}
	require.Contains(t, api.MediaTypeRule(http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}), "Content-Encoding")
}
