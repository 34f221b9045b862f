package lifecycle_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

func probe(t *testing.T, r *lifecycle.Readiness) (int, lifecycle.Report) {
	t.Helper()
	answer := httptest.NewRecorder()
	r.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
	require.Equal(t, "application/json", answer.Header().Get("Content-Type"))
	var report lifecycle.Report
	require.NoError(t, json.Unmarshal(answer.Body.Bytes(), &report))
	return answer.Code, report
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	var r lifecycle.Readiness
	status, report := probe(t, &r)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, lifecycle.Report{Ready: true, Checks: []lifecycle.CheckResult{}}, report)

	var fault error
	r.Register("wal", func() error { return nil })
	unregister := r.Register("clickhouse", func() error { return fault })
	status, report = probe(t, &r)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, []lifecycle.CheckResult{{Name: "clickhouse", OK: true}, {Name: "wal", OK: true}}, report.Checks)

	fault = errors.New("connection refused")
	status, report = probe(t, &r)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.False(t, report.Ready)
	require.Equal(t, []lifecycle.CheckResult{
		{Name: "clickhouse", Error: "connection refused"}, {Name: "wal", OK: true},
	}, report.Checks)

	unregister()
	unregister()
	status, _ = probe(t, &r)
	require.Equal(t, http.StatusOK, status)
}

func TestReadinessNames(t *testing.T) {
	t.Parallel()
	var r lifecycle.Readiness
	pass := func() error { return nil }
	unregister := r.Register("wal", pass)
	require.PanicsWithValue(t, `lifecycle: two readiness checks are named "wal"`, func() { r.Register("wal", pass) })
	require.Panics(t, func() { r.Register("", pass) })
	require.Panics(t, func() { r.Register("nothing", nil) })

	unregister()
	r.Register("wal", pass)
	unregister() // of the first one: the second must stay
	require.Len(t, r.Check().Checks, 1)
}

func TestCheckMayRegisterAnother(t *testing.T) {
	t.Parallel()
	var r lifecycle.Readiness
	r.Register("first", func() error {
		defer r.Register("second", func() error { return nil })()
		return nil
	})
	require.True(t, r.Check().Ready)
	require.Len(t, r.Check().Checks, 1)
}
