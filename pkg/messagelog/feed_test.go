package messagelog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// feed is a feed of partition 0 with what it gave.
type feed struct {
	*messagelog.Feed
	seqs   chan uint64
	failed chan error
}

// follow begins to read. The feed waits while its records are not taken.
func (b *bundle) follow(t *testing.T, js jetstream.JetStream, first uint64) *feed {
	t.Helper()
	f := &feed{seqs: make(chan uint64), failed: make(chan error, 10)}
	stopped, stop := context.WithCancel(context.Background())
	var err error
	f.Feed, err = messagelog.OpenFeed(b.ctx, messagelog.FeedConfig{
		JetStream: js, Stream: topology.MessagesStream(0), First: first,
		Handle: func(seq uint64, _ *nats.Msg) {
			select {
			case f.seqs <- seq:
			case <-stopped.Done():
			}
		},
		Failed: func(err error) { f.failed <- err },
		Warn:   func(err error) { t.Log(err) },
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		stop()
		f.Stop()
	})
	return f
}

// take wants the sequences from first to last to come, in order.
func (b *bundle) take(t *testing.T, f *feed, first, last uint64) {
	t.Helper()
	for want := first; want <= last; want++ {
		select {
		case seq := <-f.seqs:
			require.Equal(t, want, seq)
		case err := <-f.failed:
			require.NoError(t, err)
		case <-b.ctx.Done():
			require.FailNow(t, "nothing more comes", "waiting for %d", want)
		}
	}
}

// failure waits until the feed has failed. What comes before is passed over.
func (b *bundle) failure(t *testing.T, f *feed) error {
	t.Helper()
	for {
		select {
		case <-f.seqs:
		case err := <-f.failed:
			return err
		case <-b.ctx.Done():
			require.FailNow(t, "the feed has not failed")
		}
	}
}

// small writes many small records, so that requests end by their number. It returns the last sequence.
func (b *bundle) small(t *testing.T, n int) uint64 {
	t.Helper()
	var last jetstream.PubAckFuture
	var err error
	for range n {
		last, err = b.JetStream.PublishMsgAsync(&nats.Msg{Subject: topology.MessagesSubject(0), Data: []byte("x"), Header: nats.Header{"A": {"b"}}}, jetstream.WithStallWait(time.Minute))
		require.NoError(t, err)
	}
	select {
	case ack := <-last.Ok():
		return ack.Sequence
	case err := <-last.Err():
		require.NoError(t, err)
	case <-b.ctx.Done():
		require.FailNow(t, "the log is not written")
	}
	return 0
}

// A feed gives all records in their order, whatever ends its requests: their bytes, then their number, and at last
// nothing, at the end of the log while it waits for more.
func TestFeed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	last := b.small(t, 20_000)
	f := b.follow(t, b.JetStream, 1)
	b.take(t, f, 1, last)
	from := last + 1
	last = b.small(t, 3)
	b.take(t, f, from, last)
	f = b.follow(t, b.JetStream, last-1)
	b.take(t, f, last-1, last)
}

// A feed that is not taken from holds the server back: two requests' worth of bytes is all that is sent.
func TestASlowReaderHoldsTheServerBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	f := b.follow(t, b.JetStream, 1)
	b.take(t, f, 1, 1)
	stream, err := b.JetStream.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	testkit.WaitFor(t, time.Minute, "the requests to be used up", func(ctx context.Context) error {
		consumers := stream.ListConsumers(ctx)
		for info := range consumers.Info() {
			if info.NumWaiting > 0 {
				return fmt.Errorf("%d requests wait, %d records delivered", info.NumWaiting, info.Delivered.Consumer)
			}
			require.Less(t, info.Delivered.Consumer, uint64(records*3/4), "the log is four times what one request brings")
		}
		return consumers.Err()
	})
	b.take(t, f, 2, records)
}

// A feed ends where its consumer is gone, and drops it when it is stopped.
func TestAFeedWithoutAConsumerEnds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	stream, err := b.JetStream.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	names := func() (all []string) {
		list := stream.ConsumerNames(b.ctx)
		for name := range list.Name() {
			all = append(all, name)
		}
		require.NoError(t, list.Err())
		return all
	}
	f := b.follow(t, b.JetStream, records+1)
	for _, consumer := range names() {
		require.NoError(t, stream.DeleteConsumer(b.ctx, consumer))
	}
	require.ErrorIs(t, b.failure(t, f), messagelog.ErrFeedRefused)
	f = b.follow(t, b.JetStream, 1)
	require.Len(t, names(), 1)
	f.Stop()
	f.Stop()
	require.Empty(t, names())
}

func TestAFeedEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	b := setup(t)
	nc, js, err := broker.Connect(b.ctx, broker.Config{URL: b.Server.URL(), Options: []nats.Option{b.Server.Operator()}, Name: t.Name(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	f := b.follow(t, js, 1)
	require.NoError(t, nc.ForceReconnect())
	require.ErrorIs(t, b.failure(t, f), messagelog.ErrFeedCut)
	testkit.WaitFor(t, time.Minute, "the connection to be back", func(context.Context) error {
		if !nc.IsConnected() {
			return errors.New(nc.Status().String())
		}
		return nil
	})
	f.Stop()
	f = b.follow(t, js, 1)
	b.take(t, f, 1, records)
	nc.Close()
	require.ErrorIs(t, b.failure(t, f), messagelog.ErrFeedCut)
}
