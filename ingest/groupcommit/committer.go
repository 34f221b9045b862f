package groupcommit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/ingest/memory"
	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

const (
	// Bounds a group commit (docs/adr/0009-larger-group-commits.md). Readers of the log do not rely on it.
	batchSendsMax = 1024
	batchBytesMax = 512 << 10

	// headerRoomBytes of the server's max_payload are reserved for a record's headers (the reply subject and what JetStream
	// may add) and for the head of a message batch.
	headerRoomBytes = 4 << 10
)

// batchBytes returns the size limit of a group commit for a server with this max_payload; 0 means that the server has not
// sent one.
func batchBytes(maxPayload int64) int {
	if maxPayload <= headerRoomBytes {
		return batchBytesMax
	}
	return int(min(batchBytesMax, maxPayload-headerRoomBytes))
}

// Config has the limits of a Committer; they are settings of ingest.
type Config struct {
	AckTimeout time.Duration
	SendsMax   int           // that may wait, per partition; see Bounds above
	BytesMax   int           // that may wait, per partition
	WaitMax    time.Duration // how long sends may wait for their answers while more than crowdMin of them wait
}

// Deps are the dependencies of a Committer. All fields but Tracer must be set.
type Deps struct {
	NATS       *nats.Conn
	JetStream  jetstream.JetStream
	Partitions topology.Partitions
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Tracer     *tracing.Tracer // nil disables tracing
}

// Committer commits sends to the write-ahead logs of all partitions.
type Committer struct {
	Config
	nc         *nats.Conn
	js         jetstream.JetStream
	publisher  publisher
	inbox      *inbox
	log        *slog.Logger
	metrics    *metrics
	tracer     *tracing.Tracer // nil disables tracing
	delayMax   time.Duration   // the longest delay of a commit
	batchBytes int             // in one batch
	buffers    *memory.Buffers
	timers     *timerPool
	connected  atomic.Bool
	endWatch   atomic.Pointer[context.CancelCauseFunc] // of the leases
	partitions []*partition
}

// New makes a Committer and registers its metrics. It sends nothing before Start.
func New(cfg Config, deps Deps) (*Committer, error) {
	c := &Committer{
		Config: cfg,
		nc:     deps.NATS, js: deps.JetStream, publisher: deps.NATS, inbox: newInbox(deps.NATS, deps.Logger), log: deps.Logger, tracer: deps.Tracer,
		delayMax:   delayMax,
		batchBytes: batchBytes(deps.NATS.MaxPayload()),
		buffers:    memory.NewBuffers(batchBytesFirst), timers: &timerPool{},
	}
	for n := range int(deps.Partitions) {
		c.partitions = append(c.partitions, newPartition(n, c))
	}
	var err error
	c.metrics, err = newMetrics(deps.Registerer, c)
	return c, err
}

// Start starts committing enqueued sends and following the partitions' owners. Acknowledgements and answers are handled
// until the returned function is called; owners are followed until ctx ends.
func (c *Committer) Start(ctx context.Context) (stop func() error, err error) {
	closeInbox, err := c.openInbox()
	if err != nil {
		return nil, err
	}
	stopWatching := c.watchConnection()
	var following sync.WaitGroup
	ctx, stopFollowing := context.WithCancel(ctx)
	following.Go(func() { c.followOwners(ctx) })
	following.Go(func() { c.probeIdle(ctx) })
	return func() error {
		stopFollowing()
		following.Wait()
		stopWatching()
		err := closeInbox()
		for _, p := range c.partitions {
			p.ackTimer.Stop() // delayTimer fires once: its batch is still published, though no request waits for it
		}
		return err
	}, nil
}

// Enqueue encodes a send of size bytes into the gathering batch of a partition. The send may be reused once Enqueue
// returns. span is the request's, nil if it is not traced.
func (c *Committer) Enqueue(partition int, s *message.Send, size int, span *tracing.Span) (Ticket, outcome.Problem) {
	p := c.partitions[partition]
	t, became := p.add(s, size, span, false, nil)
	return t, p.problem(became)
}

