package tail

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
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

const partitions = 3

// bundle is a message log, written as a sequencer would.
type bundle struct {
	t     testing.TB
	ctx   context.Context
	js    jetstream.JetStream
	ids   [partitions]message.IDClock
	seqs  map[string]uint64
	count [partitions]uint64 // messages
	start time.Time          // of the first message; each is a second later than the one before
	n     int
}

func setup(t testing.TB) *bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	js := testkit.StartDeployment(t, partitions).JetStream
	b := &bundle{t: t, ctx: ctx, js: js, seqs: make(map[string]uint64), start: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	for p := range b.ids {
		var err error
		b.ids[p], err = message.NewIDClock(p, 0)
		require.NoError(t, err)
	}
	return b
}

// write appends a message to a channel, a second after the one before.
func (b *bundle) write(channel string, kind message.ChannelType, payload string) {
	b.t.Helper()
	p := topology.Partitions(partitions).Of(channel, kind)
	encoded, err := (&message.Send{ChannelId: channel, ChannelType: uint32(kind), FromUid: "u", ClientMsgNo: fmt.Sprint(b.n), Payload: []byte(payload)}).MarshalVT()
	require.NoError(b.t, err)
	b.seqs[channel]++
	at := b.start.Add(time.Duration(b.n) * time.Second)
	encoded = message.AppendMessage(nil, encoded, message.Identity{ID: b.ids[p].Next(at.UnixMilli()), Seq: b.seqs[channel], WALSeq: uint64(b.n + 1)})
	b.count[p]++
	_, err = b.js.Publish(b.ctx, topology.MessagesSubject(p), testkit.MessageBatch(b.count[p], encoded))
	require.NoError(b.t, err)
	b.n++
}

// show runs a tail and returns what it printed: channel and message_seq.
func (b *bundle) show(args ...string) []string {
	b.t.Helper()
	var out bytes.Buffer
	require.NoError(b.t, Run(b.ctx, b.config(args...), b.js, partitions, &out))
	return read(b.t, &out)
}

func (b *bundle) config(args ...string) Config {
	b.t.Helper()
	var cfg Config
	_, err := config.Parse(append(args, "--format=json"), &cfg)
	require.NoError(b.t, err)
	return cfg
}

type line struct {
	Channel string `json:"channel_id"`
	Seq     uint64 `json:"message_seq"`
	ID      string `json:"message_idstr"`
	Payload []byte `json:"payload"`
}

func read(t testing.TB, r io.Reader) []string {
	t.Helper()
	out := []string{}
	for decoder := json.NewDecoder(r); ; {
		var l line
		err := decoder.Decode(&l)
		if errors.Is(err, io.EOF) {
			return out
		}
		require.NoError(t, err)
		out = append(out, fmt.Sprintf("%s %d", l.Channel, l.Seq))
	}
}

func TestShowsThePast(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.Empty(t, b.show(), "an empty log")
	require.Empty(t, b.show("--channel=a", "--last=3"))
	alice := message.PersonChannel("alice", "bob")
	var all []string
	for range 20 {
		for _, c := range []struct {
			name string
			kind message.ChannelType
		}{{"a", 2}, {"b.c d", 2}, {alice, 1}, {"a" + message.CommandSuffix, 2}} {
			b.write(c.name, c.kind, "hi")
			all = append(all, fmt.Sprintf("%s %d", c.name, b.seqs[c.name]))
		}
	}
	require.Equal(t, all, b.show(), "merged by message_id, over three partitions")
	require.Equal(t, all[:7], b.show("--limit=7"))
	require.Equal(t, all[40:], b.show("--since="+b.start.Add(40*time.Second).Format(time.RFC3339)))
	require.Empty(t, b.show("--since=2026-05-02"))
	require.Equal(t, all, b.show("--since=2026-05-01"))

	numbered := func(name string, first, last int) (out []string) {
		for n := first; n <= last; n++ {
			out = append(out, fmt.Sprintf("%s %d", name, n))
		}
		return out
	}
	require.Equal(t, numbered("a", 1, 20), b.show("--channel=a"))
	require.Equal(t, numbered("a", 13, 20), b.show("--channel=a", "--from-seq=13"))
	require.Empty(t, b.show("--channel=a", "--from-seq=21"))
	require.Equal(t, numbered("b.c d", 18, 20), b.show("--channel=b.c d", "--last=3"))
	require.Equal(t, numbered("b.c d", 1, 20), b.show("--channel=b.c d", "--last=300"))
	require.Equal(t, numbered("a"+message.CommandSuffix, 20, 20), b.show("--channel=a", "--commands", "--last=1"))
	require.Equal(t, numbered("a", 11, 20), b.show("--channel=a", "--since="+b.start.Add(40*time.Second).Format(time.RFC3339)))
	for _, args := range [][]string{{"--person=alice,bob"}, {"--person=bob,alice"}, {"--channel=alice@bob", "--channel-type=1"}, {"--channel=bob@alice", "--channel-type=1"}} {
		require.Equal(t, numbered(alice, 19, 20), b.show(append(args, "--last=2")...))
	}

	// Retention has taken the beginning.
	p := topology.Partitions(partitions).Of("a", 2)
	stream, err := b.js.Stream(b.ctx, topology.MessagesStream(p))
	require.NoError(t, err)
	log, err := messagelog.Open(b.ctx, b.js, p)
	require.NoError(t, err)
	last, err := log.SeekMessageSeq(b.ctx, messagelog.Channel{ID: "a", Type: 2}, 20)
	require.NoError(t, err)
	require.NoError(t, stream.Purge(b.ctx, jetstream.WithPurgeSequence(last))) // a record is a message here
	require.Equal(t, numbered("a", 20, 20), b.show("--channel=a", "--from-seq=3"))
}

