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
	if errors.Is(err, errLimit) || (ctx.Err() != nil && cfg.Follow) {
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

func (t *tail) run(ctx context.Context, js jetstream.JetStream, partitions int) error {
	var parts []*part
	if name, kind, ok := t.cfg.channel(); ok {
		number := topology.Partitions(partitions).Of(name, kind)
		log, err := messagelog.Open(ctx, js, number)
		if err != nil {
			return err
		}
		subject := string(topology.AppendMessageSubject(nil, number, kind, name))
		p, err := t.place(ctx, &part{log: log, subjects: []string{subject}})
		if err != nil {
			return err
		}
		parts = append(parts, p)
	} else {
		for number := range partitions {
			log, err := messagelog.Open(ctx, js, number)
			if err != nil {
				return err
			}
			p, err := t.place(ctx, &part{log: log})
			if err != nil {
				return err
			}
			parts = append(parts, p)
		}
	}
	if err := t.past(ctx, parts); err != nil || !t.cfg.Follow {
		return err
	}
	return t.follow(ctx, parts)
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
	s.err = p.log.Range(ctx, p.first, p.last, p.subjects, func(r messagelog.Record) error {
		select {
		case s.records <- r:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
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

// follow shows what comes.
func (t *tail) follow(ctx context.Context, parts []*part) error {
	ctx, stop := context.WithCancel(ctx)
	records, failed := make(chan messagelog.Record), make(chan error, len(parts))
	ended := make(chan struct{}, len(parts))
	for _, p := range parts {
		go func() {
			defer func() { ended <- struct{}{} }()
			failed <- followOne(ctx, p, records)
		}()
	}
	defer func() {
		stop()
		for range parts {
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

func followOne(ctx context.Context, p *part, records chan<- messagelog.Record) error {
	reader, err := p.log.Read(ctx, max(p.last+1, p.first), p.subjects...)
	if err != nil {
		return err
	}
	defer reader.Stop()
	for {
		r, err := reader.Next(ctx)
		if err != nil {
			return err
		}
		select {
		case records <- r:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
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
