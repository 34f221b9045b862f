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

// addressesMax bounds the addresses whose rate is remembered; beyond it the one that has been
// silent longest is forgotten, and begins anew. It costs some 240 bytes for each (BenchmarkAddresses).
const addressesMax = 65_536

// retryAfterMax is the longest that a caller over its rate is asked to wait, in seconds.
const retryAfterMax = 60

// newLimiter makes a limiter for one caller: perSecond sends on average, and burst at one time
// (0: as many as in one second).
func newLimiter(perSecond float64, burst int) *rate.Limiter {
	if burst == 0 {
		burst = int(math.Ceil(perSecond))
	}
	return rate.NewLimiter(rate.Limit(perSecond), burst)
}

// spend takes one send off a limiter, or says after how many seconds there will be one again.
func spend(l *rate.Limiter, now time.Time) (retryAfter int, ok bool) {
	if l == nil || l.AllowN(now, 1) {
		return 0, true
	}
	missing := (1 - l.TokensAt(now)) / float64(l.Limit())
	return int(min(max(math.Ceil(missing), 1), retryAfterMax)), false
}

// owe takes more sends off a limiter, although there are not so many: what one request holds is
// known only when it has been read. Who owes is refused until time has paid for it.
func owe(l *rate.Limiter, now time.Time, n int) {
	if l == nil {
		return
	}
	for burst := l.Burst(); n > 0; n -= burst {
		l.ReserveN(now, min(n, burst))
	}
}

// addresses has a limiter for each address that calls.
type addresses struct {
	perSecond float64
	burst     int
	max       int
	trusted   []netip.Prefix

	mu     sync.Mutex
	known  map[netip.Addr]*list.Element // of addressLimit
	recent list.List                    // the latest first
}

type addressLimit struct {
	addr  netip.Addr
	limit *rate.Limiter
}

func newAddresses(perSecond float64, burst int, trusted []netip.Prefix) *addresses {
	return &addresses{perSecond: perSecond, burst: burst, max: addressesMax, trusted: trusted, known: make(map[netip.Addr]*list.Element)}
}

// of is the limiter of the address that a request comes from. It is nil where there is none to be
// seen, which is not so for TCP.
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

// limitedAs is what an address shares its rate with: of IPv6 the network of 64 bits, which is what
// one customer has.
func limitedAs(addr netip.Addr) netip.Addr {
	if !addr.Is6() {
		return addr
	}
	return netip.PrefixFrom(addr.WithZone(""), 64).Masked().Addr()
}

// Spender has the limiters that a request is charged to; nil if there is no limit. The address comes first, so that guessing tokens
// costs too.
type Spender struct{ address, token *rate.Limiter }

// Owe takes n more sends off both.
func (s Spender) Owe(n int) {
	if n <= 0 || s == (Spender{}) {
		return
	}
	now := time.Now()
	owe(s.address, now, n)
	owe(s.token, now, n)
}

// clientAddress is the address that a request comes from: that of its connection or, where that is a
// trusted proxy, the last one in X-Forwarded-For that is not. A proxy appends the address that it
// saw, so what stands further left is what the client says of itself, and proves nothing.
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
				return addr, true // what is left of it cannot be told
			}
			if addr = next; !within(addr, trusted) {
				return addr, true
			}
		}
	}
	return addr, true // they are all proxies
}

// forwardedFor reads an address, with or without a port, as proxies write it.
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

// parseProxies reads networks (10.0.0.0/8) and single addresses.
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
