package ingest

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTokenRate: each token has a rate of its own; what is over it is 429, with the time to wait.
func TestTokenRate(t *testing.T) {
	t.Parallel()
	path := tokenFile(t, tokenLine("send", "one")+tokenLine("send", "two"))
	b := setup(t, options{partitions: 1, config: func(c *Config) {
		c.APITokensFile, c.TokenRate, c.TokenBurst = path, 0.1, 3
	}})
	b.sequence()
	for range 3 {
		require.Equal(t, http.StatusOK, b.authorized(t, "/message/send", "Bearer one").status)
	}
	g := b.authorized(t, "/message/send", "Bearer one")
	require.Equal(t, http.StatusTooManyRequests, g.status, g.raw)
	requireShape(t, g)
	require.Equal(t, "rate_limited", g.code())
	require.Contains(t, g.body["msg"], "token")
	after, err := strconv.Atoi(g.header.Get("Retry-After"))
	require.NoError(t, err)
	require.True(t, after >= 5 && after <= 10, "one send in 10 s: %d", after)
	require.Equal(t, http.StatusOK, b.authorized(t, "/message/send", "Bearer two").status)
	require.Equal(t, "unauthorized", b.authorized(t, "/message/send", "Bearer three").code())

	// A change of the file gives nobody a new rate.
	require.NoError(t, b.service.tokens.take(tokenLine("send,read", "one")+tokenLine("send", "three")))
	require.Equal(t, "rate_limited", b.authorized(t, "/message/send", "Bearer one").code())
	require.Equal(t, http.StatusOK, b.authorized(t, "/message/send", "Bearer three").status)
}

// TestAddressRate: guessing tokens costs too, and everything in a bulk counts.
func TestAddressRate(t *testing.T) {
	t.Parallel()
	path := tokenFile(t, tokenLine("send", "one"))
	b := setup(t, options{partitions: 1, config: func(c *Config) {
		c.APITokensFile, c.AddressRate, c.AddressBurst = path, 0.1, 5
		c.TrustedProxies = []string{"127.0.0.0/8"}
	}})
	b.sequence()
	from := func(address, path, contentType, body, token string) got {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("X-Forwarded-For", address)
		g, err := b.do(req)
		require.NoError(t, err)
		return g
	}
	for range 5 {
		require.Equal(t, "unauthorized", from("10.0.0.1", "/message/send", "application/json", example, "guess").code())
	}
	g := from("10.0.0.1", "/message/send", "application/json", example, "one")
	require.Equal(t, "rate_limited", g.code(), g.raw)
	requireShape(t, g)
	require.Contains(t, g.body["msg"], "address")

	bulk := from("10.0.0.2", "/message/sendbatch", "application/json", `{"from_uid":"a","subscribers":["1","2","3","4","5","6","7","8"],"payload":"aGk="}`, "one")
	require.Equal(t, http.StatusOK, bulk.status, bulk.raw)
	g = from("10.0.0.2", "/message/send", "application/json", example, "one")
	require.Equal(t, "rate_limited", g.code())
	after, err := strconv.Atoi(g.header.Get("Retry-After"))
	require.NoError(t, err)
	require.Greater(t, after, 30, "it owes for three")
	require.Equal(t, http.StatusOK, from("10.0.0.3", "/message/send", "application/json", example, "one").status)
}

// TestRatesComeBack: a limiter pays back with time.
func TestRatesComeBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(10, 0)
		spends := func() (n int) {
			for {
				after, ok := spend(l, time.Now())
				if !ok {
					require.Equal(t, 1, after)
					return n
				}
				n++
			}
		}
		require.Equal(t, 10, spends(), "a second's worth")
		time.Sleep(300 * time.Millisecond) //nolint:forbidigo // of the bubble's clock
		require.Equal(t, 3, spends())
		time.Sleep(time.Hour) //nolint:forbidigo // see above
		require.Equal(t, 10, spends(), "no more than the burst")
		owe(l, time.Now(), 95)
		after, ok := spend(l, time.Now())
		require.False(t, ok)
		require.Equal(t, 10, after)
		time.Sleep(time.Duration(after) * time.Second) //nolint:forbidigo // see above
		require.Equal(t, 5, spends(), "Retry-After was long enough")
		owe(l, time.Now(), 100_000)
		after, _ = spend(l, time.Now())
		require.Equal(t, retryAfterMax, after)
	})
	_, ok := spend(nil, time.Now())
	require.True(t, ok)
}

