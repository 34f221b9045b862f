package messagelog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// feedRecords is how many records a request asks for at the most: small ones cost more memory than their bytes.
	feedRecords = 8192
	// feedSlackBytes is what a request may bring beyond the largest message that the server takes, which must fit.
	feedSlackBytes = 64 << 10
	// feedExpires is how long the server keeps a request for which it has no records. One that ends without a record before
	// half of this was refused.
	feedExpires = 30 * time.Second
	// feedForgetAfter is when the server drops the consumer of a reader that has died.
	feedForgetAfter = 5 * time.Minute
	// feedStopTimeout bounds how long a reader that ends takes to drop it.
	feedStopTimeout = time.Second
)

var (
	// ErrFeedRefused says that the server ended a request at once.
	ErrFeedRefused = errors.New("the server refuses to deliver")
	// ErrFeedCut says that the connection broke, with which requests are lost.
	ErrFeedCut = errors.New("the connection to NATS broke")
)

// FeedConfig says what a feed reads.
type FeedConfig struct {
	JetStream jetstream.JetStream
	Stream    string
	First     uint64 // the stream sequence to begin with
	// Handle is called with one record at a time, in their order. It may block.
	Handle func(seq uint64, m *nats.Msg)
	// Failed is called when no more records will come, with the reason; a few may still be handled after it.
	Failed func(error)
	// Warn receives what is wrong but harms nothing.
	Warn func(error)

	expires time.Duration // feedExpires but in tests
	bytes   int           // that a request may bring; the largest message and more but in tests
}

// Feed reads a stream from a stream sequence on, in its order, as fast as the records are handled.
//
// It is a plain pull consumer. Unlike the client's ordered consumer it never replaces itself: after a new consumer there can
// be a stream that has lost its tail, or was created again, and the reader must look at that first. So it ends at whatever
// is wrong. Two things are for the reader to notice: a record that was lost on the way, by the sequences, and a consumer
// that delivers nothing, by the stream's last sequence.
type Feed struct {
	cfg     FeedConfig
	nc      *nats.Conn
	name    string // of the consumer
	inbox   string // the answers to request n come on this and n
	request []byte
	cut     chan nats.Status // tells that the connection broke
	sub     *nats.Subscription
	stop    chan struct{}
	stopped chan struct{}
	once    sync.Once

	// What follows belongs to the subscription's calls, one at a time.
	asked int       // the number of the newest request
	sent  time.Time // when it was sent
	since int       // records that have come since then
	left  int       // bytes that requests may still bring
}

// OpenFeed begins to read. Stop it in the end, also after it has failed.
func OpenFeed(ctx context.Context, cfg FeedConfig) (*Feed, error) {
	cfg.expires = cmp.Or(cfg.expires, feedExpires)
	cfg.bytes = cmp.Or(cfg.bytes, int(cfg.JetStream.Conn().MaxPayload())+feedSlackBytes)
	f := &Feed{cfg: cfg, nc: cfg.JetStream.Conn(), stop: make(chan struct{}), stopped: make(chan struct{})}
	failed := func(err error) (*Feed, error) {
		return nil, fmt.Errorf("read %s from %d: %w", cfg.Stream, cfg.First, err)
	}
	var err error
	if f.request, err = json.Marshal(map[string]any{"batch": feedRecords, "max_bytes": f.cfg.bytes, "expires": f.cfg.expires}); err != nil {
		return failed(err)
	}
	consumer, err := cfg.JetStream.CreateConsumer(ctx, cfg.Stream, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(cfg.First, 1),
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: feedForgetAfter,
		MemoryStorage:     true,
		Replicas:          1,
	})
	if err != nil {
		return failed(err)
	}
	f.name, f.inbox = consumer.CachedInfo().Name, f.nc.NewInbox()+"."
	f.cut = f.nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	go f.watch()
	first := f.next() // before the subscription's calls can begin
	if f.sub, err = f.nc.Subscribe(f.inbox+"*", f.receive); err == nil {
		err = f.sub.SetPendingLimits(-1, -1) // the requests bound it
	}
	if err == nil {
		err = f.ask(first)
	}
	if err != nil {
		f.Stop()
		return failed(err)
	}
	return f, nil
}

