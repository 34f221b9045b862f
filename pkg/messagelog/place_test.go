package messagelog_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// commits is a message log in records of many messages, of one and of none.
type commits struct {
	*testkit.Deployment
	t      *testing.T
	ctx    context.Context
	log    *messagelog.Log
	stream jetstream.Stream
	start  time.Time
	record uint64   // the last one written
	in     []uint64 // in[n] is the record that message n is in; the first is 1
	newest message.ID
	seqs   map[string]uint64
}

func newCommits(t *testing.T) *commits {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	c := &commits{Deployment: testkit.StartDeployment(t, 1), t: t, ctx: ctx, start: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), in: []uint64{0}, seqs: make(map[string]uint64)}
	var err error
	c.log, err = messagelog.Open(ctx, c.JetStream, 0)
	require.NoError(t, err)
	c.stream, err = c.JetStream.Stream(ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	return c
}

// at is when message n was accepted: a second after the one before.
func (c *commits) at(n int) time.Time { return c.start.Add(time.Duration(n) * time.Second) }

// write appends a record with a message of each channel.
func (c *commits) write(channels ...string) {
	c.t.Helper()
	c.record++
	first, batch := uint64(len(c.in)), [][]byte{}
	for i, channel := range channels {
		encoded, err := (&message.Send{ChannelId: channel, ChannelType: 2, FromUid: "u", Payload: []byte("hi")}).MarshalVT()
		require.NoError(c.t, err)
		c.seqs[channel]++
		c.newest = message.MakeID(c.at(len(c.in)).UnixMilli()-message.Epoch().UnixMilli(), 0, 0)
		batch = append(batch, message.AppendMessage(nil, encoded, message.Identity{ID: c.newest, Seq: c.seqs[channel], WALSeq: c.record, WALIndex: uint32(i)}))
		c.in = append(c.in, c.record)
	}
	data := testkit.MessageBatch(first, batch...)
	if len(channels) == 0 {
		data = testkit.EmptyMessageBatch(first, c.newest)
	}
	_, err := c.JetStream.Publish(c.ctx, topology.MessagesSubject(0), data)
	require.NoError(c.t, err)
}

// requirePlaces looks for every message from first on, however it is asked for.
func (c *commits) requirePlaces(first int) {
	c.t.Helper()
	last := len(c.in) - 1
	bounds, err := c.log.Bounds(c.ctx)
	require.NoError(c.t, err)
	require.Equal(c.t, []uint64{uint64(first), uint64(last)}, []uint64{bounds.First, bounds.Last})
	require.False(c.t, bounds.Gone)
	for n := first; n <= last; n++ {
		for _, hint := range []uint64{0, c.in[n], c.in[n] - 1, 1, c.record, c.record + 100} {
			record, err := c.log.Locate(c.ctx, uint64(n), hint)
			require.NoError(c.t, err)
			require.Equal(c.t, c.in[n], record, "message %d, hint %d", n, hint)
		}
		entry, err := c.log.At(c.ctx, uint64(n), 0)
		require.NoError(c.t, err)
		require.Equal(c.t, []uint64{uint64(n), c.in[n]}, []uint64{entry.PartitionSeq, entry.StreamSeq})
		id, err := message.ViewID(entry.Data)
		require.NoError(c.t, err)
		require.Equal(c.t, c.at(n).UnixMilli(), id.UnixMilli())
		for _, at := range []time.Time{c.at(n), c.at(n).Add(-time.Millisecond)} {
			place, err := c.log.SeekTime(c.ctx, at)
			require.NoError(c.t, err)
			require.EqualValues(c.t, n, place)
		}
	}
	_, err = c.log.At(c.ctx, uint64(last+1), 0)
	require.ErrorIs(c.t, err, jetstream.ErrMsgNotFound)
	end, err := c.log.Locate(c.ctx, uint64(last+1), 0)
	require.NoError(c.t, err)
	require.Equal(c.t, c.record+1, end)
	place, err := c.log.SeekTime(c.ctx, c.at(last).Add(time.Millisecond))
	require.NoError(c.t, err)
	require.EqualValues(c.t, last+1, place)
	place, err = c.log.SeekTime(c.ctx, c.start)
	require.NoError(c.t, err)
	require.EqualValues(c.t, first, place)
	for _, from := range []int{first, (first + last) / 2, last} {
		require.Equal(c.t, places(from, last), c.rangeOf(uint64(from), uint64(last)))
	}
	require.Equal(c.t, places(first, last-1), c.rangeOf(1, uint64(last-1)))
}

