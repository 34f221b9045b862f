package ingest

import (
	"container/list"
	"math"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sendhouse/sendhouse/pkg/api"
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

// budget of a request: what it may still spend. The address comes first, so that guessing tokens
// costs too.
type spender struct{ address, token *rate.Limiter }

// owe takes n more sends off both.
func (s spender) owe(n int) {
	if n <= 0 || s == (spender{}) {
		return
	}
	now := time.Now()
	owe(s.address, now, n)
	owe(s.token, now, n)
}

// allow checks the token of a request and the rates of its address and its token.
func (s *Service) allow(w http.ResponseWriter, r *http.Request, needs api.Scope) (by spender, p problem) {
	if s.addresses != nil {
		by.address = s.addresses.of(r)
		if after, ok := spend(by.address, time.Now()); !ok {
			return by, problem{outcome: outcomeRateLimited, retryAfter: after, msg: "too many sends from this address; nothing was written"}
		}
	}
	by.token, p = s.authorize(w, r, needs)
	if !p.ok() || by.token == nil {
		return by, p
	}
	if after, ok := spend(by.token, time.Now()); !ok {
		return by, problem{outcome: outcomeRateLimited, retryAfter: after, msg: "too many sends with this token; nothing was written"}
	}
	return by, problem{}
}