// TestAddressesAreBounded: the one that has been silent longest is forgotten.
func TestAddressesAreBounded(t *testing.T) {
	t.Parallel()
	a := newAddresses(1, 1, nil)
	a.max = 100
	req := func(i int) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
		r.RemoteAddr = fmt.Sprintf("10.0.%d.%d:1", i/256, i%256)
		return r
	}
	first := a.of(req(0))
	for i := range 1000 {
		require.Same(t, first, a.of(req(0)), "it is not silent")
		a.of(req(i))
		require.LessOrEqual(t, len(a.known), 100)
		require.Equal(t, len(a.known), a.recent.Len())
	}
	second := a.of(req(1))
	require.NotSame(t, second, first)
	require.Same(t, second, a.of(req(1)))
}

// BenchmarkAddresses is what looking up an address costs, and what remembering it does.
func BenchmarkAddresses(b *testing.B) {
	a := newAddresses(1000, 0, nil)
	requests := make([]*http.Request, addressesMax)
	for i := range requests {
		requests[i] = &http.Request{RemoteAddr: fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for _, r := range requests {
		a.of(r)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := spend(a.of(requests[i]), time.Now()); !ok {
			b.Fatal("refused")
		}
		i = (i + 1) % len(requests)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/addressesMax, "B/address")
}

// TestClientAddress is who a request is taken to come from.
func TestClientAddress(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, peer, trusted string
		forwarded           []string
		want                string
	}{
		{"nobody is trusted", "10.0.0.1:99", "", []string{"1.1.1.1"}, "10.0.0.1"},
		{"another is trusted", "10.0.0.1:99", "10.0.0.2", []string{"1.1.1.1"}, "10.0.0.1"},
		{"the proxy is trusted", "10.0.0.1:99", "10.0.0.1", []string{"1.1.1.1"}, "1.1.1.1"},
		{"its network is trusted", "10.0.0.1:99", "10.0.0.0/8", []string{"1.1.1.1"}, "1.1.1.1"},
		{"what the client says of itself", "10.0.0.1:99", "10.0.0.0/8", []string{"9.9.9.9, 1.1.1.1"}, "1.1.1.1"},
		{"two proxies", "10.0.0.1:99", "10.0.0.0/8", []string{"9.9.9.9, 1.1.1.1, 10.0.0.7"}, "1.1.1.1"},
		{"two lines", "10.0.0.1:99", "10.0.0.0/8", []string{"9.9.9.9, 1.1.1.1", "10.0.0.7"}, "1.1.1.1"},
		{"only proxies", "10.0.0.1:99", "10.0.0.0/8", []string{"10.0.0.9,10.0.0.8"}, "10.0.0.9"},
		{"none forwarded", "10.0.0.1:99", "10.0.0.0/8", nil, "10.0.0.1"},
		{"nonsense", "10.0.0.1:99", "10.0.0.0/8", []string{"1.1.1.1, nonsense"}, "10.0.0.1"},
		{"nonsense behind a proxy", "10.0.0.1:99", "10.0.0.0/8", []string{"1.1.1.1, nonsense, 10.0.0.7"}, "10.0.0.7"},
		{"an empty one", "10.0.0.1:99", "10.0.0.0/8", []string{""}, "10.0.0.1"},
		{"with a port", "10.0.0.1:99", "10.0.0.0/8", []string{"1.1.1.1:1234"}, "1.1.1.1"},
		{"IPv6", "[::1]:99", "::1", []string{"2001:db8::1"}, "2001:db8::1"},
		{"IPv6 with a port", "[::1]:99", "::1", []string{"[2001:db8::1]:1234"}, "2001:db8::1"},
		{"IPv6 in brackets", "[::1]:99", "::1", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:99", "10.0.0.0/8", []string{"::ffff:1.1.1.1"}, "1.1.1.1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var texts []string
			if row.trusted != "" {
				texts = []string{row.trusted}
			}
			trusted, err := parseProxies(texts)
			require.NoError(t, err)
			r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
			r.RemoteAddr = row.peer
			r.Header["X-Forwarded-For"] = row.forwarded
			addr, ok := clientAddress(r, trusted)
			require.True(t, ok)
			require.Equal(t, row.want, addr.String())
		})
	}
	require.Equal(t, limitedAs(netip.MustParseAddr("2001:db8::1")), limitedAs(netip.MustParseAddr("2001:db8::ffff")), "one customer")
	require.NotEqual(t, limitedAs(netip.MustParseAddr("2001:db8::1")), limitedAs(netip.MustParseAddr("2001:db8:0:1::1")))
	require.NotEqual(t, limitedAs(netip.MustParseAddr("1.1.1.1")), limitedAs(netip.MustParseAddr("1.1.1.2")))
}

