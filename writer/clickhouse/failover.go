package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// avoidedFor is the time for which a server that did not answer is tried after the others. A server that hangs costs each
// new connection the dial timeout, so it must not come first each time; one that has recovered should be used again.
const avoidedFor = 30 * time.Second

// failover chooses the server of each new connection: the first of the DSN that answers, with servers that recently failed
// to answer at the end.
//
// It replaces the driver's own strategies. Those try a server that accepts connections and sends nothing first each time,
// and over HTTP let it consume the time of all servers together.
type failover struct {
	log     *slog.Logger
	timeout time.Duration // for one server
	now     func() time.Time

	mu     sync.Mutex
	failed map[string]time.Time // by address: the last failure to answer
}

func newFailover(log *slog.Logger, timeout time.Duration) *failover {
	return &failover{log: log, timeout: timeout, now: time.Now, failed: make(map[string]time.Time)}
}

// dial is the driver's DialStrategy.
func (f *failover) dial(ctx context.Context, id int, o *clickhouse.Options, dial clickhouse.Dial) (clickhouse.DialResult, error) {
	var errs []error
	for _, addr := range f.order(strategy(o, id)) {
		result, err := f.dialOne(ctx, addr, o, dial)
		if err == nil {
			f.answered(addr)
			return result, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
		if ctx.Err() != nil && !errors.Is(context.Cause(ctx), clickhouse.ErrAcquireConnTimeout) {
			break // the caller has given up
		}
		f.silent(addr, len(o.Addr) > 1, err)
	}
	if len(errs) == 0 {
		return clickhouse.DialResult{}, clickhouse.ErrAcquireConnNoAddress
	}
	return clickhouse.DialResult{}, errors.Join(errs...)
}

// dialOne allows each server the whole dial timeout. The driver's context has one for all of them, which dialOne removes;
// it keeps the caller's cancellation.
func (f *failover) dialOne(ctx context.Context, addr string, o *clickhouse.Options, dial clickhouse.Dial) (clickhouse.DialResult, error) {
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		if !errors.Is(context.Cause(ctx), clickhouse.ErrAcquireConnTimeout) {
			cancel()
		}
	})
	defer stop()
	return dial(own, addr, o)
}

// strategy returns the addresses in the order that connection_open_strategy of the DSN requests.
func strategy(o *clickhouse.Options, id int) []string {
	if o.ConnOpenStrategy == clickhouse.ConnOpenInOrder || len(o.Addr) == 0 {
		return o.Addr
	}
	start := id % len(o.Addr) // round robin; also for random, which is no better
	return slices.Concat(o.Addr[start:], o.Addr[:start])
}

// order moves addresses that recently failed to answer to the end, the earliest failure first.
func (f *failover) order(addresses []string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	var good, bad []string
	for _, addr := range addresses {
		if at, failed := f.failed[addr]; failed && now.Sub(at) < avoidedFor {
			bad = append(bad, addr)
		} else {
			good = append(good, addr)
		}
	}
	slices.SortStableFunc(bad, func(a, b string) int { return f.failed[a].Compare(f.failed[b]) })
	return append(good, bad...)
}

func (f *failover) answered(addr string) {
	f.mu.Lock()
	_, failed := f.failed[addr]
	delete(f.failed, addr)
	f.mu.Unlock()
	if failed {
		f.log.Info("ClickHouse server answers again", "address", addr)
	}
}

func (f *failover) silent(addr string, others bool, err error) {
	f.mu.Lock()
	_, failed := f.failed[addr]
	f.failed[addr] = f.now()
	f.mu.Unlock()
	if !failed && others { // the caller reports the failure of a single server
		f.log.Warn("ClickHouse server does not answer; trying the others", "address", addr, "error", err)
	}
}
