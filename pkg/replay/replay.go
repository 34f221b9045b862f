package replay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/sendhouse/sendhouse/pkg/messagelog"
)

// BatchBytesMax ends a batch, beside the sink's own limit of messages.
const BatchBytesMax = 16 << 20

const progressInterval = 2 * time.Second

// Sink takes messages. It is used by one goroutine.
type Sink interface {
	// Name is what the sink is, and where: a state file belongs to one.
	Name() string
	// BatchMax is how many messages Put is given at most.
	BatchMax() int
	// Begin prepares the sink for a new replay, and returns the mark of its beginning.
	Begin(ctx context.Context) (mark uint64, err error)
	// Restore prepares the sink to continue after the last whole batch, whose mark is given.
	Restore(ctx context.Context, mark uint64) error
	// Put takes messages of one partition, in order. When it returns without an error they are where they
	// belong for good. The mark is given to Restore after a crash.
	Put(ctx context.Context, batch []messagelog.Entry) (mark uint64, err error)
	// End is the last place of a partition to replay, of those up to last.
	End(ctx context.Context, partition int, last uint64) (uint64, error)
}

// Identified is a sink that tells one replay from another.
type Identified interface {
	Sink
	// Of names the replay, before anything is put. One that is resumed has the name that it had.
	Of(replay string)
}

// Result is what a replay came to.
type Result struct {
	Messages uint64
	Resumed  bool
}

type replay struct {
	cfg     Config
	source  Source
	sink    Sink
	state   *state
	limiter *rate.Limiter
	batch   []messagelog.Entry
	bytes   int
	result  Result

	progress io.Writer
	start    time.Time
	said     time.Time
	before   uint64 // places that were done when this run began
}

// Run replays from a source into a sink. A line about how far it is goes to progress now and then. Where
// ctx ends it returns its cause, and can be resumed.
func Run(ctx context.Context, cfg Config, source Source, partitions int, sink Sink, progress io.Writer) (Result, error) {
	if err := cfg.Check(); err != nil {
		return Result{}, err
	}
	r := &replay{cfg: cfg, source: source, sink: sink, progress: progress, start: time.Now(), said: time.Now()}
	if cfg.Rate > 0 {
		r.limiter = rate.NewLimiter(rate.Limit(cfg.Rate), sink.BatchMax())
	}
	asked := r.asked()
	var err error
	if r.state, err = loadState(cfg.State, asked); err != nil {
		return r.result, err
	}
	if r.result.Resumed = r.state != nil; !r.result.Resumed {
		if r.state, err = r.plan(ctx, asked, partitions); err != nil {
			return r.result, err
		}
		if r.state.Mark, err = sink.Begin(ctx); err != nil {
			return r.result, err
		}
		if err := r.state.save(cfg.State); err != nil {
			return r.result, err
		}
	} else if err := sink.Restore(ctx, r.state.Mark); err != nil {
		return r.result, err
	}
	if identified, ok := sink.(Identified); ok {
		identified.Of(r.state.Replay)
	}
	r.before, _ = r.places()
	for _, p := range r.state.Parts {
		if err := r.part(ctx, p, partitions); err != nil {
			return r.result, err
		}
	}
	r.say(true)
	return r.result, nil
}

// asked is what a state file must be of. Times are as they were given at the first start.
func (r *replay) asked() string {
	return fmt.Sprintf("from the %s to %s, channels [%s], partitions %v", r.source.Name(), r.sink.Name(), strings.Join(r.cfg.Channel, " "), r.cfg.Partition)
}

// plan fixes where each partition begins and ends.
func (r *replay) plan(ctx context.Context, asked string, partitions int) (*state, error) {
	s := &state{Version: stateVersion, Replay: rand.Text(), Asked: asked}
	for number := range partitions {
		_, wanted, err := r.cfg.channels(number, partitions)
		if err != nil {
			return nil, err
		}
		if !wanted {
			continue
		}
		log, err := r.source.Open(ctx, number)
		if err != nil {
			return nil, err
		}
		span, err := log.Plan(ctx, Period{From: r.cfg.From.Time, Until: r.cfg.Until.Time, FromSeq: r.cfg.FromPartitionSeq})
		if err != nil {
			return nil, err
		}
		p := &partState{Partition: number, Created: span.Created, First: span.First}
		if p.Last, err = r.sink.End(ctx, number, span.Last); err != nil {
			return nil, err
		}
		if r.cfg.From.IsZero() && span.First > max(r.cfg.FromPartitionSeq, 1) {
			r.tell("partition %d: the %s begins at partition_seq %d", number, r.source.Name(), span.First)
		}
		p.Done = p.First - 1
		s.Parts = append(s.Parts, p)
	}
	return s, nil
}

