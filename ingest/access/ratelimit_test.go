package access

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRatesComeBack: a limiter recovers with time.
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

// TestAddressesAreBounded: the address silent for the longest time is forgotten.
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

// BenchmarkAddresses measures looking up an address, and the memory that a remembered one costs.
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

// TestClientAddress checks which address a request is attributed to.
func TestClientAddress(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, peer, trusted string
		forwarded           []string
		want                string
	}{
		{"no proxy is trusted", "10.0.0.1:99", "", []string{"1.1.1.1"}, "10.0.0.1"},
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

// FuzzForwarded: for any header, the result is an address in it or the proxy's own.
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
