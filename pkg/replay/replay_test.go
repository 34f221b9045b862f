package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

const (
	partitions = 2
	messages   = 3000 // of each partition
)

type bundle struct {
	t   testing.TB
	ctx context.Context
	js  jetstream.JetStream
}

// setup returns a message log, written as a sequencer would, in records of one message, of none, and of many: a second between two messages of a partition.
func setup(t testing.TB) *bundle {
	t.Helper()
	return setupOf(t, []byte("hi"))
}

// setupOf is setup with the content of each message.
func setupOf(t testing.TB, content []byte) *bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	js := testkit.StartDeployment(t, partitions).JetStream
	for p := range partitions {
		clock, err := message.NewIDClock(p, 0)
		require.NoError(t, err)
		var record [][]byte
		sizes := []int{1, 7, 0, 100}
		put := func(last int) {
			batch := testkit.MessageBatch(uint64(last-len(record)+1), record...)
			if len(record) == 0 {
				batch = testkit.EmptyMessageBatch(uint64(last+1), clock.Last())
			}
			_, err := js.PublishAsync(topology.MessagesSubject(p), batch, jetstream.WithStallWait(time.Minute))
			require.NoError(t, err)
			record, sizes = nil, append(sizes[1:], sizes[0])
		}
		for n := 1; n <= messages; n++ {
			if sizes[0] == 0 {
				put(n - 1)
			}
			channel := channelOf(p, n%10)
			encoded, err := (&message.Send{ChannelId: channel, ChannelType: 2, FromUid: "u", ClientMsgNo: fmt.Sprint(n), Payload: content}).MarshalVT()
			require.NoError(t, err)
			record = append(record, message.AppendMessage(nil, encoded, message.Identity{ID: clock.Next(start().Add(time.Duration(n) * time.Second).UnixMilli()), Seq: uint64(n/10 + 1), WALSeq: uint64(n)}))
			if len(record) == sizes[0] || n == messages {
				put(n)
			}
		}
	}
	<-js.PublishAsyncComplete()
	return &bundle{t: t, ctx: ctx, js: js}
}

func start() time.Time { return time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC) }

// channelOf returns channel n of a partition.
func channelOf(partition, n int) string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("c%d-%d", n, i)
		if topology.Partitions(partitions).Of(name, 2) == partition {
			return name
		}
	}
}

func (b *bundle) config(args ...string) Config {
	b.t.Helper()
	var cfg Config
	_, err := config.Parse(args, &cfg)
	require.NoError(b.t, err)
	return cfg
}

func (b *bundle) run(sink Sink, args ...string) (Result, error) {
	b.t.Helper()
	return Run(b.ctx, b.config(args...), NewMessageLog(b.js), partitions, sink, io.Discard)
}

// places reads what was written, as "partition partition_seq".
func places(t testing.TB, text []byte) []string {
	t.Helper()
	out := []string{}
	for decoder := json.NewDecoder(bytes.NewReader(text)); ; {
		var l struct {
			Partition    int    `json:"partition"`
			PartitionSeq uint64 `json:"partition_seq"`
		}
		err := decoder.Decode(&l)
		if errors.Is(err, io.EOF) {
			return out
		}
		require.NoError(t, err)
		out = append(out, fmt.Sprintf("%d %d", l.Partition, l.PartitionSeq))
	}
}

func wanted(partition, first, last int) []string {
	out := []string{}
	for n := first; n <= last; n++ {
		out = append(out, fmt.Sprintf("%d %d", partition, n))
	}
	return out
}

func TestSelections(t *testing.T) {
	t.Parallel()
	b := setup(t)
	show := func(args ...string) []string {
		var out bytes.Buffer
		sink, err := NewNDJSON(&out, "")
		require.NoError(t, err)
		_, err = b.run(sink, args...)
		require.NoError(t, err)
		return places(t, out.Bytes())
	}
	at := func(n int) string { return start().Add(time.Duration(n) * time.Second).Format(time.RFC3339) }
	all := append(wanted(0, 1, messages), wanted(1, 1, messages)...)
	require.Equal(t, all, show())
	require.Equal(t, all, show("--replay-rate=50000"))
	require.Equal(t, wanted(1, 1, messages), show("--replay-partition=1"))
	require.Equal(t, wanted(1, 2990, messages), show("--replay-partition=1", "--from-partition-seq=2990"))
	require.Equal(t, append(wanted(0, 101, 199), wanted(1, 101, 199)...), show("--from="+at(101), "--until="+at(200)))
	require.Empty(t, show("--from=2026-06-01"))
	one := show("--replay-channel=2/" + channelOf(1, 3))
	require.Len(t, one, messages/10)
	require.Equal(t, []string{"1 3", "1 13"}, one[:2])
	require.Len(t, show("--replay-channel=2/"+channelOf(1, 3), "--replay-channel=2/"+channelOf(0, 3)), messages/5)
	require.Empty(t, show("--replay-channel=2/unknown"))
}