// EnqueueDeferred is Enqueue for one of many sends: it does not publish, so that a bulk does not start with a group commit
// of one. Flush must follow soon; until then the send leaves only if another send triggers the commit.
//
// after is the zero Ticket, or that of a send to the same partition without which this one must not be stored. The send is taken only if the log
// has acknowledged that one, or if both share a batch. Otherwise no ticket is taken and there is no problem either: the caller waits for the
// result of after, and then enqueues the send again, without after, or not at all.
func (c *Committer) EnqueueDeferred(partition int, s *message.Send, size int, span *tracing.Span, after Ticket) (Ticket, outcome.Problem) {
	p := c.partitions[partition]
	t, became := p.add(s, size, span, true, after.batch)
	return t, p.problem(became)
}

// Flush publishes deferred sends if no batch is in flight; otherwise they leave after that batch.
func (c *Committer) Flush(partition int) { c.partitions[partition].flush() }

// CheckConnection returns ErrDisconnected while NATS is unreachable.
func (c *Committer) CheckConnection() error {
	if !c.connected.Load() {
		return ErrDisconnected
	}
	return nil
}

// Load describes the unfinished work of a partition.
type Load struct {
	Sends, Bytes int           // waiting for their group commit
	Unanswered   int           // sends published and not yet answered
	Wait         time.Duration // the longest time that a send has waited for its answer so far
}

// Load returns the current load of a partition.
func (c *Committer) Load(partition int) Load {
	p := c.partitions[partition]
	p.mu.Lock()
	defer p.mu.Unlock()
	return Load{Sends: p.sends, Bytes: p.bytes, Unanswered: p.unended, Wait: p.longestWait()}
}

// Remembers returns how long every partition recognizes a send by its client_msg_no, as the sequencers report in their leases, or 0 while one of
// them has not reported it. It holds for some seconds after a lease, since a sequencer counts only half of its window (fold.State.Remembers). While no
// sequencer owns a partition nothing is forgotten there.
func (c *Committer) Remembers() time.Duration {
	least := time.Duration(math.MaxInt64)
	for _, p := range c.partitions {
		o := p.owner.Load()
		if o == nil {
			return 0
		}
		least = min(least, time.Duration(o.RemembersMS)*time.Millisecond)
	}
	return least
}

// ErrDisconnected means that NATS is unreachable.
var ErrDisconnected = errors.New("ingest: not connected to NATS")

// closeTimeout is how long the inbox may take to close.
const closeTimeout = 5 * time.Second

// openInbox subscribes to the inbox of this process.
func (c *Committer) openInbox() (closeInbox func() error, err error) {
	sub, err := c.nc.Subscribe(c.inbox.prefix+".>", func(m *nats.Msg) { c.inbox.receive(c.partitions, m) })
	if err != nil {
		return nil, fmt.Errorf("ingest: subscribe to the inbox: %w", err)
	}
	closed := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(closed) })
	return func() error {
		if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
			return fmt.Errorf("ingest: close the inbox: %w", err)
		}
		select {
		case <-closed:
		case <-time.After(closeTimeout):
			return errors.New("ingest: the inbox did not close")
		}
		return nil
	}, nil
}

// watchConnection follows the state of the connection. The returned function stops it and waits for its goroutine.
func (c *Committer) watchConnection() (stop func()) {
	changes := c.nc.StatusChanged()
	c.connected.Store(c.nc.IsConnected())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for status := range changes {
			if status != nats.CONNECTED {
				c.connected.Store(false)
				for _, p := range c.partitions {
					p.onDisconnect()
				}
			}
			// Rapid changes may be dropped, so read the connection's own state.
			c.connected.Store(c.nc.IsConnected())
			if end := c.endWatch.Load(); end != nil && status == nats.CONNECTED {
				(*end)(errReconnected)
			}
		}
	}()
	return func() {
		c.nc.RemoveStatusListener(changes)
		<-done
	}
}