func places(first, last int) (out []uint64) {
	for n := first; n <= last; n++ {
		out = append(out, uint64(n))
	}
	return out
}

func (c *commits) rangeOf(first, last uint64, channels ...messagelog.Channel) (out []uint64) {
	c.t.Helper()
	require.NoError(c.t, c.log.Range(c.ctx, first, last, channels, func(e messagelog.Entry) error {
		require.Equal(c.t, c.in[e.PartitionSeq], e.StreamSeq)
		out = append(out, e.PartitionSeq)
		return nil
	}))
	return out
}

func group(name string) messagelog.Channel { return messagelog.Channel{ID: name, Type: 2} }

func TestPlacesAreFound(t *testing.T) {
	t.Parallel()
	c := newCommits(t)
	bounds, err := c.log.Bounds(c.ctx)
	require.NoError(t, err)
	require.Equal(t, []uint64{1, 0}, []uint64{bounds.First, bounds.Last})
	require.False(t, bounds.Gone)
	require.Empty(t, c.rangeOf(1, 0))

	c.write() // the first record may have none, as may the last and many in a row
	c.write()
	bounds, err = c.log.Bounds(c.ctx)
	require.NoError(t, err)
	require.Equal(t, []uint64{1, 0}, []uint64{bounds.First, bounds.Last})
	require.Empty(t, c.rangeOf(1, 0))
	c.write("a", "b", "a", "c")
	c.write("a")
	for range 9 {
		c.write()
	}
	c.write("b", "b")
	c.write("c", "a", "b")
	c.write()
	c.requirePlaces(1)
	require.Equal(t, []uint64{1, 3, 5, 9}, c.rangeOf(1, 10, group("a")))
	require.Equal(t, []uint64{4, 8}, c.rangeOf(2, 9, group("c")))
	require.Equal(t, []uint64{2, 4, 6, 7, 8, 10}, c.rangeOf(2, 10, group("c"), group("b")))
	require.Empty(t, c.rangeOf(1, 10, messagelog.Channel{ID: "a", Type: 3}))

	// Retention takes whole records.
	require.NoError(t, c.stream.Purge(c.ctx, jetstream.WithPurgeSequence(4)))
	c.requirePlaces(5)
	// One in the middle is deleted: what it held is not there, and all else is.
	require.NoError(t, c.stream.DeleteMsg(c.ctx, 14))
	_, err = c.log.At(c.ctx, 6, 0)
	require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
	require.Equal(t, []uint64{5, 8, 9, 10}, c.rangeOf(1, 10))
	// So are the last ones.
	require.NoError(t, c.stream.DeleteMsg(c.ctx, 16))
	require.Equal(t, []uint64{5, 8, 9, 10}, c.rangeOf(1, 10))
	require.NoError(t, c.stream.DeleteMsg(c.ctx, 15))
	require.Equal(t, []uint64{5}, c.rangeOf(1, 10))
	// And everything.
	require.NoError(t, c.stream.Purge(c.ctx))
	bounds, err = c.log.Bounds(c.ctx)
	require.NoError(t, err)
	require.True(t, bounds.Gone)
	require.Empty(t, c.rangeOf(1, 10))
	end, err := c.log.Locate(c.ctx, 11, 0)
	require.NoError(t, err)
	require.EqualValues(t, 17, end)
	c.write("a")
	c.requirePlaces(11)
}

