package ingest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

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

// guarded makes a service that is not run, with other settings, beside that of a bundle.
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

// TestRebindingIsRefused: without tokens no route answers to a name that anyone may have pointed here, and with them, or with a certificate,
// every name will do.
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
		"tokens": func(c *Config) { c.APITokensFile = tokenFile(t, tokenLine("send", "one")) },
		"TLS":    func(c *Config) { c.TLSCertFile, c.TLSKeyFile = cert.CertFile, cert.KeyFile },
	} {
		closed := b.guarded(allowed, config)
		eachRoute(t, closed, func(method, path string) {
			require.NotContains(t, ask(closed, method, path, "sendhouse.default.svc.cluster.local:5001"), `"code":"unknown_host"`, "%s: %s %s", name, method, path)
		})
	}
}

// TestPagesOfOthersChangeNothing: whatever a page of another origin sends that is not a mere read is refused, with a token too.
func TestPagesOfOthersChangeNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	s := b.guarded(guard.Hosts{}, func(c *Config) { c.APITokensFile = tokenFile(t, tokenLine("send,manage,read", "one")) })
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