// crash is a sink that dies at a batch, before or after it has taken it, without an error.
type crash struct {
	Sink
	at    int
	taken bool
}

var errCrash = errors.New("crash")

func (c *crash) Put(ctx context.Context, batch []messagelog.Entry) (uint64, error) {
	c.at--
	if c.at > 0 {
		return c.Sink.Put(ctx, batch)
	}
	if c.taken {
		if _, err := c.Sink.Put(ctx, batch); err != nil {
			return 0, err
		}
	}
	return 0, errCrash
}

func (c *crash) Of(replay string) {
	if sink, ok := c.Sink.(Identified); ok {
		sink.Of(replay)
	}
}

func TestAFileIsGoneOnWithExactly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, taken := range []bool{false, true} {
		dir := t.TempDir()
		path, state := filepath.Join(dir, "out"), "--state="+filepath.Join(dir, "state")
		resumed := 0
		for at := 1; ; at++ {
			sink, err := NewNDJSON(nil, path)
			require.NoError(t, err)
			result, err := b.run(&crash{Sink: sink, at: at, taken: taken}, state)
			require.NoError(t, sink.Close())
			if result.Resumed {
				resumed++
			}
			if err == nil {
				break
			}
			require.ErrorIs(t, err, errCrash)
		}
		require.Greater(t, resumed, 1)
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, append(wanted(0, 1, messages), wanted(1, 1, messages)...), places(t, text))

		// Another one, to the same file without its state, is refused; so is another selection with it.
		sink, err := NewNDJSON(nil, path)
		require.NoError(t, err)
		_, err = b.run(sink)
		require.ErrorContains(t, err, "is not empty")
		_, err = b.run(sink, state, "--replay-partition=1")
		require.ErrorContains(t, err, "is of another replay")
		require.NoError(t, os.Truncate(path, 100))
		_, err = b.run(sink, state)
		require.ErrorContains(t, err, "it is not the file of this replay")
		require.NoError(t, sink.Close())
	}
}

func TestAStreamIsGoneOnWithExactly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := NewSubject(b.ctx, b.js, "copy")
	require.ErrorContains(t, err, "find the stream that takes copy.>")
	_, err = NewSubject(b.ctx, b.js, "messages.x")
	require.ErrorContains(t, err, "Sendhouse's own")
	target, err := b.js.CreateStream(b.ctx, jetstream.StreamConfig{Name: "COPY", Subjects: []string{"copy.>"}})
	require.NoError(t, err)
	_, err = b.js.Publish(b.ctx, "copy.0.2.x", []byte("of somebody else"))
	require.NoError(t, err)
	state := "--state=" + filepath.Join(t.TempDir(), "state")
	for at := 1; ; at++ {
		sink, err := NewSubject(b.ctx, b.js, "copy")
		require.NoError(t, err)
		if _, err = b.run(&crash{Sink: sink, at: at, taken: at%2 == 0}, state); err == nil {
			break
		}
		require.ErrorIs(t, err, errCrash)
	}
	info, err := target.Info(b.ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1+partitions*messages, info.State.Msgs)
	seen := make(map[string]bool)
	for seq := uint64(2); seq <= info.State.LastSeq; seq++ {
		m, err := target.GetMsg(b.ctx, seq)
		require.NoError(t, err)
		var partition int
		var n uint64
		_, err = fmt.Sscan(m.Header.Get(HeaderPartition)+" "+m.Header.Get(HeaderPartitionSeq), &partition, &n)
		require.NoError(t, err)
		if seq%97 == 0 { // a look at each would take long
			log, err := messagelog.Open(b.ctx, b.js, partition)
			require.NoError(t, err)
			want, err := log.At(b.ctx, n, 0)
			require.NoError(t, err)
			require.Equal(t, want.Data, m.Data)
			view, err := message.ViewSend(want.Data)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("copy.%d.2.%s", partition, view.ChannelID), m.Subject)
		}
		seen[m.Header.Get(HeaderPartition)+" "+m.Header.Get(HeaderPartitionSeq)] = true
	}
	require.Len(t, seen, partitions*messages)
}

