package recent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// Config configures a Log.
type Config struct {
	JetStream  jetstream.JetStream
	Partitions topology.Partitions
	// BytesMax limits the messages in memory. The partitions share it evenly.
	BytesMax int
	// Now tells which messages have expired.
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// bytesMin is the least that a partition gets: a few of the largest records.
const bytesMin = 2 << 20

// Log holds the tails of all partitions. Its methods may be called by any goroutine.
type Log struct {
	partitions topology.Partitions
	followers  []*follower

	ctx     context.Context //nolint:containedctx // that of the sessions, which no caller owns; Close ends it
	cancel  context.CancelFunc
	running sync.WaitGroup

	js        jetstream.JetStream
	now       func() time.Time
	bucket    atomic.Pointer[jetstream.KeyValue] // topology.WriterBucket, once it is open
	idleAfter time.Duration                      // shorter in tests, as is lookEvery
	lookEvery time.Duration
}

// New starts nothing: the first read of a partition does. Close it in the end.
func New(cfg Config) (*Log, error) {
	l := &Log{partitions: cfg.Partitions, js: cfg.JetStream, now: cfg.Now, idleAfter: idleAfter, lookEvery: lookInterval}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	m := newMetrics()
	share := max(cfg.BytesMax/int(cfg.Partitions), bytesMin)
	for p := range int(cfg.Partitions) {
		f := &follower{
			partition: p, js: cfg.JetStream, log: cfg.Logger.With("partition", p), metrics: m, owner: l,
			walEnd: question{ask: walEnd(cfg.JetStream, p)}, tail: tail{bytesMax: share},
		}
		f.walEnd.owner = l
		l.followers = append(l.followers, f)
	}
	return l, m.register(cfg.Registerer, l)
}

// Close ends the sessions and waits for them. Reads fail from then on.
func (l *Log) Close() error {
	l.cancel()
	for _, f := range l.followers {
		f.mu.Lock() // no session begins after this
		f.closed = true
		f.notifyLocked()
		f.mu.Unlock()
		f.walEnd.close()
	}
	l.running.Wait()
	return nil
}

// positions opens the bucket of the writers' positions.
func (l *Log) positions(ctx context.Context) (jetstream.KeyValue, error) {
	if bucket := l.bucket.Load(); bucket != nil {
		return *bucket, nil
	}
	bucket, err := l.js.KeyValue(ctx, topology.WriterBucket)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w", topology.WriterBucket, err)
	}
	l.bucket.Store(&bucket)
	return bucket, nil
}

// ErrClosed reports that the log is closed.
var ErrClosed = errors.New("the log of recent messages is closed")

// Channel returns up to limit messages of a span of a channel. It waits until the tail has what was answered before the call, or
// until ctx ends, which is no error if there is a tail: see [Part.Reached]. It fails if NATS cannot be asked.
func (l *Log) Channel(ctx context.Context, c clickhouse.Channel, s Span, limit int) (Part, error) {
	return l.read(ctx, l.partitions.Of(c.ID, c.Type), func(t *tail) Part { return t.part(c, s, limit, l.now().Unix()) })
}

// Find is Channel for the latest message of a channel that has this client_msg_no and is wanted; Messages has one or none.
func (l *Log) Find(ctx context.Context, c clickhouse.Channel, clientMsgNo string, wanted func(*message.Message) bool) (Part, error) {
	no := []byte(clientMsgNo)
	return l.read(ctx, l.partitions.Of(c.ID, c.Type), func(t *tail) Part {
		return t.find(c, func(encoded []byte) bool {
			var m message.Message
			// The first test is some hundred times as fast as decoding.
			return bytes.Contains(encoded, no) && m.UnmarshalVT(encoded) == nil && m.GetClientMsgNo() == clientMsgNo && wanted(&m)
		}, l.now().Unix())
	})
}

func (l *Log) read(ctx context.Context, partition int, take func(*tail) Part) (Part, error) {
	p, err := l.followers[partition].take(ctx, take)
	if err != nil {
		return Part{}, fmt.Errorf("recent messages of partition %d: %w", partition, err)
	}
	return p, nil
}

// walEnd asks the leader for the stream_seq of the last record of a write-ahead log. A follower may not have the newest yet.
func walEnd(js jetstream.JetStream, partition int) func(context.Context) (uint64, error) {
	name := topology.WALStream(partition)
	return func(ctx context.Context) (uint64, error) {
		info, err := leaderInfo(ctx, js, name)
		if err != nil {
			return 0, err
		}
		return info.State.LastSeq, nil
	}
}

var errNoLeader = errors.New("no server leads it at the moment")

// leaderInfo asks the leader of a stream for its state. Without a leader another server answers, with what it has.
func leaderInfo(ctx context.Context, js jetstream.JetStream, name string) (*jetstream.StreamInfo, error) {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("state of %s: %w", name, err)
	}
	info := stream.CachedInfo()
	if info.Cluster != nil && info.Cluster.Leader == "" {
		return nil, fmt.Errorf("state of %s: %w", name, errNoLeader)
	}
	return info, nil
}

// questionTimeout limits a question, regardless of the callers that wait for it.
const questionTimeout = 2 * time.Second

// question asks one thing for all who want to know it: a caller gets an answer to a question that was asked after its call. One is
// asked at a time.
type question struct {
	ask   func(context.Context) (uint64, error)
	owner *Log

	mu     sync.Mutex
	asking bool
	next   *result // that of the next question, nil if no caller waits for it
	closed bool
}

type result struct {
	done  chan struct{} // closed when the rest is set
	value uint64
	err   error
}

// answer returns the answer, or an error when ctx ends.
func (q *question) answer(ctx context.Context) (uint64, error) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return 0, ErrClosed
	}
	if q.next == nil {
		q.next = &result{done: make(chan struct{})}
	}
	a := q.next
	if !q.asking {
		q.asking = true
		q.owner.running.Add(1)
		go q.askAll()
	}
	q.mu.Unlock()
	select {
	case <-a.done:
		return a.value, a.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// askAll asks until no caller waits.
func (q *question) askAll() {
	defer q.owner.running.Done()
	for {
		q.mu.Lock()
		a := q.next
		q.next = nil
		q.asking = a != nil
		q.mu.Unlock()
		if a == nil {
			return
		}
		ctx, cancel := context.WithTimeout(q.owner.ctx, questionTimeout)
		a.value, a.err = q.ask(ctx)
		cancel()
		close(a.done)
	}
}

func (q *question) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}
