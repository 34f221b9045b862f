package api_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/api"
)

func TestRequestID(t *testing.T) {
	t.Parallel()
	for given, taken := range map[string]bool{
		"a": true, "4bf92f3577b34da6": true, "x:/~!": true, strings.Repeat("x", 128): true,
		"": false, "a b": false, "a\tb": false, "ü": false, strings.Repeat("x", 129): false,
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
		r.Header["X-Request-Id"] = []string{given, "second"}
		api.TakeRequestID(w, r)
		require.Equal(t, taken, w.Header().Get("X-Request-Id") == given && given != "", given)
		id := api.RequestID(w)
		require.NotEmpty(t, id)
		require.Equal(t, taken, id == given, given)
		require.Equal(t, id, api.RequestID(w), "it stays what it is")
		require.Len(t, w.Header().Values("X-Request-Id"), 1)
	}
	w := httptest.NewRecorder()
	api.TakeRequestID(w, httptest.NewRequest(http.MethodPost, "/", http.NoBody))
	require.Empty(t, w.Header(), "an answer that is no error needs no name")
	api.Problem{Status: http.StatusNotFound, Code: "not_found"}.Write(w)
	require.NotEmpty(t, w.Header().Get("X-Request-Id"))
}
