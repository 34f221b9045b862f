package ingest

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// A route of somebody else's is one of the API: who may, which methods, and the shape of errors are the same.
func TestHostedRoute(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	path := tokenFile(t, tokenLine("send", "sender")+tokenLine("read", "looker"))
	b := setup(t, options{
		partitions: 1, config: func(c *Config) { c.APITokensFile = path },
		routes: []api.Route{
			{Method: http.MethodGet, Path: "/look", Needs: api.ScopeRead, Serve: func(w http.ResponseWriter, _ *http.Request) {
				api.Problem{Status: http.StatusTeapot, Code: "teapot"}.Write(w)
			}},
			{Method: http.MethodGet, Path: "/wait", Needs: api.ScopeRead | api.ScopeSend, Serve: func(w http.ResponseWriter, _ *http.Request) {
				close(entered)
				<-leave
				api.Problem{Status: http.StatusTeapot, Code: "late"}.Write(w)
			}},
			{Method: http.MethodGet, Path: "/panic", Needs: api.ScopeRead, Serve: func(http.ResponseWriter, *http.Request) { panic("a bug") }},
		},
	})
	try := func(method, path, token string) (got, error) {
		req, err := http.NewRequestWithContext(t.Context(), method, b.url+path, http.NoBody)
		if err != nil {
			return got{}, err
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		return b.do(req)
	}
	ask := func(method, path, token string) got {
		g, err := try(method, path, token)
		require.NoError(t, err)
		return g
	}
	require.Equal(t, "teapot", ask(http.MethodGet, "/look", "looker").code())
	require.Equal(t, "unauthorized", ask(http.MethodGet, "/look", "").code())
	require.Equal(t, "insufficient_scope", ask(http.MethodGet, "/look", "sender").code())
	require.Equal(t, "internal", ask(http.MethodGet, "/panic", "looker").code())
	g := ask(http.MethodPost, "/look", "looker")
	require.Equal(t, "method_not_allowed", g.code())
	require.Equal(t, "GET", g.header.Get("Allow"))

	// Any one of the scopes will do; and a drain waits for it.
	late := make(chan got, 1)
	go func() {
		g, err := try(http.MethodGet, "/wait", "sender")
		if err != nil {
			t.Error(err)
		}
		late <- g
	}()
	<-entered
	b.stop()
	testkit.WaitFor(t, testTimeout, "the drain", func(context.Context) error {
		if state := b.service.state.Load(); state != stateDraining {
			return fmt.Errorf("state %d", state)
		}
		return nil
	})
	close(leave)
	g = <-late
	require.Equal(t, "late", g.code())
}
