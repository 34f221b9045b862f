package ingest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/guard"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// eachRoute calls do for each route of the API, those of other packages included.
func eachRoute(t *testing.T, s *Service, do func(method, path string)) {
	t.Helper()
	routes := 0
	require.NoError(t, chi.Walk(s.router, func(method, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		routes++
		do(method, path)
		return nil
	}))
	require.Greater(t, routes, 20)
}

// guarded returns a service with other settings on the server of a bundle. It does not run.
func (b *bundle) guarded(hosts guard.Hosts, config func(*Config)) *Service {
	b.t.Helper()
	cfg := defaultConfig(b.t)
	if config != nil {
		config(&cfg)
	}
	s, err := New(cfg, Deps{NATS: b.nc, JetStream: b.js, Partitions: 1, Logger: logger(b.t), Registerer: prometheus.NewRegistry(), Hosts: hosts})
	require.NoError(b.t, err)
	return s
}

// TestRebindingIsRefused: without tokens no route answers to a name that anyone may have pointed at this host; with
// tokens, or with a certificate, every name is accepted.
func TestRebindingIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	allowed := guard.Hosts{AllowedHosts: []string{"chat.example.org"}}
	ask := func(s *Service, method, path, host string) string {
		r := httptest.NewRequestWithContext(t.Context(), method, "http://"+host+path, nil)
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		return fmt.Sprint(w.Code, " ", w.Body)
	}
	open := b.guarded(allowed, nil)
	eachRoute(t, open, func(method, path string) {
		for _, host := range []string{"evil.example", "evil.example:5001", "127.0.0.1.evil.example"} {
			require.Contains(t, ask(open, method, path, host), "403", "%s %s", method, path)
		}
		for _, host := range []string{"127.0.0.1:5001", "localhost", "[::1]:5001", "chat.example.org", "sendhouse:5001"} {
			require.NotContains(t, ask(open, method, path, host), `"code":"unknown_host"`, "%s %s", method, path)
		}
	})
	require.Contains(t, ask(open, http.MethodPost, pathSend, "evil.example"), `"code":"unknown_host"`)
	cert := testkit.NewAuthority(t).Issue("localhost")
	for name, config := range map[string]func(*Config){
		"tokens": func(c *Config) { c.Access.APITokensFile = tokenFile(t, tokenLine("send", "one")) },
		"TLS":    func(c *Config) { c.Access.TLSCertFile, c.Access.TLSKeyFile = cert.CertFile, cert.KeyFile },
	} {
		closed := b.guarded(allowed, config)
		eachRoute(t, closed, func(method, path string) {
			require.NotContains(t, ask(closed, method, path, "sendhouse.default.svc.cluster.local:5001"), `"code":"unknown_host"`, "%s: %s %s", name, method, path)
		})
	}
}

// TestPagesOfOthersChangeNothing: a page of another origin can make no request that changes anything, even with a token.
func TestPagesOfOthersChangeNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	s := b.guarded(guard.Hosts{}, func(c *Config) { c.Access.APITokensFile = tokenFile(t, tokenLine("send,manage,read", "one")) })
	ask := func(method, path string, fields ...string) string {
		r := httptest.NewRequestWithContext(t.Context(), method, "http://localhost:5001"+path, strings.NewReader("{}"))
		r.Header.Set("Authorization", "Bearer one")
		for i := 0; i < len(fields); i += 2 {
			r.Header.Set(fields[i], fields[i+1])
		}
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		return fmt.Sprint(w.Code, " ", w.Body)
	}
	eachRoute(t, s, func(method, path string) {
		for _, fields := range [][]string{{"Origin", "http://evil.example"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}} {
			if method == http.MethodPost || method == http.MethodPut || method == http.MethodDelete {
				require.Contains(t, ask(method, path, fields...), `"code":"cross_origin"`, "%s %s", method, path)
			}
		}
		for _, fields := range [][]string{nil, {"Origin", "http://localhost:5001"}, {"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}} {
			require.NotContains(t, ask(method, path, fields...), `"code":"cross_origin"`, "%s %s", method, path)
		}
	})
}

// A route of another package is part of the API: access, methods and the shape of errors are the same.
func TestHostedRoute(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	path := tokenFile(t, tokenLine("send", "sender")+tokenLine("read", "looker"))
	b := setup(t, options{
		partitions: 1, config: func(c *Config) { c.Access.APITokensFile = path },
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

	// Any one of the scopes suffices; and a drain waits for the request.
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
