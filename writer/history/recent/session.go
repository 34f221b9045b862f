package recent

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer"
)

const (
	// lookInterval is the time between two looks at the writers' position.
	lookInterval = time.Second
	// openTimeout limits how long a session takes to open, and requestTimeout one of its requests after that.
	openTimeout    = 10 * time.Second
	requestTimeout = 2 * time.Second
	// doubtsMax is the number of looks in a row that must fail to take the writers' position: a server that lags has an old one.
	doubtsMax = 5
	// stallsMax is the number of looks in a row that must find that the consumer delivers nothing: a record may have come just now.
	stallsMax = 2
)

// session reads the message log from the writers' position on.
type session struct {
	*follower
	number  int
	created time.Time         // of the stream
	view    message.BatchView // reused: records come one at a time
	failed  chan<- error

	seen   uint64 // the end of the tail at the last look
	doubts int    // looks in a row that could not take the position
	stalls int    // looks in a row that found the consumer stalled
}

// watch returns why the session ends.
func (s *session) watch(ctx context.Context, failed <-chan error) error {
	ticker := time.NewTicker(s.owner.lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-failed:
			return err
		case <-ticker.C:
			if err := s.look(ctx); err != nil {
				return err
			}
		}
	}
}

// start opens the session: from then on the tail is valid.
func (s *session) start(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	progress, err := s.progress(ctx)
	if err != nil {
		return nil, err
	}
	log, err := messagelog.Open(ctx, s.js, s.partition)
	if err != nil {
		return nil, err
	}
	begin, err := s.place(ctx, log, progress)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.session++
	s.number = s.session
	s.tail.reset(begin.done, begin.next, begin.record-1)
	s.mu.Unlock()
	feed, err := messagelog.OpenFeed(ctx, messagelog.FeedConfig{
		JetStream: s.js, Stream: topology.MessagesStream(s.partition), First: begin.record,
		Handle: s.handle,
		Failed: s.fail,
		Warn:   func(err error) { s.log.Debug("following the message log", "error", err) },
	})
	if err != nil {
		return nil, err
	}
	if err := s.unchanged(ctx); err != nil {
		feed.Stop()
		return nil, err
	}
	s.mu.Lock()
	s.open, s.broken = true, nil
	s.notifyLocked()
	s.mu.Unlock()
	return feed.Stop, nil
}

// beginning is where a session begins to read.
type beginning struct {
	done   uint64 // the writers' position
	next   uint64 // the first partition_seq that is wanted; 0 if messages before it are passed over
	record uint64 // the first record
}

// place finds where to begin: with the record of the writers' position, or nearer to the log's end if the rest would not fit into the tail.
// The position counts only if it is of this stream: until a writer has compared a new one, nothing tells that they agree.
func (s *session) place(ctx context.Context, log *messagelog.Log, progress writer.Progress) (beginning, error) {
	state, err := s.stream(ctx)
	if err != nil {
		return beginning{}, err
	}
	s.created = state.created
	b := beginning{next: 1, record: state.first}
	if progress.StreamCreated.Equal(state.created) && progress.Done > 0 {
		b.done, b.next = progress.Done, progress.Done+1
		if b.record = progress.DoneRecord; b.record == 0 {
			if b.record, err = log.Locate(ctx, b.next, 0); err != nil {
				return beginning{}, err
			}
		}
	}
	if state.first > state.last || b.record > state.last { // nothing to read yet
		b.record = max(b.record, state.last+1)
		return b, nil
	}
	fit := uint64(s.tail.bytesMax) / max(state.bytes/(state.last-state.first+1), 1)
	if nearest := state.last - min(state.last, fit); b.record < nearest {
		b.record, b.next = nearest, 0
	}
	return b, nil
}

// streamState is the state of the message log's stream.
type streamState struct {
	created     time.Time
	first, last uint64 // stream_seqs; first is last+1 if it is empty
	bytes       uint64
}

