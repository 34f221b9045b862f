package deadletter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

const (
	requestTimeout = 5 * time.Second // for one answer of NATS
	fetchMax       = 500             // letters asked for at a time
	waitsMax       = 3               // answers in a row without a letter, though there should be one
)

// ErrNotFound says that there is no letter with an ID: it was removed, or there never was one.
var ErrNotFound = errors.New("there is no such dead letter")

// Stream is the stream of dead letters, for commands that read it or remove from it.
type Stream struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	now    func() time.Time
}

// Open finds the stream.
func Open(ctx context.Context, js jetstream.JetStream) (*Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, topology.DeadLettersStream)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", topology.DeadLettersStream, err)
	}
	return &Stream{js: js, stream: stream, now: time.Now}, nil
}

// Get returns one letter, or an error that wraps [ErrNotFound].
func (s *Stream) Get(ctx context.Context, id uint64) (Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg, err := broker.RecordAt(ctx, s.js, topology.DeadLettersStream, id)
	if errors.Is(err, jetstream.ErrMsgNotFound) || id == 0 {
		return Entry{}, fmt.Errorf("%d: %w", id, ErrNotFound)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("dead letter %d: %w", id, err)
	}
	return read(msg.Sequence, msg.Subject, msg.Time, msg.Header, msg.Data), nil
}

// Walk calls visit with each letter that the filter allows, the oldest first, up to the last one that there was
// at the beginning. It ends at visit's first error and returns it. last is the ID of that last letter, 0 if
// there was none.
func (s *Stream) Walk(ctx context.Context, f Filter, visit func(Entry) error) (last uint64, err error) {
	last, err = s.last(ctx, f.subject())
	if err != nil || last == 0 {
		return 0, err
	}
	now := s.now()
	consumer, err := s.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{f.subject()}, DeliverPolicy: jetstream.DeliverAllPolicy,
	})
	if err != nil {
		return 0, fmt.Errorf("read dead letters: %w", err)
	}
	seen := uint64(0)
	for waits := 0; ; {
		batch, err := consumer.Fetch(fetchMax, jetstream.FetchMaxWait(requestTimeout))
		if err != nil {
			return 0, fmt.Errorf("read dead letters: %w", err)
		}
		received := false
		for msg := range batch.Messages() {
			received = true
			about, err := msg.Metadata()
			if err != nil {
				return 0, fmt.Errorf("read dead letters: %w", err)
			}
			seen = about.Sequence.Stream
			if seen > last {
				return last, nil
			}
			l := read(seen, msg.Subject(), about.Timestamp, msg.Headers(), msg.Data())
			if f.allows(l, now) {
				if err := visit(l); err != nil {
					return 0, err
				}
			}
			if seen == last {
				return last, nil
			}
		}
		if err := errors.Join(batch.Error(), context.Cause(ctx)); err != nil {
			return 0, fmt.Errorf("read dead letters: %w", err)
		}
		if !received {
			// The last ones were removed meanwhile, or the consumer's server lags, or it has gone.
			newest, err := s.last(ctx, f.subject())
			if err != nil {
				return 0, err
			}
			if newest <= seen {
				return last, nil
			}
			if waits++; waits == waitsMax {
				return 0, fmt.Errorf("read dead letters: nothing came for %s", waitsMax*requestTimeout)
			}
		}
	}
}

// last is the ID of the last letter on a subject, as the stream's leader knows it: a consumer's own count of what is pending is
// that of a server that may lag. 0 if there is none.
func (s *Stream) last(ctx context.Context, subject string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	record, err := broker.LastRecord(ctx, s.js, topology.DeadLettersStream, subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("last dead letter: %w", err)
	}
	return record.Sequence, nil
}

// Remove removes one letter for good. One that is gone already is as good.
func (s *Stream) Remove(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := s.stream.DeleteMsg(ctx, id)
	if err == nil {
		return nil
	}
	if _, lookErr := s.Get(ctx, id); errors.Is(lookErr, ErrNotFound) {
		return nil
	}
	return fmt.Errorf("remove dead letter %d: %w", id, err)
}

// removeBySubject removes all letters of a subject up to an ID, at once.
func (s *Stream) removeBySubject(ctx context.Context, subject string, last uint64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // there can be many
	defer cancel()
	if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(last+1)); err != nil {
		return fmt.Errorf("remove dead letters on %s: %w", subject, err)
	}
	return nil
}

// groupsMax bounds how many groups are looked at: one for each role and reason, which is a handful.
const groupsMax = 32

// Groups counts the letters of a deployment by role and reason, and returns the newest of each. It reads one letter for each
// group, however many letters there are.
func Groups(ctx context.Context, js jetstream.JetStream) ([]Group, error) {
	s, err := Open(ctx, js)
	if err != nil {
		return nil, err
	}
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(Filter{}.subject()))
	if err != nil {
		return nil, fmt.Errorf("count the dead letters: %w", err)
	}
	all := []Group{}
	for _, subject := range slices.Sorted(maps.Keys(info.State.Subjects)) {
		if len(all) == groupsMax {
			break
		}
		group := Group{Count: info.State.Subjects[subject]}
		group.Role, group.Reason = topology.ParseDeadLetterSubject(subject)
		msg, err := s.stream.GetLastMsgForSubject(ctx, subject)
		switch {
		case err == nil:
			latest := read(msg.Sequence, msg.Subject, msg.Time, msg.Header, msg.Data)
			group.Latest = &latest
		case !errors.Is(err, jetstream.ErrMsgNotFound):
			return nil, fmt.Errorf("read the latest dead letter on %s: %w", subject, err)
		}
		all = append(all, group)
	}
	return all, nil
}
