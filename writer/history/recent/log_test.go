package recent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// testTimeout bounds a test; none takes this long unless it fails.
const testTimeout = 2 * time.Minute

// all is the whole channel, from its beginning.
var all = Span{First: 1, Last: 1 << 60}

// bundle is a log before a deployment of one partition, whose records the test makes.
type bundle struct {
	t   *testing.T
	ctx context.Context
	*testkit.Deployment
	log *Log

	commits, records uint64 // in the write-ahead log, and in the message log
	messages         uint64
}

func setup(t *testing.T, change func(*Log)) *bundle {
	t.Helper()
	b := &bundle{t: t, Deployment: testkit.StartDeployment(t, 1)}
	var cancel context.CancelFunc
	b.ctx, cancel = context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	b.log = b.open(b.JetStream, change)
	return b
}

func (b *bundle) open(js jetstream.JetStream, change func(*Log)) *Log {
	b.t.Helper()
	l, err := New(Config{
		JetStream: js, Partitions: 1, BytesMax: 1, Now: time.Now, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	require.NoError(b.t, err)
	l.lookEvery = 20 * time.Millisecond
	if change != nil {
		change(l)
	}
	b.t.Cleanup(func() { require.NoError(b.t, l.Close()) })
	return l
}

// commit appends a group commit to the write-ahead log.
func (b *bundle) commit() {
	b.t.Helper()
	_, err := b.JetStream.Publish(b.ctx, topology.WALSubject(0), []byte("sends"))
	require.NoError(b.t, err)
	b.commits++
}

// derive appends what a group commit became to the message log: messages to group 0, with payloads of a size.
func (b *bundle) derive(payload int, messages int) {
	b.t.Helper()
	first := b.messages + 1
	var encoded [][]byte
	for range messages {
		b.messages++
		m := &message.Message{
			ChannelId: key(0).ID, ChannelType: 2, FromUid: "u", ClientMsgNo: fmt.Sprint("n", b.messages), Payload: make([]byte, payload),
			MessageSeq: b.messages, WalSeq: b.records + 1, MessageId: uint64(message.MakeID(int64(b.messages), 0, 0)),
		}
		one, err := m.MarshalVT()
		require.NoError(b.t, err)
		encoded = append(encoded, one)
	}
	b.append(testkit.MessageBatch(first, encoded...))
}

func (b *bundle) append(record []byte) {
	b.t.Helper()
	_, err := b.JetStream.Publish(b.ctx, topology.MessagesSubject(0), record)
	require.NoError(b.t, err)
	b.records++
}

// send is a group commit of n messages that is folded.
func (b *bundle) send(n int) {
	b.t.Helper()
	b.commit()
	b.derive(1, n)
}

// position records how far the writers are, of the stream as it is now.
func (b *bundle) position(done, record uint64) {
	b.t.Helper()
	stream, err := b.JetStream.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(b.t, err)
	kv, err := b.JetStream.KeyValue(b.ctx, topology.WriterBucket)
	require.NoError(b.t, err)
	_, err = kv.Put(b.ctx, "range.0", fmt.Appendf(nil, `{"version":1,"writer":"w","stream_created":%q,"done":%d,"done_record":%d}`,
		stream.CachedInfo().Created.Format(time.RFC3339Nano), done, record))
	require.NoError(b.t, err)
}

// read reads the channel; the tail must have reached the end.
func (b *bundle) read(l *Log) Part {
	b.t.Helper()
	p, err := l.Channel(b.ctx, key(0), all, 1<<20)
	require.NoError(b.t, err)
	require.True(b.t, p.Reached)
	require.Equal(b.t, b.records, p.End)
	return p
}

// requireSeqs wants the channel's messages from first to last, and no other.
func requireSeqs(t testing.TB, first, last uint64, p Part) {
	t.Helper()
	require.Len(t, p.Messages, int(last+1-first))
	for i, m := range p.Messages {
		require.Equal(t, first+uint64(i), m.Seq)
	}
}

// becomes waits until a read is as wanted.
func (b *bundle) becomes(what string, is func(Part) bool) {
	b.t.Helper()
	testkit.WaitFor(b.t, testTimeout, what, func(ctx context.Context) error {
		p, err := b.log.Channel(ctx, key(0), all, 1<<20)
		if err == nil && !is(p) {
			err = fmt.Errorf("%d messages from %d to %d, complete %t, reached %t", len(p.Messages), p.Lowest, p.Highest, p.Complete, p.Reached)
		}
		return err
	})
}

// A read waits for what is committed and not in the message log yet, and sees it; what the writers have done is dropped.
func TestReadWaitsForTheEndOfTheWAL(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	require.Equal(t, Part{Complete: true, Reached: true}, b.read(b.log))
	b.send(2)
	requireSeqs(t, 1, 2, b.read(b.log))
	for range 20 {
		b.commit()
		parts := make(chan Part)
		go func() {
			p, err := b.log.Channel(b.ctx, key(0), all, 1<<20)
			parts <- p
			if err != nil {
				t.Error(err)
			}
		}()
		testkit.WaitFor(t, testTimeout, "the read to wait", func(context.Context) error {
			f := b.log.followers[0]
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.changed == nil {
				return errors.New("it does not")
			}
			return nil
		})
		b.derive(1, 1)
		p := <-parts
		require.True(t, p.Reached)
		requireSeqs(t, 1, b.messages, p)
	}
	b.position(20, 19)
	b.becomes("the writers' messages to be dropped", func(p Part) bool { return p.Lowest == 21 })
	p := b.read(b.log)
	require.True(t, p.Complete)
	requireSeqs(t, 21, 22, p)
	p, err := b.log.Find(b.ctx, key(0), "n22", func(*message.Message) bool { return true })
	require.NoError(t, err)
	requireSeqs(t, 22, 22, p)
}

// Without a sequencer a read ends with its time and says so; further ones do not wait until a record comes.
func TestNothingFolds(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.send(1)
	b.read(b.log)
	b.commit()
	left, leave := context.WithCancel(b.ctx)
	leave()
	_, err := b.log.Channel(left, key(0), all, 10)
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, b.log.followers[0].stalled, "a client that leaves has not waited")
	short, cancel := context.WithTimeout(b.ctx, 300*time.Millisecond)
	defer cancel()
	p, err := b.log.Channel(short, key(0), all, 10)
	require.NoError(t, err)
	require.False(t, p.Reached)
	require.True(t, p.Complete)
	require.Equal(t, b.records, p.End)
	requireSeqs(t, 1, 1, p)
	p, err = b.log.Channel(b.ctx, key(0), all, 10) // waiting would take as long as the test may
	require.NoError(t, err)
	require.False(t, p.Reached)
	require.NoError(t, b.ctx.Err())
	b.derive(1, 1)
	b.becomes("the read to reach the end again", func(p Part) bool { return p.Reached })
	requireSeqs(t, 1, 2, b.read(b.log))
}

// A session begins within a record, at the position.
func TestBeginsAtThePosition(t *testing.T) {
	t.Parallel()
	for name, record := range map[string]uint64{"recorded": 3, "unknown": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil)
			for range 5 {
				b.send(3)
			}
			b.position(8, record)
			p := b.read(b.log)
			require.True(t, p.Complete)
			requireSeqs(t, 9, 15, p)
			b.position(15, 5)
			b.becomes("all to be done", func(p Part) bool { return p.Lowest == 0 && p.Complete })
			p = b.read(b.open(b.JetStream, nil))
			require.True(t, p.Complete)
			require.Empty(t, p.Messages)
			b.send(1)
			requireSeqs(t, 16, 16, b.read(b.log))
		})
	}
}