// late is a sink that what another one had published before its process died comes to only now.
type late struct {
	*Subject
	dead *Subject
}

func (l *late) Put(ctx context.Context, batch []messagelog.Entry) (uint64, error) {
	for _, e := range batch {
		m, err := l.dead.message(e)
		if err == nil {
			err = l.js.Conn().PublishMsg(m)
		}
		if err != nil {
			return 0, err
		}
	}
	return l.Subject.Put(ctx, batch)
}

// What a replay had published when it died may come to the stream after the next start has looked. Another replay is another copy, also at once.
func TestWhatComesLateIsNotThereTwice(t *testing.T) {
	t.Parallel()
	b := setup(t)
	target, err := b.js.CreateStream(b.ctx, jetstream.StreamConfig{Name: "COPY", Subjects: []string{"copy.>"}})
	require.NoError(t, err)
	const each = 600
	for copies := 1; copies <= 2; copies++ {
		args := []string{"--replay-partition=1", fmt.Sprintf("--from-partition-seq=%d", messages-each+1), "--state=" + filepath.Join(t.TempDir(), "state")}
		dead, err := NewSubject(b.ctx, b.js, "copy")
		require.NoError(t, err)
		_, err = b.run(&crash{Sink: dead, at: 1}, args...)
		require.ErrorIs(t, err, errCrash)
		sink, err := NewSubject(b.ctx, b.js, "copy")
		require.NoError(t, err)
		_, err = b.run(&late{sink, dead}, args...)
		require.NoError(t, err)
		info, err := target.Info(b.ctx)
		require.NoError(t, err)
		require.EqualValues(t, copies*each, info.State.Msgs)
	}
}

func TestALogMadeAnewIsNotGoneOnWith(t *testing.T) {
	t.Parallel()
	b := setup(t)
	state := "--state=" + filepath.Join(t.TempDir(), "state")
	var out bytes.Buffer
	sink, err := NewNDJSON(&out, "")
	require.NoError(t, err)
	_, err = b.run(&crash{Sink: sink, at: 2}, state)
	require.ErrorIs(t, err, errCrash)
	stream, err := b.js.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	cfg := stream.CachedInfo().Config
	require.NoError(t, b.js.DeleteStream(b.ctx, topology.MessagesStream(0)))
	_, err = b.js.CreateStream(b.ctx, cfg)
	require.NoError(t, err)
	_, err = b.run(sink, state)
	require.ErrorIs(t, err, errRecreated)
}

// said is run, with the lines that were printed beside the messages.
func (b *bundle) said(sink Sink, args ...string) (string, error) {
	b.t.Helper()
	var lines bytes.Buffer
	_, err := Run(b.ctx, b.config(args...), NewMessageLog(b.js), partitions, sink, &lines)
	return lines.String(), err
}

// A log that ends before a replay's end has lost its tail, which the sequencer derives again. Until then the replay is not through.
func TestALostTailIsNotPassedOver(t *testing.T) {
	t.Parallel()
	const all = messages + 1000
	b := setup(t)
	path := filepath.Join(t.TempDir(), "state")
	args := []string{"--replay-partition=0", "--state=" + path}
	var out bytes.Buffer
	sink, err := NewNDJSON(&out, "")
	require.NoError(t, err)
	_, err = b.run(&crash{Sink: sink, at: 2}, args...)
	require.ErrorIs(t, err, errCrash)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	s := new(state)
	require.NoError(t, json.Unmarshal(text, s))
	s.Parts[0].Last = all
	require.NoError(t, s.save(path))

	_, err = b.run(sink, args...)
	require.ErrorIs(t, err, messagelog.ErrTailLost)
	_, err = b.run(sink, args...)
	require.ErrorIs(t, err, messagelog.ErrTailLost)
	require.Equal(t, wanted(0, 1, messages), places(t, out.Bytes()))
	log, err := messagelog.Open(b.ctx, b.js, 0)
	require.NoError(t, err)
	some, err := log.At(b.ctx, 1, 0)
	require.NoError(t, err)
	for n := messages + 1; n <= all; n++ {
		_, err := b.js.PublishAsync(topology.MessagesSubject(0), testkit.MessageBatch(uint64(n), some.Data), jetstream.WithStallWait(time.Minute))
		require.NoError(t, err)
	}
	<-b.js.PublishAsyncComplete()
	_, err = b.run(sink, args...)
	require.NoError(t, err)
	require.Equal(t, wanted(0, 1, all), places(t, out.Bytes()))
}

