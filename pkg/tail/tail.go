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

// encoder writes a message as a line.
type encoder interface {
	Append(dst []byte, e messagelog.Entry) ([]byte, error)
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
	if err := cfg.Check(); err != nil {
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
	first, last uint64               // of the past; the rest comes by following
	channels    []messagelog.Channel // none for all
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
			p.channels = []messagelog.Channel{{ID: name, Type: kind}}
		}
		if p, err = t.place(ctx, p); err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// place finds the first and the last message of the past of a part.
func (t *tail) place(ctx context.Context, p *part) (*part, error) {
	bounds, err := p.log.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	p.first, p.last = bounds.First, bounds.Last
	from := t.cfg.FromSeq
	switch {
	case t.cfg.Last > 0:
		last, err := p.log.LastMessageSeq(ctx, p.channels[0])
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
		p.first, err = p.log.SeekMessageSeq(ctx, p.channels[0], from)
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
		if err := t.show(first.entry); err != nil {
			return err
		}
		if err := first.advance(); err != nil {
			return err
		}
	}
}

// sourceAhead is how many entries of a partition wait to be merged.
const sourceAhead = 256

// source is the past of a partition.
type source struct {
	entries chan messagelog.Entry
	ended   chan struct{}
	err     error // set before entries is closed

	more  bool
	entry messagelog.Entry
	id    message.ID
	view  message.Message
}

func newSource() *source {
	return &source{entries: make(chan messagelog.Entry, sourceAhead), ended: make(chan struct{})}
}

func (s *source) read(ctx context.Context, p *part) {
	defer close(s.ended)
	defer close(s.entries)
	s.err = p.log.Range(ctx, p.first, p.last, p.channels, into(ctx, s.entries))
}

// into puts entries into a channel, until ctx ends.
func into(ctx context.Context, entries chan<- messagelog.Entry) func(messagelog.Entry) error {
	return func(e messagelog.Entry) error {
		select {
		case entries <- e:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// advance takes the next message.
func (s *source) advance() error {
	if s.entry, s.more = <-s.entries; !s.more {
		return s.err
	}
	s.view.Reset()
	if err := s.view.UnmarshalVT(s.entry.Data); err != nil {
		return fmt.Errorf("message %d of partition %d: not an encoded Message: %w", s.entry.PartitionSeq, s.entry.Partition, err)
	}
	s.id = message.ID(s.view.GetMessageId())
	return nil
}

// flow hands over messages as they come, until ctx ends or something breaks.
type flow func(ctx context.Context, entries chan<- messagelog.Entry) error

// follow shows what comes.
func (t *tail) follow(ctx context.Context, flows []flow) error {
	ctx, stop := context.WithCancel(ctx)
	entries, failed := make(chan messagelog.Entry), make(chan error, len(flows))
	ended := make(chan struct{}, len(flows))
	for _, flow := range flows {
		go func() {
			defer func() { ended <- struct{}{} }()
			failed <- flow(ctx, entries)
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
		case r := <-entries:
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

func (p *part) follow(ctx context.Context, entries chan<- messagelog.Entry) error {
	return p.log.Follow(ctx, max(p.last+1, p.first), p.channels, into(ctx, entries))
}

func (t *tail) show(e messagelog.Entry) error {
	var err error
	if t.line, err = t.lines.Append(t.line[:0], e); err != nil {
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
