package tail

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// encoder writes a record as a line.
type encoder interface {
	Append(dst []byte, r messagelog.Record) ([]byte, error)
}

// tail shows messages.
type tail struct {
	cfg   Config
	out   *bufio.Writer
	lines encoder
	line  []byte
	shown uint64
}

// errLimit ends the showing: the limit is reached.
var errLimit = errors.New("limit reached")

// Run shows the messages that the configuration asks for. It returns when they have been shown or,
// following, when ctx ends.
func Run(ctx context.Context, cfg Config, js jetstream.JetStream, partitions int, out io.Writer) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	t := &tail{cfg: cfg, out: bufio.NewWriterSize(out, 64<<10), lines: new(textEncoder)}
	if cfg.Format == "json" {
		t.lines = new(messagelog.Encoder)
	}
	err := t.run(ctx, js, partitions)
	if errors.Is(err, errLimit) || (ctx.Err() != nil && cfg.comes()) {
		err = nil
	}
	if flushed := t.out.Flush(); flushed != nil {
		err = errors.Join(err, fmt.Errorf("write messages: %w", flushed))
	}
	return err
}

// part is what is to be shown of a partition.
type part struct {
	log         *messagelog.Log
	first, last uint64 // of the past; the rest comes by following
	subjects    []string
}

func (t *tail) run(ctx context.Context, js jetstream.JetStream, partitions int) (err error) {
	var flows []flow
	if t.cfg.Live {
		// Before the past is shown, so that what comes meanwhile is heard.
		l, failed := t.cfg.hearLive(js.Conn())
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, l.stop()) }()
		flows = append(flows, l.follow)
	}
	if t.cfg.stored() {
		parts, err := t.parts(ctx, js, partitions)
		if err != nil {
			return err
		}
		if err := t.past(ctx, parts); err != nil {
			return err
		}
		for _, p := range parts {
			flows = append(flows, p.follow)
		}
	}
	if !t.cfg.comes() {
		return nil
	}
	return t.follow(ctx, flows)
}

// parts are the partitions that have what is asked for.
func (t *tail) parts(ctx context.Context, js jetstream.JetStream, partitions int) ([]*part, error) {
	var parts []*part
	name, kind, one := t.cfg.channel()
	for number := range partitions {
		if one && topology.Partitions(partitions).Of(name, kind) != number {
			continue
		}
		log, err := messagelog.Open(ctx, js, number)
		if err != nil {
			return nil, err
		}
		p := &part{log: log}
		if one {
			p.subjects = []string{string(topology.AppendMessageSubject(nil, number, kind, name))}
		}
		if p, err = t.place(ctx, p); err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// place finds where a part begins and the past ends.
func (t *tail) place(ctx context.Context, p *part) (*part, error) {
	bounds, err := p.log.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	p.first, p.last = bounds.First, bounds.Last
	from := t.cfg.FromSeq
	switch {
	case t.cfg.Last > 0:
		last, err := p.log.LastMessageSeq(ctx, p.subjects[0])
		if err != nil {
			return nil, err
		}
		from = last - min(last, t.cfg.Last) + 1
	case !t.cfg.Since.IsZero():
		p.first, err = p.log.SeekTime(ctx, t.cfg.Since.Time)
		return p, err
	case t.cfg.Follow && from == 0:
		p.first = p.last + 1
		return p, nil
	}
	if from > 0 {
		p.first, err = p.log.SeekMessageSeq(ctx, p.subjects[0], from)
	}
	return p, err
}

// past shows what is there, merged by message_id.
func (t *tail) past(ctx context.Context, parts []*part) error {
	ctx, stop := context.WithCancel(ctx)
	sources := make([]*source, len(parts))
	for i, p := range parts {
		sources[i] = newSource()
		go sources[i].read(ctx, p)
	}
	defer func() {
		stop()
		for _, s := range sources {
			<-s.ended
		}
	}()
	for _, s := range sources {
		if err := s.advance(); err != nil {
			return err
		}
	}
	for {
		var first *source
		for _, s := range sources {
			if s.more && (first == nil || s.id < first.id) {
				first = s
			}
		}
		if first == nil {
			return t.flush()
		}
		if err := t.show(first.record); err != nil {
			return err
		}
		if err := first.advance(); err != nil {
			return err
		}
	}
}

// sourceAhead is how many records of a partition wait to be merged.
const sourceAhead = 256

// source is the past of a partition.
type source struct {
	records chan messagelog.Record
	ended   chan struct{}
	err     error // set before records is closed

	more   bool
	record messagelog.Record
	id     message.ID
	view   message.Message
}

func newSource() *source {
	return &source{records: make(chan messagelog.Record, sourceAhead), ended: make(chan struct{})}
}

func (s *source) read(ctx context.Context, p *part) {
	defer close(s.ended)
	defer close(s.records)
	s.err = p.log.Range(ctx, p.first, p.last, p.subjects, into(ctx, s.records))
}

// into puts records into a channel, until ctx ends.
func into(ctx context.Context, records chan<- messagelog.Record) func(messagelog.Record) error {
	return func(r messagelog.Record) error {
		select {
		case records <- r:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// advance takes the next record.
func (s *source) advance() error {
	if s.record, s.more = <-s.records; !s.more {
		return s.err
	}
	s.view.Reset()
	if err := s.view.UnmarshalVT(s.record.Data); err != nil {
		return fmt.Errorf("record %d of partition %d: not an encoded Message: %w", s.record.Seq, s.record.Partition, err)
	}
	s.id = message.ID(s.view.GetMessageId())
	return nil
}

// flow hands over messages as they come, until ctx ends or something breaks.
type flow func(ctx context.Context, records chan<- messagelog.Record) error

// follow shows what comes.
func (t *tail) follow(ctx context.Context, flows []flow) error {
	ctx, stop := context.WithCancel(ctx)
	records, failed := make(chan messagelog.Record), make(chan error, len(flows))
	ended := make(chan struct{}, len(flows))
	for _, flow := range flows {
		go func() {
			defer func() { ended <- struct{}{} }()
			failed <- flow(ctx, records)
		}()
	}
	defer func() {
		stop()
		for range flows {
			<-ended
		}
	}()
	for {
		select {
		case r := <-records:
			if err := t.show(r); err != nil {
				return err
			}
			if err := t.flush(); err != nil {
				return err
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (p *part) follow(ctx context.Context, records chan<- messagelog.Record) error {
	return p.log.Follow(ctx, max(p.last+1, p.first), p.subjects, into(ctx, records))
}

func (t *tail) show(r messagelog.Record) error {
	var err error
	if t.line, err = t.lines.Append(t.line[:0], r); err != nil {
		return err
	}
	if _, err := t.out.Write(t.line); err != nil {
		return fmt.Errorf("write messages: %w", err)
	}
	if t.shown++; t.shown == t.cfg.Limit {
		return errLimit
	}
	return nil
}

func (t *tail) flush() error {
	if err := t.out.Flush(); err != nil {
		return fmt.Errorf("write messages: %w", err)
	}
	return nil
}