// What does not fit is passed over, at once or when it has come; the tail is complete again when the position is within it.
func TestOverflow(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.send(1)
	require.True(t, b.read(b.log).Complete)
	for range 8 {
		b.commit()
		b.derive(100_000, 4)
	}
	for _, l := range []*Log{b.log, b.open(b.JetStream, nil)} {
		p := b.read(l)
		require.False(t, p.Complete)
		require.Equal(t, b.messages, p.Highest)
		require.Greater(t, p.Lowest, uint64(10))
		requireSeqs(t, p.Lowest, p.Highest, p)
		l.followers[0].mu.Lock()
		require.LessOrEqual(t, l.followers[0].tail.bytes, bytesMin)
		l.followers[0].mu.Unlock()
	}
	lowest := b.read(b.log).Lowest
	b.position(lowest-2, 0)
	testkit.WaitFor(t, testTimeout, "the position to be seen", func(context.Context) error {
		f := b.log.followers[0]
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.tail.done != lowest-2 {
			return fmt.Errorf("%d", f.tail.done)
		}
		return nil
	})
	require.False(t, b.read(b.log).Complete, "one message is missing")
	b.position(lowest-1, 0)
	b.becomes("the tail to be complete", func(p Part) bool { return p.Complete })
	requireSeqs(t, lowest, b.messages, b.read(b.log))
}