// FuzzForwarded: whatever a client says of where it comes from, it is an address or the proxy's own.
func FuzzForwarded(f *testing.F) {
	f.Add("9.9.9.9, 1.1.1.1:2 ,[::1]:3,")
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::/1")}
	f.Fuzz(func(t *testing.T, text string) {
		r := &http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{"X-Forwarded-For": strings.Split(text, "\n")}}
		addr, ok := clientAddress(r, trusted)
		require.True(t, ok)
		require.True(t, addr.IsValid())
		require.True(t, addr.String() == "10.0.0.1" || strings.Contains(text, ".") || strings.Contains(text, ":"))
	})
}

func TestDoorSettings(t *testing.T) {
	t.Parallel()
	for says, change := range map[string]func(*Config){
		"api-token-rate -1":        func(c *Config) { c.TokenRate = -1 },
		"needs api-tokens-file":    func(c *Config) { c.TokenRate = 1 },
		"api-address-rate 0.001":   func(c *Config) { c.AddressRate = 0.001 },
		"api-address-burst -1":     func(c *Config) { c.AddressBurst = -1 },
		"api-trusted-proxies":      func(c *Config) { c.TrustedProxies = []string{"localhost"} },
		"api-cors-origins":         func(c *Config) { c.CORSOrigins = []string{"example.org"} },
		"api-connections-max 0":    func(c *Config) { c.ConnectionsMax = 0 },
		"https://example.org/x":    func(c *Config) { c.CORSOrigins = []string{"https://example.org/x"} },
		"want * or a scheme":       func(c *Config) { c.CORSOrigins = []string{"*", "null"} },
		`"https://Example.org" is`: func(c *Config) { c.CORSOrigins = []string{"https://Example.org"} },
	} {
		cfg := defaultConfig(t)
		change(&cfg)
		require.ErrorContains(t, cfg.validate(), says)
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	const page = "https://chat.example.org"
	ask := func(b *bundle, method, path string, header ...string) (status int, answer http.Header) {
		req, err := http.NewRequestWithContext(t.Context(), method, b.url+path, bytes.NewReader([]byte(example)))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := b.client.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		return res.StatusCode, res.Header
	}
	preflight := []string{"Origin", page, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type"}

	off := setup(t, options{partitions: 1})
	off.sequence()
	status, _ := ask(off, http.MethodOptions, "/message/send", preflight...)
	require.Equal(t, http.StatusMethodNotAllowed, status)
	status, header := ask(off, http.MethodPost, "/message/send", "Origin", page)
	require.Equal(t, http.StatusForbidden, status)
	for name := range header {
		require.False(t, strings.HasPrefix(name, "Access-Control"), name)
	}

	tokens := tokenFile(t, tokenLine("send", "one"))
	on := setup(t, options{partitions: 1, config: func(c *Config) { c.CORSOrigins, c.APITokensFile = []string{"http://localhost:3000", page}, tokens }})
	on.sequence()
	status, header = ask(on, http.MethodOptions, "/message/send", preflight...)
	require.Equal(t, http.StatusNoContent, status, "without a token: browsers send none")
	require.Equal(t, page, header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "POST", header.Get("Access-Control-Allow-Methods"))
	require.Equal(t, "Authorization, Content-Type, X-Request-Id", header.Get("Access-Control-Allow-Headers"))
	require.Equal(t, "Origin", header.Get("Vary"))
	require.Empty(t, header.Get("Access-Control-Allow-Credentials"))
	status, _ = ask(on, http.MethodOptions, "/nowhere", preflight...)
	require.Equal(t, http.StatusNotFound, status)
	status, header = ask(on, http.MethodPost, "/message/send", "Origin", page, "Authorization", "Bearer one")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, page, header.Get("Access-Control-Allow-Origin"))
	require.Contains(t, header.Get("Access-Control-Expose-Headers"), "Retry-After")
	status, header = ask(on, http.MethodPost, "/message/send", "Origin", page)
	require.Equal(t, http.StatusUnauthorized, status)
	require.Equal(t, page, header.Get("Access-Control-Allow-Origin"), "the page may read why")
	status, header = ask(on, http.MethodPost, "/message/send", "Origin", "https://evil.example.org", "Authorization", "Bearer one")
	require.Equal(t, http.StatusForbidden, status)
	require.Empty(t, header.Get("Access-Control-Allow-Origin"))

	all := setup(t, options{partitions: 1, config: func(c *Config) { c.CORSOrigins = []string{"*"} }})
	_, header = ask(all, http.MethodOptions, "/message/send", preflight...)
	require.Equal(t, "*", header.Get("Access-Control-Allow-Origin"))
	require.Empty(t, header.Get("Vary"))
	all.sequence()
	status, _ = ask(all, http.MethodPost, "/message/send", "Origin", page, "Sec-Fetch-Site", "cross-site")
	require.Equal(t, http.StatusOK, status)
}
