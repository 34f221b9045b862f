package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEndToEndPagesOfOthers asks each HTTP listener of `up` as a page in a browser could make it be asked: under a name that was pointed
// here, and across origins.
func TestEndToEndPagesOfOthers(t *testing.T) {
	t.Parallel()
	up := newUp(t, "--allowed-hosts=chat.example.org")
	up.Start()
	status := func(method, url, body, host string, fields ...string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+url, strings.NewReader(body))
		require.NoError(t, err)
		req.Host = host
		req.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(fields); i += 2 {
			req.Header.Set(fields[i], fields[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body) // to its end, since one profile is taken at a time
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		return res.StatusCode
	}
	const send = `{"from_uid":"u","channel_id":"g","channel_type":2,"payload":"aGk="}`
	type asked struct{ method, url, body string }
	changes := []asked{
		{http.MethodPost, up.api + "/message/send", send},
		{http.MethodPost, up.api + "/user/systemuids_add", `{"uids":["u"]}`},
		{http.MethodPut, up.admin + "/loglevel", "debug"},
		{http.MethodGet, up.admin + "/loglevel", ""},
		{http.MethodGet, up.admin + "/debug/pprof/heap", ""},
		{http.MethodPost, up.clickHouse + "/", "SELECT 1"},
		{http.MethodGet, up.clickHouse + "/?query=SELECT+1", ""},
	}
	reads := []asked{
		{http.MethodGet, up.api + "/healthz", ""},
		{http.MethodGet, up.admin + "/metrics", ""},
		{http.MethodGet, up.admin + "/", ""},
	}
	for _, a := range append(reads, changes...) {
		require.Equal(t, http.StatusForbidden, status(a.method, a.url, a.body, "evil.example"), a)
		for _, host := range []string{"", "localhost", "chat.example.org"} {
			require.Equal(t, http.StatusOK, status(a.method, a.url, a.body, host), a)
		}
	}
	for _, a := range changes {
		for _, fields := range [][]string{{"Origin", "http://evil.example"}, {"Sec-Fetch-Site", "cross-site"}} {
			require.Equal(t, http.StatusForbidden, status(a.method, a.url, a.body, "", fields...), a)
		}
		require.Equal(t, http.StatusOK, status(a.method, a.url, a.body, "", "Sec-Fetch-Site", "same-origin"), a)
	}
	require.Equal(t, 0, up.Stop())
	require.Contains(t, up.Output(), "ingest is up", "no other client has set the level")
}