func (r *replay) part(ctx context.Context, p *partState, partitions int) error {
	if p.Done >= p.Last {
		return nil
	}
	log, err := r.source.Open(ctx, p.Partition)
	if err != nil {
		return err
	}
	next, err := log.Resume(ctx, p.Created, p.Done+1)
	if err != nil {
		return err
	}
	if next > p.Done+1 {
		r.lost(p, p.Done+1, min(next-1, p.Last))
	}
	channels, _, err := r.cfg.channels(p.Partition, partitions)
	if err != nil {
		return err
	}
	r.batch, r.bytes = r.batch[:0], 0
	for next <= p.Last {
		err := log.Range(ctx, next, p.Last, channels, func(entry messagelog.Entry) error { return r.take(ctx, p, entry) })
		var lost *LostError
		switch {
		case errors.As(err, &lost):
			r.lost(p, lost.First, lost.Last)
			next = lost.Last + 1
		case err != nil:
			return err
		default:
			next = p.Last + 1
		}
	}
	return r.put(ctx, p, p.Last)
}

// lost reports what cannot be replayed any more.
func (r *replay) lost(p *partState, first, last uint64) {
	r.tell("partition %d: retention has taken messages %d to %d before they were replayed", p.Partition, first, last)
}

// take adds a message to the batch.
func (r *replay) take(ctx context.Context, p *partState, entry messagelog.Entry) error {
	r.batch = append(r.batch, entry)
	if r.bytes += len(entry.Data); len(r.batch) < r.sink.BatchMax() && r.bytes < BatchBytesMax {
		return nil
	}
	return r.put(ctx, p, entry.PartitionSeq)
}

// put hands the batch to the sink, which then has everything up to done.
func (r *replay) put(ctx context.Context, p *partState, done uint64) error {
	if n := len(r.batch); n > 0 {
		if r.limiter != nil {
			if err := r.limiter.WaitN(ctx, n); err != nil {
				return err
			}
		}
		mark, err := r.sink.Put(ctx, r.batch)
		if err != nil {
			return err
		}
		r.state.Mark = mark
		r.result.Messages += uint64(n)
	}
	r.batch, r.bytes = r.batch[:0], 0
	p.Done = done
	if err := r.state.save(r.cfg.State); err != nil {
		return err
	}
	r.say(false)
	return nil
}

// places is how many places are done, of how many.
func (r *replay) places() (done, of uint64) {
	for _, p := range r.state.Parts {
		if p.Last >= p.First {
			done += p.Done + 1 - p.First
			of += p.Last + 1 - p.First
		}
	}
	return done, of
}

// say says how far it is and when it will end at this pace.
func (r *replay) say(end bool) {
	now := time.Now()
	if !end && now.Sub(r.said) < progressInterval {
		return
	}
	r.said = now
	done, of := r.places()
	seconds := max(now.Sub(r.start).Seconds(), 1e-3)
	left := ""
	if pace := float64(done-r.before) / seconds; !end && pace > 0 {
		left = fmt.Sprintf(", about %s left", time.Duration(float64(of-done)/pace*float64(time.Second)).Round(time.Second))
	}
	r.tell("replayed %d messages, %.0f/s; %d of %d places in the log (%.0f%%)%s",
		r.result.Messages, float64(r.result.Messages)/seconds, done, of, 100*float64(done)/float64(max(of, 1)), left)
}

// tell writes a line beside the messages. If it cannot be written, the replay continues.
func (r *replay) tell(format string, args ...any) {
	_, _ = fmt.Fprintf(r.progress, format+"\n", args...)
}
