package sequencer

import (
	"context"
	"hash/maphash"
	"log/slog"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// chainChannelBytes is what one channel takes in memory while a chain is checked.
const chainChannelBytes = 48

// Chained is what checking one partition's chain covered.
type Chained struct {
	First    uint64 `json:"first"` // stream sequences
	Last     uint64 `json:"last"`
	Channels uint64 `json:"channels"`
	Passes   int    `json:"passes"`
}

// Chain reads a partition's message log and checks what follows from one message to
// the next: stream sequences without holes; IDs that grow, and so are unique, and
// that name the partition; places in the write-ahead log that grow; subjects that
// name the message's channel; and in each channel a message_seq that counts without
// gaps, from 1 where the log still has its beginning. It needs some 50 bytes for a
// channel; where that is more than memoryBytesMax, it reads the log several times.
// The part is never nil; its details are a [*Chained].
func Chain(ctx context.Context, js jetstream.JetStream, number int, memoryBytesMax int64, log *slog.Logger) (*audit.Part, error) {
	c := &chain{part: &audit.Part{Check: "chain", Partition: number}, report: new(Chained), progress: audit.NewProgress(log, "chain", number), seed: maphash.MakeSeed()}
	c.part.Details = c.report
	var err error
	if c.log, err = messagelog.Open(ctx, js, number); err != nil {
		return c.part, err
	}
	bounds, err := c.log.Bounds(ctx)
	if err != nil {
		return c.part, err
	}
	*c.report = Chained{First: bounds.First, Last: bounds.Last, Channels: bounds.Channels}
	if bounds.First > bounds.Last {
		return c.part, nil
	}
	passes := uint64(max(int64(bounds.Channels)*chainChannelBytes/max(memoryBytesMax, 1), 0)) + 1
	for pass := range passes {
		c.report.Passes++
		if err := c.read(ctx, pass, passes); err != nil {
			return c.part, err
		}
	}
	return c.part, nil
}

type chain struct {
	part     *audit.Part
	report   *Chained
	progress *audit.Progress
	log      *messagelog.Log

	message  message.Message // of the record at hand
	subject  []byte
	previous struct {
		seq      uint64
		id       message.ID
		walSeq   uint64
		walIndex uint32
	}
	seed  maphash.Seed
	seqs  map[uint64]uint64 // the last message_seq, by the hash of a channel's subject
	whole bool              // the channels' beginnings are in the log
}

// read goes through the log once. The first pass checks everything but the channels
// of other passes, the others only their channels.
func (c *chain) read(ctx context.Context, pass, passes uint64) error {
	c.seqs, c.whole, c.previous.seq = make(map[uint64]uint64), c.report.First == 1, c.report.First-1
	err := c.log.Range(ctx, c.report.First, c.report.Last, nil, func(r messagelog.Record) error {
		c.progress.At(pass*(c.report.Last-c.report.First)+r.Seq-c.report.First, passes*(c.report.Last-c.report.First))
		if r.Seq != c.previous.seq+1 {
			if err := c.gap(ctx, r.Seq, pass == 0); err != nil {
				return err
			}
		}
		c.previous.seq = r.Seq
		c.message.Reset()
		if err := c.message.UnmarshalVT(r.Data); err != nil {
			if pass == 0 {
				c.part.Differ("message %d is not an encoded Message: %v", r.Seq, err)
			}
			return nil
		}
		if pass == 0 {
			c.part.Compared++
			c.order(r)
		}
		if key := maphash.String(c.seed, r.Subject); key%passes == pass {
			c.count(r, key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if c.previous.seq < c.report.Last {
		return c.gap(ctx, c.report.Last+1, pass == 0)
	}
	return nil
}

// gap is a run of sequences, up to before next, that the log does not have: taken by
// retention while it was read, or else a hole.
func (c *chain) gap(ctx context.Context, next uint64, report bool) error {
	bounds, err := c.log.Bounds(ctx)
	if err != nil {
		return err
	}
	if next <= bounds.First {
		clear(c.seqs) // what the channels had before is not known any more
		c.whole = false
		return nil
	}
	if report {
		c.part.Differ("messages %d to %d are missing: the log has a hole", c.previous.seq+1, next-1)
	}
	return nil
}

// order checks a message against the one before it, and against its place.
func (c *chain) order(r messagelog.Record) {
	m, p := &c.message, &c.previous
	id := message.ID(m.GetMessageId())
	switch {
	case id <= p.id:
		c.part.Differ("message %d has message_id %d, which does not follow %d", r.Seq, id, p.id)
	case id.Partition() != c.part.Partition:
		c.part.Differ("message %d has message_id %d, which is of partition %d", r.Seq, id, id.Partition())
	}
	if p.walSeq > 0 && (m.GetWalSeq() < p.walSeq || (m.GetWalSeq() == p.walSeq && m.GetWalIndex() <= p.walIndex)) {
		c.part.Differ("message %d is from record %d, place %d, which does not follow %d, place %d", r.Seq, m.GetWalSeq(), m.GetWalIndex(), p.walSeq, p.walIndex)
	}
	p.id, p.walSeq, p.walIndex = id, m.GetWalSeq(), m.GetWalIndex()
	c.subject = topology.AppendMessageSubject(c.subject[:0], c.part.Partition, message.ChannelType(m.GetChannelType()), m.GetChannelId())
	if string(c.subject) != r.Subject {
		c.part.Differ("message %d is on subject %s, wanted %s", r.Seq, r.Subject, c.subject)
	}
}

// count checks a message against the one before it in its channel.
func (c *chain) count(r messagelog.Record, key uint64) {
	seq := c.message.GetMessageSeq()
	last, known := c.seqs[key]
	if (known || c.whole) && seq != last+1 {
		c.part.Differ("message %d has message_seq %d in its channel %s, which does not follow %d", r.Seq, seq, r.Subject, last)
	}
	c.seqs[key] = seq
}