// A channel's messages are looked for from the end, block by block, and may lie in any of them.
func TestMessageSeqsAreFoundFarBack(t *testing.T) {
	t.Parallel()
	c := newCommits(t)
	wait := func(seq uint64, channel string) (uint64, error) {
		return c.log.SeekMessageSeq(c.ctx, group(channel), seq)
	}
	place, err := wait(1, "a")
	require.NoError(t, err)
	require.EqualValues(t, 1, place, "an empty log")
	c.write("a", "rare", "a") // message 3 is a's second
	for n := range 500 {
		if n%100 == 50 {
			c.write("a", "b", "a")
		} else {
			c.write("b")
		}
	}
	for channel, last := range map[string]uint64{"a": 12, "b": 500, "rare": 1, "nobody": 0} {
		seq, err := c.log.LastMessageSeq(c.ctx, group(channel))
		require.NoError(t, err)
		require.Equal(t, last, seq, channel)
	}
	for seq := uint64(1); seq <= 12; seq++ {
		place, err := wait(seq, "a")
		require.NoError(t, err)
		entry, err := c.log.At(c.ctx, place, 0)
		require.NoError(t, err)
		have, err := message.ViewSeq(entry.Data)
		require.NoError(t, err)
		require.Equal(t, seq, have)
		view, err := message.ViewSend(entry.Data)
		require.NoError(t, err)
		require.Equal(t, "a", string(view.ChannelID))
	}
	for _, behind := range []struct {
		seq     uint64
		channel string
	}{{13, "a"}, {2, "rare"}, {1, "nobody"}} {
		place, err := wait(behind.seq, behind.channel)
		require.NoError(t, err)
		require.EqualValues(t, len(c.in), place, "%+v", behind)
	}
	require.NoError(t, c.stream.Purge(c.ctx, jetstream.WithPurgeSequence(100)))
	place, err = wait(1, "a")
	require.NoError(t, err)
	require.EqualValues(t, 152, c.in[place], "a higher one if it is not kept any more")
}

// A reader gives whole records, or message by message from a place within one.
func TestReadsFromWithinARecord(t *testing.T) {
	t.Parallel()
	c := newCommits(t)
	c.write("a", "b", "c")
	c.write()
	c.write("a", "b")
	reader, err := c.log.Read(c.ctx, 2)
	require.NoError(t, err)
	defer reader.Stop()
	for _, want := range []uint64{2, 3, 4} {
		entry, err := reader.Next(c.ctx)
		require.NoError(t, err)
		require.Equal(t, want, entry.PartitionSeq)
	}
	c.write("d") // what is left of the record before is passed over
	record, err := reader.NextRecord(c.ctx)
	require.NoError(t, err)
	require.EqualValues(t, 4, record.Seq)
	require.EqualValues(t, 6, record.Batch.First)
}

// A record of another program ends what reads: to continue after it would skip unknown content.
func TestARecordThatIsNone(t *testing.T) {
	t.Parallel()
	c := newCommits(t)
	c.write("a", "b")
	_, err := c.JetStream.Publish(c.ctx, topology.MessagesSubject(0), []byte("no batch"))
	require.NoError(t, err)
	c.record++
	c.write("c")
	for name, read := range map[string]func(func(messagelog.Entry) error) error{
		"range":  func(f func(messagelog.Entry) error) error { return c.log.Range(c.ctx, 1, 3, nil, f) },
		"follow": func(f func(messagelog.Entry) error) error { return c.log.Follow(c.ctx, 1, nil, f) },
	} {
		err := read(func(e messagelog.Entry) error {
			require.LessOrEqual(t, e.PartitionSeq, uint64(2))
			return nil
		})
		require.ErrorIs(t, err, message.ErrNotAMessageBatch, name)
		require.ErrorContains(t, err, "record 2 of MESSAGES_0", name)
	}
}

