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

// avoidedFor is how long a server that did not answer is tried after the others. One that hangs costs each new
// connection the dial timeout, so it must not be asked first each time; one that is back should be used again.
const avoidedFor = 30 * time.Second

// failover chooses the server of each new connection: the first of the DSN that answers, those that lately did
// not last of all.
//
// It stands in for the driver's own strategies. With those, a server that accepts connections and says nothing
// is tried first each time, and over HTTP it uses up the time that was meant for all servers together.
type failover struct {
	log     *slog.Logger
	timeout time.Duration // for one server
	now     func() time.Time

	mu     sync.Mutex
	failed map[string]time.Time // by address: when it last did not answer
}

func newFailover(log *slog.Logger, timeout time.Duration) *failover {
	return &failover{log: log, timeout: timeout, now: time.Now, failed: make(map[string]time.Time)}
}

// dial is the DialStrategy of the driver.
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
			break // the caller has gone
		}
		f.silent(addr, len(o.Addr) > 1, err)
	}
	if len(errs) == 0 {
		return clickhouse.DialResult{}, clickhouse.ErrAcquireConnNoAddress
	}
	return clickhouse.DialResult{}, errors.Join(errs...)
}

// dialOne gives each server the dial timeout for itself. The driver's context carries one for all of them; its
// other ends, those of the caller, count.
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

// strategy is the order of the addresses that the DSN asks for with connection_open_strategy.
func strategy(o *clickhouse.Options, id int) []string {
	if o.ConnOpenStrategy == clickhouse.ConnOpenInOrder || len(o.Addr) == 0 {
		return o.Addr
	}
	start := id % len(o.Addr) // round robin; random is no better
	return slices.Concat(o.Addr[start:], o.Addr[:start])
}

// order puts those that lately did not answer behind the others, the one that failed longest ago first.
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
	if !failed && others { // of a single one the caller speaks
		f.log.Warn("ClickHouse server does not answer, trying the others", "address", addr, "error", err)
	}
}
