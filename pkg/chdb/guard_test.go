package chdb

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

// The password is asked for in all the ways that ClickHouse takes it, and the name of the host no longer matters then.
func TestGuardAsksForPassword(t *testing.T) {
	t.Parallel()
	engine := &Engine{config: Config{User: "reader", Password: "s3cret"}.withDefaults()}
	var err error
	engine.knownHosts, engine.anyHost, err = engine.config.guards()
	require.NoError(t, err)
	guarded := engine.guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for name, c := range map[string]struct {
		prepare func(*http.Request)
		status  int
	}{
		"nothing":       {func(*http.Request) {}, http.StatusForbidden},
		"basic":         {func(r *http.Request) { r.SetBasicAuth("reader", "s3cret") }, http.StatusNoContent},
		"wrong basic":   {func(r *http.Request) { r.SetBasicAuth("reader", "secret") }, http.StatusForbidden},
		"other user":    {func(r *http.Request) { r.SetBasicAuth("default", "s3cret") }, http.StatusForbidden},
		"headers":       {func(r *http.Request) { setKey(r, "reader", "s3cret") }, http.StatusNoContent},
		"wrong headers": {func(r *http.Request) { setKey(r, "reader", "") }, http.StatusForbidden},
		"parameters": {func(r *http.Request) {
			r.URL.RawQuery = url.Values{"user": {"reader"}, "password": {"s3cret"}}.Encode()
		}, http.StatusNoContent},
		"no user": {func(r *http.Request) { r.URL.RawQuery = "password=s3cret" }, http.StatusForbidden},
		"named host": {func(r *http.Request) {
			r.Host = "clickhouse.example"
			r.SetBasicAuth("reader", "s3cret")
		}, http.StatusNoContent},
	} {
		r := httptest.NewRequest(http.MethodPost, "http://localhost/", nil)
		c.prepare(r)
		w := httptest.NewRecorder()
		guarded.ServeHTTP(w, r)
		require.Equal(t, c.status, w.Code, name)
	}
}

func setKey(r *http.Request, user, key string) {
	r.Header.Set("X-ClickHouse-User", user)
	r.Header.Set("X-ClickHouse-Key", key)
}