// Messages are missing from the front and from the middle, and one record is foreign: the tail is incomplete until the writers
// have passed them.
func TestMessagesAreMissing(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for range 6 {
		b.send(1)
	}
	stream, err := b.JetStream.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.Purge(b.ctx, jetstream.WithPurgeSequence(3)))
	p := b.read(b.log)
	require.False(t, p.Complete)
	requireSeqs(t, 3, 6, p)
	require.NoError(t, stream.DeleteMsg(b.ctx, 4))
	other := b.open(b.JetStream, nil)
	p = b.read(other)
	require.False(t, p.Complete)
	requireSeqs(t, 5, 6, p)

	b.position(2, 0)
	b.becomes("the tail to be complete", func(p Part) bool { return p.Complete })
	requireSeqs(t, 3, 6, b.read(b.log))
	require.False(t, b.read(other).Complete)

	b.commit()
	b.append([]byte("something else"))
	require.False(t, b.read(b.log).Complete)
	b.messages++ // of the record whose place it took
	b.send(1)
	p = b.read(b.log)
	require.False(t, p.Complete)
	requireSeqs(t, 8, 8, p)
	b.position(7, 0)
	b.becomes("the tail to be complete", func(p Part) bool { return p.Complete })
	requireSeqs(t, 8, 8, b.read(b.log))
}

// All records are gone, as of a partition that nothing was sent to for days.
func TestAllIsGone(t *testing.T) {
	t.Parallel()
	for _, record := range []uint64{0, 2} {
		b := setup(t, nil)
		b.send(1)
		b.send(1)
		b.position(2, record)
		stream, err := b.JetStream.Stream(b.ctx, topology.MessagesStream(0))
		require.NoError(t, err)
		require.NoError(t, stream.Purge(b.ctx))
		require.Equal(t, Part{Complete: true, Reached: true, End: 2}, b.read(b.log))
		b.send(1)
		p := b.read(b.log)
		require.True(t, p.Complete)
		requireSeqs(t, 3, 3, p)
	}
}

// The stream is recreated, and what it had is derived again; the position counts when a writer has recorded it for the new one.
func TestStreamIsRecreated(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for range 4 {
		b.send(1)
	}
	b.position(2, 2)
	requireSeqs(t, 3, 4, b.read(b.log))
	require.NoError(t, b.JetStream.DeleteStream(b.ctx, topology.MessagesStream(0)))
	b.Ensure(t)
	short, cancel := context.WithTimeout(b.ctx, 300*time.Millisecond)
	defer cancel()
	if p, err := b.log.Channel(short, key(0), all, 10); err == nil && p.Reached {
		requireSeqs(t, 3, 4, p) // it was read before the session noticed
	}
	b.records, b.messages = 0, 0
	for range 4 {
		b.derive(1, 1)
	}
	b.becomes("the new stream to be read", func(p Part) bool { return p.Reached && p.Lowest == 1 && p.Complete })
	requireSeqs(t, 1, 4, b.read(b.log))
	b.position(2, 2)
	b.becomes("the position to count", func(p Part) bool { return p.Lowest == 3 && p.Complete })
	b.send(1)
	requireSeqs(t, 3, 5, b.read(b.log))
}