// watch ends with the feed.
func (f *Feed) watch() {
	defer close(f.stopped)
	for {
		select {
		case status := <-f.cut:
			f.cfg.Failed(fmt.Errorf("read %s: %w (%s)", f.cfg.Stream, ErrFeedCut, status))
		case <-f.stop:
			return
		}
	}
}

// Stop ends the feed. Handle may be in a call that began before.
func (f *Feed) Stop() {
	f.once.Do(func() {
		close(f.stop)
		<-f.stopped
		f.nc.RemoveStatusListener(f.cut)
		if f.sub != nil {
			if err := f.sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
				f.cfg.Warn(fmt.Errorf("unsubscribe from %s: %w", f.cfg.Stream, err))
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), feedStopTimeout)
		defer cancel()
		if err := f.cfg.JetStream.DeleteConsumer(ctx, f.cfg.Stream, f.name); err != nil {
			f.cfg.Warn(fmt.Errorf("drop the consumer of %s, which the server does by itself after %s: %w", f.cfg.Stream, feedForgetAfter, err))
		}
	})
}

// receive takes a record, or the server's word that it has ended a request. A record does not say which request it came for.
func (f *Feed) receive(m *nats.Msg) {
	if m.Reply == "" {
		f.ended(m)
		return
	}
	seq, err := sequence(m.Reply)
	if err != nil {
		f.cfg.Failed(fmt.Errorf("read %s: %w", f.cfg.Stream, err))
		return
	}
	f.cfg.Handle(seq, m)
	f.since++
	f.took(m.Size()) // as the server counts
}

// ended handles a status message of the server that ends a request, with what the request has not brought: its time is up, it has brought its records, or the next one
// is too large for the rest of it. Or else the server has no such consumer any more, or allows less than what was asked for.
func (f *Feed) ended(m *nats.Msg) {
	number, err := strconv.Atoi(strings.TrimPrefix(m.Subject, f.inbox))
	if err != nil {
		return
	}
	rest, err := strconv.Atoi(m.Header.Get("Nats-Pending-Bytes"))
	if err != nil || (number == f.asked && f.since == 0 && time.Since(f.sent) < f.cfg.expires/2) {
		f.cfg.Failed(fmt.Errorf("read %s: %w: %q", f.cfg.Stream, ErrFeedRefused, m.Header.Get("Status")+" "+m.Header.Get("Description")))
		return
	}
	f.took(rest)
}

// took takes off what has come, or will not, and asks for more where less than half a request is to come. So two are under way at the most. It is
// bytes that are counted, and not requests, since one whose records took exactly its bytes ends without a word (nats-server 2.15).
func (f *Feed) took(bytes int) {
	if f.left -= bytes; f.left > f.cfg.bytes/2 {
		return
	}
	if err := f.ask(f.next()); err != nil {
		f.cfg.Failed(fmt.Errorf("read %s: %w", f.cfg.Stream, err))
	}
}

// next notes a request that is about to be sent.
func (f *Feed) next() (number int) {
	f.asked++
	f.sent, f.since = time.Now(), 0
	f.left += f.cfg.bytes
	return f.asked
}

func (f *Feed) ask(number int) error {
	return f.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+f.cfg.Stream+"."+f.name, f.inbox+strconv.Itoa(number), f.request)
}

// sequence reads the stream sequence out of the reply subject of a record, without the allocations of Metadata:
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account hash>.<stream>.<consumer>.<delivered>.<stream seq>.…
func sequence(reply string) (uint64, error) {
	rest, ok := strings.CutPrefix(reply, "$JS.ACK.")
	before := 3 // tokens before the sequence
	if strings.Count(rest, ".") >= 8 {
		before = 5
	}
	for range before {
		_, rest, _ = strings.Cut(rest, ".")
	}
	text, _, _ := strings.Cut(rest, ".")
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil || !ok {
		return 0, fmt.Errorf("reply subject %q is not that of a record", reply)
	}
	return seq, nil
}