// first is a sink of small batches that does something before the first of them.
type first struct {
	Sink
	before func()
}

func (*first) BatchMax() int { return 20 }

func (f *first) Put(ctx context.Context, batch []messagelog.Entry) (uint64, error) {
	if f.before != nil {
		f.before()
		f.before = nil
	}
	return f.Sink.Put(ctx, batch)
}

// Messages that are gone when a replay comes to them are reported, whether they went while the replay ran or before: at the beginning, in the middle and at the end.
func TestWhatIsTakenMeanwhileIsTold(t *testing.T) {
	t.Parallel()
	for name, chosen := range map[string]string{"all channels": "--replay-partition=0", "one channel": "--replay-channel=2/" + channelOf(0, 3)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setupOf(t, bytes.Repeat([]byte("x"), 4000)) // more than is read ahead
			stream, err := b.js.Stream(b.ctx, topology.MessagesStream(0))
			require.NoError(t, err)
			last := stream.CachedInfo().State.LastSeq
			args := []string{chosen}
			require.NoError(t, stream.DeleteMsg(b.ctx, 2)) // messages 2 to 8
			var out bytes.Buffer
			sink, err := NewNDJSON(&out, "")
			require.NoError(t, err)
			said, err := b.said(&first{sink, func() {
				require.NoError(t, stream.Purge(b.ctx, jetstream.WithPurgeSequence(last-10)))
				require.NoError(t, stream.DeleteMsg(b.ctx, last-4))
			}}, args...)
			require.NoError(t, err)
			require.Contains(t, said, "partition 0: retention has taken messages 2 to 8 before they were replayed\n")

			got := places(t, out.Bytes())
			told, lines := make(map[string]bool), 0
			for line := range strings.Lines(said) {
				var from, to int
				if _, err := fmt.Sscanf(line, "partition 0: retention has taken messages %d to %d before", &from, &to); err == nil {
					lines++
					for _, place := range wanted(0, from, to) {
						told[place] = true
					}
				}
			}
			require.GreaterOrEqual(t, lines, 3, said)
			var want []string
			for n := 1; n <= messages; n++ {
				if place := fmt.Sprintf("0 %d", n); (name == "all channels" || n%10 == 3) && !told[place] {
					want = append(want, place)
				}
			}
			require.Equal(t, want, got)

			// Nothing is left when one is resumed.
			args = append(args, "--state="+filepath.Join(t.TempDir(), "state"))
			_, err = b.said(&crash{Sink: &first{Sink: sink}, at: 1}, args...)
			require.ErrorIs(t, err, errCrash)
			require.NoError(t, stream.Purge(b.ctx))
			said, err = b.said(sink, args...)
			require.NoError(t, err)
			require.Contains(t, said, fmt.Sprintf(" to %d before they were replayed\n", messages))
		})
	}
}

// A replay from a beginning that the log no longer has fails with the beginning that it has.
func TestABeginningThatIsGoneIsTold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	stream, err := b.js.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.Purge(b.ctx, jetstream.WithPurgeSequence(3))) // up to message 8
	for _, row := range []struct {
		from string
		told bool
	}{{"", true}, {"--from-partition-seq=1", true}, {"--from-partition-seq=8", true}, {"--from-partition-seq=9", false}, {"--from-partition-seq=10", false}} {
		var out bytes.Buffer
		sink, err := NewNDJSON(&out, "")
		require.NoError(t, err)
		args := []string{"--replay-partition=0"}
		if row.from != "" {
			args = append(args, row.from)
		}
		said, err := b.said(sink, args...)
		require.NoError(t, err)
		require.Equal(t, row.told, strings.Contains(said, "partition 0: the message log begins at partition_seq 9\n"), "%s: %s", row.from, said)
	}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--from=1h", "--from-partition-seq=3"}, "only one can be given"},
		{[]string{"--from=1h", "--until=2h"}, "--until: must be after"},
		{[]string{"--replay-rate=-1"}, "must not be negative"},
		{[]string{"--replay-channel=group"}, "a type from 1 to 255"},
		{[]string{"--replay-channel=256/group"}, "a type from 1 to 255"},
		{[]string{"--replay-channel=1/alice"}, "two uids joined by @"},
	} {
		_, err := config.Parse(c.args, new(Config))
		require.ErrorContains(t, err, c.want, "%v", c.args)
	}
}