func TestFollows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.write("a", 2, "before")
	b.write("b", 2, "before")
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"--follow", "--channel=a"}, []string{"a 2", "a 3"}},
		{[]string{"--follow", "--channel=a", "--last=1"}, []string{"a 3", "a 4", "a 5"}},
		{[]string{"--follow", "--since=2026-04-01", "--limit=8"}, nil},
	} {
		ctx, cancel := context.WithCancel(b.ctx)
		pipe, out := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			err := Run(ctx, b.config(c.args...), b.js, partitions, out)
			ended <- errors.Join(err, out.Close())
		}()
		if c.want == nil {
			require.Len(t, read(t, pipe), 8, "the limit ends it")
			require.NoError(t, <-ended)
			cancel()
			break
		}
		written := make(chan struct{})
		lines := bufio.NewReader(pipe)
		if len(c.want) == 3 { // the past first, so that it is known to follow
			first, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, c.want[:1], read(t, strings.NewReader(first)))
			c.want = c.want[1:]
		} else {
			// It shows only what comes; nothing signals that it listens, so the test waits for its consumer.
			b.awaitConsumer("a")
		}
		go func() {
			defer close(written)
			b.write("b", 2, "another channel")
			b.write("a", 2, "x")
			b.write("a", 2, "y")
		}()
		for _, want := range c.want {
			text, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, []string{want}, read(t, strings.NewReader(text)))
		}
		<-written
		cancel()
		require.NoError(t, <-ended, "an interrupt is the usual end")
	}
}

// A log that has lost its tail since tail looked at it has no whole past, after which it could be followed.
func TestAPastWhoseTailIsLost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for range 3 {
		b.write("a", 2, "hi")
	}
	log, err := messagelog.Open(b.ctx, b.js, topology.Partitions(partitions).Of("a", 2))
	require.NoError(t, err)
	var out bytes.Buffer
	shows := &tail{out: bufio.NewWriter(&out), lines: new(messagelog.Encoder)}
	require.ErrorIs(t, shows.past(b.ctx, []*part{{log: log, first: 2, last: 4}}), messagelog.ErrTailLost)
	require.NoError(t, shows.flush())
	require.Equal(t, []string{"a 2", "a 3"}, read(t, &out))
}

// fleeting publishes a no_persist message, as a sequencer would.
func (b *bundle) fleeting(channel string, kind message.ChannelType, payload string) {
	b.t.Helper()
	p := topology.Partitions(partitions).Of(channel, kind)
	encoded, err := (&message.Send{ChannelId: channel, ChannelType: uint32(kind), FromUid: "u", ClientMsgNo: fmt.Sprint(b.n), NoPersist: true, Payload: []byte(payload)}).MarshalVT()
	require.NoError(b.t, err)
	encoded = message.AppendMessage(nil, encoded, message.Identity{ID: b.ids[p].Next(b.start.UnixMilli()), WALSeq: uint64(b.n + 1)})
	require.NoError(b.t, b.js.Conn().Publish(string(topology.AppendLiveSubject(nil, kind, channel)), encoded))
	b.n++
}

// listen runs a tail until its live subscription stands: what is published on the connection then comes behind
// it. It returns what the tail prints, and how it ended.
func (b *bundle) listen(args ...string) (io.Reader, <-chan error) {
	b.t.Helper()
	pipe, out := io.Pipe()
	ended := make(chan error, 1)
	before := b.js.Conn().NumSubscriptions()
	go func() {
		err := Run(b.ctx, b.config(args...), b.js, partitions, out)
		ended <- errors.Join(err, out.Close())
	}()
	for b.js.Conn().NumSubscriptions() == before {
		require.NoError(b.t, b.ctx.Err())
		runtime.Gosched()
	}
	return pipe, ended
}