// requireNothing asks a log that has no message in every way; the next one will be at a place.
func (c *commits) requireNothing(next uint64) {
	c.t.Helper()
	bounds, err := c.log.Bounds(c.ctx)
	require.NoError(c.t, err)
	require.Equal(c.t, []uint64{next, next - 1}, []uint64{bounds.First, bounds.Last})
	for _, hint := range []uint64{0, 1, c.record, c.record + 1} {
		record, err := c.log.Locate(c.ctx, uint64(len(c.in)), hint)
		require.NoError(c.t, err)
		require.Equal(c.t, c.record+1, record, "hint %d", hint)
		_, err = c.log.At(c.ctx, uint64(len(c.in)), hint)
		require.ErrorIs(c.t, err, jetstream.ErrMsgNotFound)
	}
	for _, at := range []time.Time{c.start.Add(-time.Hour), c.at(1), c.start.Add(time.Hour)} {
		place, err := c.log.SeekTime(c.ctx, at)
		require.NoError(c.t, err)
		require.Equal(c.t, next, place, at)
	}
	place, err := c.log.SeekMessageSeq(c.ctx, group("a"), 1)
	require.NoError(c.t, err)
	require.Equal(c.t, next, place)
	last, err := c.log.LastMessageSeq(c.ctx, group("a"))
	require.NoError(c.t, err)
	require.Zero(c.t, last)
	require.Empty(c.t, c.rangeOf(1, uint64(len(c.in)-1)))
}

func TestRecordsWithoutMessagesAreALogOfNone(t *testing.T) {
	t.Parallel()
	c := newCommits(t)
	c.requireNothing(1)
	for range 3 {
		c.write()
	}
	c.requireNothing(1)
	c.write("a", "b")
	for range 3 {
		c.write()
	}
	c.requirePlaces(1)
	require.NoError(t, c.stream.Purge(c.ctx, jetstream.WithPurgeSequence(5))) // what is left says which message is next
	c.requireNothing(3)
	require.NoError(t, c.stream.Purge(c.ctx))
	c.requireNothing(1)
}

// The last message is deleted by hand, and an empty record after it still counts it.
func TestTheLastMessageIsDeletedBeforeAnEmptyRecord(t *testing.T) {
	t.Parallel()
	c := newCommits(t)
	c.write("a", "a")
	c.write("b", "b")
	c.write()
	require.NoError(t, c.stream.DeleteMsg(c.ctx, 2))
	require.Equal(t, []uint64{1, 2}, c.rangeOf(1, 4))
	for _, hint := range []uint64{0, 1, 2, 3} {
		record, err := c.log.Locate(c.ctx, 3, hint)
		require.NoError(t, err)
		require.EqualValues(t, 3, record, "hint %d", hint)
		_, err = c.log.At(c.ctx, 3, hint)
		require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
	}
	for channel, last := range map[string]uint64{"a": 2, "b": 0} {
		seq, err := c.log.LastMessageSeq(c.ctx, group(channel))
		require.NoError(t, err)
		require.Equal(t, last, seq, channel)
	}
}

// A no_persist message has an ID and no place: where the last IDs of a commit are of such ones, a time that only they have reached is that of
// the message after the record.
func TestTimesThatOnlyUnstoredMessagesReached(t *testing.T) {
	t.Parallel()
	c := newCommits(t)
	c.write("a", "b")
	encoded, err := (&message.Send{ChannelId: "a", ChannelType: 2}).MarshalVT()
	require.NoError(t, err)
	id := func(n int) message.ID { return message.MakeID(c.at(n).UnixMilli()-message.Epoch().UnixMilli(), 0, 0) }
	batch := message.AppendBatchMessage(message.AppendBatchHead(nil, 3, id(5)), encoded, message.Identity{ID: id(3), Seq: 2, WALSeq: 2})
	_, err = c.JetStream.Publish(c.ctx, topology.MessagesSubject(0), batch)
	require.NoError(t, err)
	for _, more := range []bool{false, true} { // at the end of the log, and within it
		if more {
			_, err := c.JetStream.Publish(c.ctx, topology.MessagesSubject(0), testkit.MessageBatch(4, message.AppendMessage(nil, encoded, message.Identity{ID: id(6), Seq: 3, WALSeq: 3})))
			require.NoError(t, err)
		}
		for n, want := range map[int]uint64{2: 2, 3: 3, 4: 4, 5: 4, 6: 4} {
			place, err := c.log.SeekTime(c.ctx, c.at(n))
			require.NoError(t, err)
			require.Equal(t, want, place, "second %d", n)
		}
	}
}

