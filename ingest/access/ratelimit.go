package access

import (
	"container/list"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// addressesMax bounds the addresses whose rate is tracked; above it the address silent for the longest time is dropped,
// and starts again with a full burst. Each costs some 240 bytes (BenchmarkAddresses).
const addressesMax = 65_536

// retryAfterMax bounds how long a caller over its rate is asked to wait, in seconds.
const retryAfterMax = 60

// newLimiter returns a limiter for one caller: perSecond sends on average, in bursts of up to burst sends (0: one second's
// worth).
func newLimiter(perSecond float64, burst int) *rate.Limiter {
	if burst == 0 {
		burst = int(math.Ceil(perSecond))
	}
	return rate.NewLimiter(rate.Limit(perSecond), burst)
}

// spend takes one send from a limiter, or returns the seconds until the next one is available.
func spend(l *rate.Limiter, now time.Time) (retryAfter int, ok bool) {
	if l == nil || l.AllowN(now, 1) {
		return 0, true
	}
	missing := (1 - l.TokensAt(now)) / float64(l.Limit())
	return int(min(max(math.Ceil(missing), 1), retryAfterMax)), false
}

// owe takes n more sends from a limiter, even if it has fewer: the number of sends in a request is known only after
// reading it. A caller in debt is refused until time has paid for it.
func owe(l *rate.Limiter, now time.Time, n int) {
	if l == nil {
		return
	}
	for burst := l.Burst(); n > 0; n -= burst {
		l.ReserveN(now, min(n, burst))
	}
}

// addresses holds a limiter for each calling address.
type addresses struct {
	perSecond float64
	burst     int
	max       int
	trusted   []netip.Prefix

	mu     sync.Mutex
	known  map[netip.Addr]*list.Element // elements hold an addressLimit
	recent list.List                    // most recent first
}

type addressLimit struct {
	addr  netip.Addr
	limit *rate.Limiter
}

func newAddresses(perSecond float64, burst int, trusted []netip.Prefix) *addresses {
	return &addresses{perSecond: perSecond, burst: burst, max: addressesMax, trusted: trusted, known: make(map[netip.Addr]*list.Element)}
}

// of returns the limiter of the address that a request comes from, or nil if the address is not known, which cannot happen
// with TCP.
func (a *addresses) of(r *http.Request) *rate.Limiter {
	addr, ok := clientAddress(r, a.trusted)
	if !ok {
		return nil
	}
	addr = limitedAs(addr)
	a.mu.Lock()
	defer a.mu.Unlock()
	if e, ok := a.known[addr]; ok {
		a.recent.MoveToFront(e)
		return e.Value.(*addressLimit).limit //nolint:forcetypeassert // the list holds nothing else
	}
	if len(a.known) >= a.max {
		oldest := a.recent.Back()
		delete(a.known, a.recent.Remove(oldest).(*addressLimit).addr) //nolint:forcetypeassert // see above
	}
	one := &addressLimit{addr: addr, limit: newLimiter(a.perSecond, a.burst)}
	a.known[addr] = a.recent.PushFront(one)
	return one.limit
}

// limitedAs returns the network whose addresses share a rate: for IPv6 the /64, which is what one customer has.
func limitedAs(addr netip.Addr) netip.Addr {
	if !addr.Is6() {
		return addr
	}
	return netip.PrefixFrom(addr.WithZone(""), 64).Masked().Addr()
}

// Spender holds the limiters that a request is charged to; nil means no limit. The address is charged before the token, so
// guessing tokens costs too.
type Spender struct{ address, token *rate.Limiter }

// Owe takes n more sends from both limiters.
func (s Spender) Owe(n int) {
	if n <= 0 || s == (Spender{}) {
		return
	}
	now := time.Now()
	owe(s.address, now, n)
	owe(s.token, now, n)
}

// clientAddress returns the address that a request comes from: the peer's or, if that is a trusted proxy, the last address
// in X-Forwarded-For that is not one. A proxy appends the address that it saw, so entries further left are claims of the
// client and prove nothing.
func clientAddress(r *http.Request, trusted []netip.Prefix) (addr netip.Addr, ok bool) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, false
	}
	addr = peer.Addr().Unmap()
	if len(trusted) == 0 || !within(addr, trusted) {
		return addr, true
	}
	lines := r.Header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for more := true; more; {
			var hop string
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, hop = rest[:comma], rest[comma+1:]
			} else {
				hop, more = rest, false
			}
			next, err := forwardedFor(strings.TrimSpace(hop))
			if err != nil {
				return addr, true // the rest is not an address
			}
			if addr = next; !within(addr, trusted) {
				return addr, true
			}
		}
	}
	return addr, true // all entries are trusted proxies
}

// forwardedFor parses an address, with or without a port, as proxies write it.
func forwardedFor(hop string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(hop, "["), "]"))
	if err == nil {
		return addr.Unmap(), nil
	}
	withPort, err := netip.ParseAddrPort(hop)
	return withPort.Addr().Unmap(), err
}

func within(addr netip.Addr, prefixes []netip.Prefix) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// parseProxies parses networks (10.0.0.0/8) and single addresses.
func parseProxies(texts []string) (prefixes []netip.Prefix, err error) {
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			addr, addrErr := netip.ParseAddr(text)
			if addrErr != nil {
				return nil, err
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes, nil
}