// The bucket is restored to an earlier state: what was dropped is read again.
func TestPositionMovesBack(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for range 4 {
		b.send(1)
	}
	b.position(3, 3)
	requireSeqs(t, 4, 4, b.read(b.log))
	b.position(1, 1)
	b.becomes("the tail to begin earlier", func(p Part) bool { return p.Lowest == 2 && p.Complete })
}

// consumers returns the names of the consumers of the message log.
func (b *bundle) consumers() (names []string) {
	b.t.Helper()
	stream, err := b.JetStream.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(b.t, err)
	list := stream.ConsumerNames(b.ctx)
	for name := range list.Name() {
		names = append(names, name)
	}
	require.NoError(b.t, list.Err())
	return names
}

// A consumer that is lost is replaced.
func TestConsumerIsLost(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.send(1)
	b.read(b.log)
	for range 3 {
		names := b.consumers()
		require.Len(t, names, 1)
		require.NoError(t, b.JetStream.DeleteConsumer(b.ctx, topology.MessagesStream(0), names[0]))
		b.send(1)
		b.becomes("the new record", func(p Part) bool { return p.Reached && p.Highest == b.messages })
		requireSeqs(t, 1, b.messages, b.read(b.log))
	}
}

// A partition is followed only while it is read.
func TestIdle(t *testing.T) {
	t.Parallel()
	b := setup(t, func(l *Log) { l.idleAfter = 50 * time.Millisecond })
	require.Empty(t, b.consumers())
	for range 2 {
		b.send(1)
		requireSeqs(t, 1, b.messages, b.read(b.log))
		testkit.WaitFor(t, testTimeout, "the session to end", func(context.Context) error {
			f := b.log.followers[0]
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.running || f.open || f.tail.bytes != 0 || len(b.consumers()) > 0 {
				return errors.New("it has not")
			}
			return nil
		})
	}
}

// NATS dies and comes back. Reads fail meanwhile and do not hang.
func TestNATSIsAway(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.send(1)
	link := testkit.StartLink(t, b.Server.URL()[len("nats://"):])
	nc, js, err := broker.Connect(b.ctx, broker.Config{URL: "nats://" + link.Addr, Name: t.Name(), Options: []nats.Option{b.Server.Operator()}, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	l := b.open(js, nil)
	requireSeqs(t, 1, 1, b.read(l))
	for range 2 {
		link.Cut()
		short, cancel := context.WithTimeout(b.ctx, 300*time.Millisecond)
		_, err = l.Channel(short, key(0), all, 10)
		cancel()
		require.Error(t, err)
		b.send(1)
		link.Resume()
		testkit.WaitFor(t, testTimeout, "a read", func(ctx context.Context) error {
			_, err := l.Channel(ctx, key(0), all, 10)
			return err
		})
		requireSeqs(t, 1, b.messages, b.read(l))
	}
	require.NoError(t, l.Close())
	_, err = l.Channel(b.ctx, key(0), all, 10)
	require.ErrorIs(t, err, ErrClosed)
}

// Those who ask while a question is under way share the next one.
func TestQuestionIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		owner := new(Log)
		owner.ctx, owner.cancel = context.WithCancel(t.Context())
		asked := uint64(0)
		q := question{owner: owner, ask: func(context.Context) (uint64, error) {
			asked++
			n := asked
			time.Sleep(time.Second) //nolint:forbidigo // of the bubble's clock
			return n, nil
		}}
		answers := make(chan uint64, 10)
		ask := func() {
			n, err := q.answer(t.Context())
			if err != nil {
				t.Error(err)
			}
			answers <- n
		}
		go ask()
		synctest.Wait()
		for range 4 { // the question that is under way was asked before
			go ask()
		}
		synctest.Wait()
		require.Equal(t, uint64(1), <-answers)
		for range 4 {
			require.Equal(t, uint64(2), <-answers)
		}
		go ask()
		require.Equal(t, uint64(3), <-answers)

		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := q.answer(short)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		q.close()
		_, err = q.answer(t.Context())
		require.ErrorIs(t, err, ErrClosed)
		owner.running.Wait()
	})
}