// A log grows while it is asked. What it had before is where it was.
func TestRecordsThatComeMeanwhile(t *testing.T) {
	t.Parallel()
	const rounds = 10
	c := newCommits(t)
	for range 20 {
		c.write("a", "b", "a")
		c.write()
	}
	in, asked := append([]uint64(nil), c.in...), make(chan struct{})
	last := len(in) - 1
	go func() {
		defer close(asked)
		for round := range rounds {
			for n := 1 + round; n <= last; n += rounds {
				record, err := c.log.Locate(c.ctx, uint64(n), 0)
				assert.NoError(t, err)
				assert.Equal(t, in[n], record)
				place, err := c.log.SeekTime(c.ctx, c.at(n))
				assert.NoError(t, err)
				assert.EqualValues(t, n, place)
			}
			place, err := c.log.SeekMessageSeq(c.ctx, group("a"), 3) // each record of three has two
			assert.NoError(t, err)
			assert.EqualValues(t, 4, place)
			seq, err := c.log.LastMessageSeq(c.ctx, group("a"))
			assert.NoError(t, err)
			assert.GreaterOrEqual(t, seq, uint64(40))
			var got []uint64
			assert.NoError(t, c.log.Range(c.ctx, 2, uint64(last), nil, func(e messagelog.Entry) error {
				got = append(got, e.PartitionSeq)
				return nil
			}))
			assert.Equal(t, places(2, last), got)
		}
	}()
	for {
		select {
		case <-asked:
			require.Greater(t, len(c.in), len(in), "nothing came meanwhile")
			return
		default:
			c.write("a", "b")
			c.write()
		}
	}
}

// A server that was killed may come back without the end of the log, which is then derived again. A reader up to there gets an error.
func TestARangeWhoseTailIsLost(t *testing.T) {
	t.Parallel()
	const all, kept = 300, 200 // more than is read ahead
	c := newCommits(t)
	write := func(last int) {
		for len(c.in) <= last {
			c.write("a")
		}
	}
	lose := func() { // as if it had been so many records long
		require.NoError(t, c.JetStream.DeleteStream(c.ctx, topology.MessagesStream(0)))
		_, err := c.JetStream.CreateStream(c.ctx, c.stream.CachedInfo().Config)
		require.NoError(t, err)
		c.in, c.record, c.seqs = []uint64{0}, 0, make(map[string]uint64)
		write(kept)
	}
	write(all)
	var got []uint64
	err := c.log.Range(c.ctx, 1, all, nil, func(e messagelog.Entry) error {
		if got = append(got, e.PartitionSeq); e.PartitionSeq == 5 {
			lose()
		}
		return nil
	})
	require.ErrorIs(t, err, messagelog.ErrTailLost)
	require.Equal(t, places(1, kept), got)
	write(all)
	require.Equal(t, places(1, all), c.rangeOf(1, all))

	// Nor is it a success where the tail was lost before; what has come by then is given.
	lose()
	for _, first := range []uint64{1, kept + 2} {
		got = nil
		require.ErrorIs(t, c.log.Range(c.ctx, first, all, nil, func(e messagelog.Entry) error {
			got = append(got, e.PartitionSeq)
			return nil
		}), messagelog.ErrTailLost)
		require.Equal(t, places(int(first), kept), got)
	}
	require.NoError(t, c.JetStream.DeleteStream(c.ctx, topology.MessagesStream(0)))
	_, err = c.JetStream.CreateStream(c.ctx, c.stream.CachedInfo().Config)
	require.NoError(t, err)
	require.ErrorIs(t, c.log.Range(c.ctx, 1, all, nil, func(messagelog.Entry) error { return nil }), messagelog.ErrTailLost)
	c.in, c.record, c.seqs = []uint64{0}, 0, make(map[string]uint64)
	write(all)

	// What is deleted for good is no reason to wait.
	got = nil
	err = c.log.Range(c.ctx, 1, all, nil, func(e messagelog.Entry) error {
		if got = append(got, e.PartitionSeq); e.PartitionSeq == 5 {
			for n := kept + 1; n <= all; n++ {
				require.NoError(t, c.stream.DeleteMsg(c.ctx, uint64(n)))
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, places(1, kept), got)
}
