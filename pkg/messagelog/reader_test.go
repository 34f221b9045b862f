package messagelog_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

const records = 300

type bundle struct {
	*testkit.Deployment
	ctx context.Context
	log *messagelog.Log
}

// setup writes a message log of two channels by turns, one message in a record. It is some times as large as what a reader reads ahead.
func setup(t *testing.T) *bundle {
	t.Helper()
	return setupOf(t, 1)
}

// setupOf is setup with so many messages in a record and, if they are several, an empty record after each.
func setupOf(t *testing.T, each int) *bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	d := testkit.StartDeployment(t, 1)
	clock, err := message.NewIDClock(0, 0)
	require.NoError(t, err)
	write := func(batch []byte) {
		_, err := d.JetStream.PublishAsync(topology.MessagesSubject(0), batch, jetstream.WithStallWait(time.Minute))
		require.NoError(t, err)
	}
	content := []byte(strings.Repeat("x", 4*int(d.NATS.MaxPayload())/records))
	var record [][]byte
	for n := 1; n <= records; n++ {
		channel := fmt.Sprint("c", n%2)
		encoded, err := (&message.Send{ChannelId: channel, ChannelType: 2, FromUid: "u", Payload: content}).MarshalVT()
		require.NoError(t, err)
		record = append(record, message.AppendMessage(nil, encoded, message.Identity{ID: clock.Next(time.Now().UnixMilli()), Seq: uint64(n+1) / 2, WALSeq: uint64(n)}))
		if len(record) < each && n < records {
			continue
		}
		write(testkit.MessageBatch(uint64(n+1-len(record)), record...))
		record = nil
		if each > 1 {
			write(testkit.EmptyMessageBatch(uint64(n+1), clock.Last()))
		}
	}
	select {
	case <-d.JetStream.PublishAsyncComplete():
	case <-ctx.Done():
		require.FailNow(t, "the log is not written")
	}
	b := &bundle{Deployment: d, ctx: ctx}
	b.log, err = messagelog.Open(ctx, d.JetStream, 0)
	require.NoError(t, err)
	return b
}

// stall makes the consumers that there are deliver nothing more, while the broker keeps reporting them.
func (b *bundle) stall(t *testing.T) {
	t.Helper()
	stream, err := b.JetStream.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	stalled := 0
	names := stream.ConsumerNames(b.ctx)
	for name := range names.Name() {
		_, err := stream.PauseConsumer(b.ctx, name, time.Now().Add(time.Hour))
		require.NoError(t, err)
		stalled++
	}
	require.NoError(t, names.Err())
	require.Equal(t, 1, stalled, "the reader's consumer")
}

// A reader loses nothing to contexts that have ended, though records wait for it.
func TestAContextThatEndsTakesNoRecord(t *testing.T) {
	t.Parallel()
	b := setup(t)
	reader, err := b.log.Read(b.ctx, 1)
	require.NoError(t, err)
	defer reader.Stop()
	ended, end := context.WithCancel(b.ctx)
	end()
	for seq := uint64(1); seq <= records/4; seq++ {
		_, err := reader.Next(ended)
		require.ErrorIs(t, err, context.Canceled)
		record, err := reader.Next(b.ctx)
		require.NoError(t, err)
		require.Equal(t, seq, record.PartitionSeq)
	}
}

// A reader whose consumer stalls in the middle is replaced, and nothing is lost or comes twice.
func TestAStalledReaderIsReplaced(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		channels []messagelog.Channel
		step     uint64
		each     int
	}{
		"all channels":                  {nil, 1, 1},
		"one channel":                   {[]messagelog.Channel{{ID: "c1", Type: 2}}, 2, 1},
		"all channels, within a record": {nil, 1, 7},
		"one channel, within a record":  {[]messagelog.Channel{{ID: "c1", Type: 2}}, 2, 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setupOf(t, c.each)
			var got []uint64
			require.NoError(t, b.log.Range(b.ctx, 1, records, c.channels, func(r messagelog.Entry) error {
				if len(got) == min(c.each-1, 2) {
					b.stall(t)
				}
				got = append(got, r.PartitionSeq)
				return nil
			}))
			var want []uint64
			for seq := uint64(1); seq <= records; seq += c.step {
				want = append(want, seq)
			}
			require.Equal(t, want, got)
		})
	}
}

// What a stalled reader waited for may be deleted: then there is nothing more to come.
func TestAStalledReaderEndsWhereTheRestIsGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	stream, err := b.JetStream.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	var last uint64
	require.NoError(t, b.log.Range(b.ctx, 1, records, nil, func(r messagelog.Entry) error {
		if last == 0 {
			b.stall(t)
			require.NoError(t, stream.Purge(b.ctx))
		}
		require.Equal(t, last+1, r.PartitionSeq)
		last = r.PartitionSeq
		return nil
	}))
	require.Less(t, last, uint64(records), "what was read ahead came, and no more: is what is read ahead larger than the log?")
}

// Who follows a log gets what comes after a stall too, from a reader that is replaced.
func TestAStalledFollowerIsReplaced(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, cancel := context.WithCancel(b.ctx)
	var got []uint64
	require.ErrorIs(t, b.log.Follow(ctx, records-1, nil, func(r messagelog.Entry) error {
		got = append(got, r.PartitionSeq)
		switch r.PartitionSeq {
		case records:
			b.stall(t)
			_, err := b.JetStream.Publish(ctx, topology.MessagesSubject(0), testkit.MessageBatch(r.PartitionSeq+1, r.Data))
			require.NoError(t, err)
		case records + 1:
			cancel()
		}
		return nil
	}), context.Canceled)
	require.Equal(t, []uint64{records - 1, records, records + 1}, got)
}

func TestAFollowerEndsWithItsLog(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.ErrorIs(t, b.log.Follow(b.ctx, records, nil, func(messagelog.Entry) error {
		return b.JetStream.DeleteStream(b.ctx, topology.MessagesStream(0))
	}), jetstream.ErrStreamNotFound)
}

func TestRangeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, cancel := context.WithCancel(b.ctx)
	err := b.log.Range(ctx, 1, records, nil, func(messagelog.Entry) error {
		b.stall(t)
		cancel()
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	failed := errors.New("failed")
	require.ErrorIs(t, b.log.Range(b.ctx, 1, records, nil, func(messagelog.Entry) error { return failed }), failed)
}