// stream asks the leader for the state of the stream.
func (s *session) stream(ctx context.Context) (streamState, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	info, err := leaderInfo(ctx, s.js, topology.MessagesStream(s.partition))
	if err != nil {
		return streamState{}, err
	}
	state := streamState{created: info.Created, first: info.State.FirstSeq, last: info.State.LastSeq, bytes: info.State.Bytes}
	if info.State.Msgs == 0 {
		state.first = state.last + 1
	}
	return state, nil
}

// unchanged fails if the stream was recreated.
func (s *session) unchanged(ctx context.Context) error {
	state, err := s.stream(ctx)
	if err == nil && !state.created.Equal(s.created) {
		err = fmt.Errorf("stream %s was recreated", topology.MessagesStream(s.partition))
	}
	return err
}

// progress reads the writers' position. Everything up to it was visible in ClickHouse before it was recorded.
func (s *session) progress(ctx context.Context) (writer.Progress, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	bucket, err := s.owner.positions(ctx)
	if err != nil {
		return writer.Progress{}, err
	}
	p, err := writer.ReadProgress(ctx, bucket, s.partition)
	if err != nil {
		return writer.Progress{}, fmt.Errorf("position of the writer: %w", err)
	}
	return p, nil
}

// handle takes a record.
func (s *session) handle(streamSeq uint64, m *nats.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number != s.session || streamSeq <= s.tail.end {
		return
	}
	was := s.tail.complete()
	if message.ViewBatch(m.Data, &s.view) == nil {
		s.tail.add(streamSeq, &s.view)
	} else {
		s.tail.addForeign(streamSeq)
	}
	if was && !s.tail.complete() {
		s.metrics.overflows.Inc()
	}
	s.stalled = false
	s.notifyLocked()
}

// fail ends the session.
func (s *session) fail(err error) {
	select {
	case s.failed <- err:
	default: // the first error counts
	}
}

// look drops what the writers have done meanwhile. It ends the session if nothing reads the partition, or if the log is not what
// it was.
func (s *session) look(ctx context.Context) error {
	s.mu.Lock()
	idle := s.waiting == 0 && time.Since(s.lastly) >= s.owner.idleAfter
	end, waiting := s.tail.end, s.waiting > 0 || s.stalled
	s.mu.Unlock()
	if idle {
		return errIdle
	}
	if err := s.advance(ctx); err != nil {
		if s.doubts++; s.doubts == doubtsMax {
			return err
		}
	} else {
		s.doubts = 0
	}
	if err := s.delivering(ctx, end, waiting); err != nil {
		if s.stalls++; s.stalls == stallsMax {
			return err
		}
	} else {
		s.stalls = 0
	}
	s.seen = end
	return nil
}

// advance takes the writers' position. One that has moved back, or is of another stream, needs messages that the tail no longer
// has: a bucket was restored, or the stream was recreated.
func (s *session) advance(ctx context.Context) error {
	progress, err := s.progress(ctx)
	if err != nil {
		return err
	}
	same := progress.StreamCreated.Equal(s.created)
	s.mu.Lock()
	defer s.mu.Unlock()
	done := s.tail.done
	switch {
	case !same && done == 0: // no writer has compared it with this stream yet
		return nil
	case !same || progress.Done < done:
		return fmt.Errorf("the writer's position was %d of the stream of %s, and is %d of the one of %s",
			done, s.created.Format(time.RFC3339), progress.Done, progress.StreamCreated.Format(time.RFC3339))
	default:
		s.tail.advance(progress.Done)
		return nil
	}
}

// delivering fails if nothing has come since the last look although the log does not end there: the consumer has stalled, or the
// stream is another one or has lost its tail.
func (s *session) delivering(ctx context.Context, end uint64, waiting bool) error {
	if !waiting || end != s.seen {
		return nil
	}
	state, err := s.stream(ctx)
	if err != nil {
		return err
	}
	if state.created.Equal(s.created) && state.last == end {
		return nil
	}
	return fmt.Errorf("stream %s, created %s, ends with record %d; it was created %s and read up to %d",
		topology.MessagesStream(s.partition), state.created.Format(time.RFC3339), state.last, s.created.Format(time.RFC3339), end)
}