func TestFollowsWhatIsNotStored(t *testing.T) {
	t.Parallel()
	alice := message.PersonChannel("alice", "bob")
	for _, c := range []struct {
		args string
		want []string
	}{
		{"--live", []string{"a 0", "a 0", "b.c d 0", alice + " 0", "a____cmd 0"}},
		{"--live --channel=a", []string{"a 0", "a 0"}},
		{"--live --channel=b.c%d", []string{"b.c d 0"}},
		{"--live --person=bob,alice", []string{alice + " 0"}},
		{"--live --channel=a --commands", []string{"a____cmd 0"}},
		{"--live --follow --channel=a --from-seq=1", []string{"a 0", "a 0", "a 1", "a 2"}},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.write("a", 2, "stored before")
			b.fleeting("a", 2, "no subscriber hears this")
			args := strings.Split(c.args, " ")
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "%", " ")
			}
			pipe, ended := b.listen(append(args, fmt.Sprintf("--limit=%d", len(c.want)))...)
			b.fleeting("a", 2, "one")
			b.fleeting("a", 2, "two")
			b.fleeting("b.c d", 2, "three")
			b.fleeting(alice, 1, "four")
			b.fleeting("a"+message.CommandSuffix, 2, "five")
			b.write("a", 2, "stored")
			got := read(t, pipe)
			require.NoError(t, <-ended)
			if strings.Contains(c.args, "--follow") {
				slices.Sort(got) // between the log and the live subject there is no order
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestInterruptIsTheUsualEndOfLive(t *testing.T) {
	t.Parallel()
	b := setup(t)
	before := b.js.Conn().NumSubscriptions()
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	require.NoError(t, Run(ctx, b.config("--live"), b.js, partitions, io.Discard))
	require.Equal(t, before, b.js.Conn().NumSubscriptions())
}

func TestWhatIsNoMessageIsSaid(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, ended := b.listen("--live")
	require.NoError(t, b.js.Conn().Publish("live.2.x", []byte("\xff")))
	require.ErrorContains(t, <-ended, "what came on live.2.x is not an encoded Message")
}

// awaitConsumer waits until somebody reads the channel's partition.
func (b *bundle) awaitConsumer(channel string) {
	b.t.Helper()
	stream, err := b.js.Stream(b.ctx, topology.MessagesStream(topology.Partitions(partitions).Of(channel, 2)))
	require.NoError(b.t, err)
	for {
		info, err := stream.Info(b.ctx)
		require.NoError(b.t, err)
		if info.State.Consumers > 0 {
			return
		}
	}
}

func TestTextCannotSteerATerminal(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.write("a", 2, `{"type":1,"content":"群聊"}`)
	b.write("a", 2, "\x1b[2J")
	b.write("a", 2, "\xff")
	var out bytes.Buffer
	cfg := b.config("--channel=a")
	cfg.Format = "text"
	require.NoError(t, Run(b.ctx, cfg, b.js, partitions, &out))
	require.Equal(t, `2026-05-01T12:00:00.000Z  2/a #1  u: {"type":1,"content":"群聊"}
2026-05-01T12:00:01.000Z  2/a #2  u: base64:G1sySg==
2026-05-01T12:00:02.000Z  2/a #3  u: base64:/w==
`, out.String())
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--person=a"}, "two uids"},
		{[]string{"--person=a,b@c"}, "must not be empty or hold @"},
		{[]string{"--person=a,b", "--channel=c"}, "only one"},
		{[]string{"--from-seq=3"}, "--from-seq: is of a channel"},
		{[]string{"--last=3"}, "--last: is of a channel"},
		{[]string{"--commands"}, "--commands: is of a channel"},
		{[]string{"--channel=c", "--last=3", "--since=3m"}, "only one can be given"},
		{[]string{"--channel=c", "--channel-type=1"}, "two uids joined by @"},
		{[]string{"--channel=c", "--channel-type=0"}, "must be 1 to 255"},
		{[]string{"--since=yesterday"}, "is not a time"},
		{[]string{"--live", "--since=3m"}, "--live: shows only what comes"},
	} {
		_, err := config.Parse(c.args, new(Config))
		require.ErrorContains(t, err, c.want, "%v", c.args)
	}
}

func TestTextOfWhatIsNotStored(t *testing.T) {
	t.Parallel()
	id := message.MakeID(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC).UnixMilli()-message.Epoch().UnixMilli(), 0, 1)
	encoded, err := (&message.Send{ChannelId: "a", ChannelType: 2, FromUid: "u", NoPersist: true, Payload: []byte("hi")}).MarshalVT()
	require.NoError(t, err)
	line, err := new(textEncoder).Append(nil, messagelog.Entry{Data: message.AppendMessage(nil, encoded, message.Identity{ID: id})})
	require.NoError(t, err)
	require.Equal(t, "2026-05-01T12:00:00.000Z  2/a live  u: hi\n", string(line))
}
