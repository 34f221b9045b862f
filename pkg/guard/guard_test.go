package guard_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/guard"
)

func newGuard(t testing.TB, cfg guard.Config) *guard.Guard {
	t.Helper()
	g, err := guard.New(cfg)
	require.NoError(t, err)
	return g
}

// request is one from a client that sends a host and header fields.
func request(method, host string, fields ...string) *http.Request {
	r := httptest.NewRequest(method, "/", nil)
	r.Host = host
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	return r
}

func TestHosts(t *testing.T) {
	t.Parallel()
	g := newGuard(t, guard.Config{Hosts: guard.Hosts{AllowedHosts: []string{"Chat.example.org", "b.example"}}})
	for _, host := range []string{
		"", "localhost", "localhost:5001", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.0.0.1:5001", "10.1.2.3:80", "[::1]", "[::1]:5001", "::1", "[fe80::1%25eth0]:1",
		"sendhouse", "sendhouse-0:5002", "chat.example.org", "CHAT.example.org.:443", "b.example:1",
	} {
		require.NoError(t, g.Check(request(http.MethodPost, host)), host)
	}
	for _, host := range []string{
		"evil.example", "evil.example:5001", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1.nip.io:5001", "x.chat.example.org", "chat.example.org.evil.example", "evil.example.", "1.2.3", "0.0.0.0", "0.0.0.0:5001", "[::]:5001", "a.b:c:d", "[a.b]", "evil.example@localhost.",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodOptions} {
			err := g.Check(request(method, host))
			require.ErrorIs(t, err, guard.ErrHost, host)
			require.ErrorContains(t, err, "--allowed-hosts")
		}
	}
	for _, cfg := range []guard.Config{{AnyHost: true}, {Hosts: guard.Hosts{AllowedHosts: []string{"*"}}}} {
		require.NoError(t, newGuard(t, cfg).Check(request(http.MethodPost, "evil.example")))
	}
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	g := newGuard(t, guard.Config{Origins: []string{"https://page.example"}})
	all := newGuard(t, guard.Config{Origins: []string{"*"}})
	const host = "localhost:5001"
	foreign := [][]string{
		{"Origin", "http://evil.example"}, {"Origin", "null"}, {"Origin", "http://localhost:5002"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"},
		{"Sec-Fetch-Site", "cross-site", "Origin", "http://" + host},
	}
	own := [][]string{nil, {"Origin", "http://" + host}, {"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}, {"Origin", "https://page.example", "Sec-Fetch-Site", "cross-site"}}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, "OTHER"} {
		for _, fields := range foreign {
			require.ErrorIs(t, g.Check(request(method, host, fields...)), guard.ErrCrossOrigin, fields)
			require.NoError(t, all.Check(request(method, host, fields...)), fields)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
		for _, fields := range foreign {
			require.NoError(t, g.Check(request(method, host, fields...)), fields)
			require.ErrorIs(t, g.CheckSameOrigin(request(method, host, fields...)), guard.ErrCrossOrigin, fields)
		}
	}
	for _, fields := range own {
		require.NoError(t, g.Check(request(http.MethodPost, host, fields...)), fields)
		require.NoError(t, g.CheckSameOrigin(request(http.MethodGet, host, fields...)), fields)
	}
}

func TestNewReportsAll(t *testing.T) {
	t.Parallel()
	_, err := guard.New(guard.Config{Hosts: guard.Hosts{AllowedHosts: []string{"https://a.example", "b.example:80", "", "c.example/x", "good.example"}}, Origins: []string{"d.example"}})
	for _, what := range []string{`"https://a.example"`, `"b.example:80"`, `""`, `"c.example/x"`, `"d.example"`} {
		require.ErrorContains(t, err, what)
	}
	require.NotContains(t, err.Error(), "good.example")
}

func TestIsLoopback(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "localhost:1": true, "[::ffff:127.0.0.1]:1": true,
		"0.0.0.0:1": false, ":1": false, "[::]:1": false, "10.0.0.1:1": false, "host:1": false, "127.0.0.1": false, "": false,
	} {
		require.Equal(t, want, guard.IsLoopback(address), address)
	}
}

func BenchmarkCheck(b *testing.B) {
	g := newGuard(b, guard.Config{})
	for _, host := range []string{"127.0.0.1:5001", "localhost:5001"} {
		r := request(http.MethodPost, host)
		b.Run(host, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := g.Check(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
