package clickhouse

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"
)

// dials records whom a failover asks; those in dead do not answer, those in hung only when the time is up.
type dials struct {
	asked      []string
	dead, hung map[string]bool
}

func (d *dials) dial(ctx context.Context, addr string, _ *clickhouse.Options) (clickhouse.DialResult, error) {
	d.asked = append(d.asked, addr)
	switch {
	case d.dead[addr]:
		return clickhouse.DialResult{}, errors.New("refused")
	case d.hung[addr]:
		<-ctx.Done()
		return clickhouse.DialResult{}, ctx.Err()
	default:
		return clickhouse.DialResult{}, nil
	}
}

func (d *dials) take() []string {
	asked := d.asked
	d.asked = nil
	return asked
}

func TestFailoverAvoidsWhoDidNotAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFailover(slog.New(slog.DiscardHandler), dialTimeout)
		d := &dials{dead: map[string]bool{"a": true}}
		o := &clickhouse.Options{Addr: []string{"a", "b", "c"}}
		dial := func() error {
			_, err := f.dial(t.Context(), 1, o, d.dial)
			return err
		}
		require.NoError(t, dial())
		require.Equal(t, []string{"a", "b"}, d.take())
		require.NoError(t, dial())
		require.Equal(t, []string{"b"}, d.take(), "the dead one is not asked first again")

		<-time.After(avoidedFor / 2)
		d.dead["b"] = true
		require.NoError(t, dial())
		require.Equal(t, []string{"b", "c"}, d.take())
		d.dead["c"] = true
		err := dial()
		require.ErrorContains(t, err, "c: refused")
		require.ErrorContains(t, err, "a: refused")
		require.Equal(t, []string{"c", "a", "b"}, d.take(), "those that failed longest ago come first")

		<-time.After(avoidedFor)
		d.dead = nil
		require.NoError(t, dial())
		require.Equal(t, []string{"a"}, d.take(), "after a while the order is that of the DSN")
	})
}

// The driver gives one time limit for all servers. One that hangs must not use it up.
func TestFailoverGivesEachServerItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFailover(slog.New(slog.DiscardHandler), dialTimeout)
		d := &dials{hung: map[string]bool{"a": true, "b": true}}
		o := &clickhouse.Options{Addr: []string{"a", "b", "c"}}
		ctx, cancel := context.WithTimeoutCause(t.Context(), dialTimeout, clickhouse.ErrAcquireConnTimeout)
		defer cancel()
		begun := time.Now()
		_, err := f.dial(ctx, 1, o, d.dial)
		require.NoError(t, err)
		require.Equal(t, []string{"a", "b", "c"}, d.take())
		require.Equal(t, 2*dialTimeout, time.Since(begun))

		// A caller that goes ends it at once.
		d.hung["c"] = true
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, leave)
		begun = time.Now()
		_, err = f.dial(ctx, 1, o, d.dial)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, time.Second, time.Since(begun))
		require.Equal(t, []string{"c"}, d.take())
	})
}

func TestFailoverRoundRobin(t *testing.T) {
	t.Parallel()
	f := newFailover(slog.New(slog.DiscardHandler), dialTimeout)
	d := &dials{}
	o := &clickhouse.Options{Addr: []string{"a", "b", "c"}, ConnOpenStrategy: clickhouse.ConnOpenRoundRobin}
	for id := range 4 {
		_, err := f.dial(t.Context(), id, o, d.dial)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"a", "b", "c", "a"}, d.take())
	_, err := f.dial(t.Context(), 1, &clickhouse.Options{}, d.dial)
	require.ErrorIs(t, err, clickhouse.ErrAcquireConnNoAddress)
}
