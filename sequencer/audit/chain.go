package audit

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
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
// the next: records and partition_seqs without holes; IDs that grow, and so are unique, and
// that name the partition; a wal_seq and wal_index that grow; and in each channel a message_seq that counts without
// gaps, from 1 where the log still has its beginning. It needs some 50 bytes for a
// channel; if that is more than memoryBytesMax, it reads the log several times.
// The part is never nil; its details are a [*Chained].
func Chain(ctx context.Context, js jetstream.JetStream, number int, memoryBytesMax int64, log *slog.Logger) (*audit.Part, error) {
	c := &chain{
		js: js, part: &audit.Part{Check: "chain", Partition: number}, report: new(Chained), progress: audit.NewProgress(log, "chain", number),
		channels: new(audit.Part), seed: maphash.MakeSeed(), channelsMax: max(int(memoryBytesMax/chainChannelBytes), 1), passes: 1,
	}
	c.part.Details = c.report
	var err error
	if c.log, err = messagelog.Open(ctx, js, number); err != nil {
		return c.part, err
	}
	records, err := c.log.Records(ctx)
	if err != nil {
		return c.part, err
	}
	*c.report, c.last = Chained{First: records.First, Last: records.Last}, records.Last
	if records.First > records.Last {
		return c.part, nil
	}
	err = c.read(ctx, everything)
	if errors.Is(err, message.ErrNotAMessageBatch) {
		c.part.Differ("after record %d: %v; what follows cannot be checked", c.record, err)
		c.last, err = c.record, nil
	}
	if err != nil {
		return c.part, err
	}
	defer c.mend()
	if c.passes == 1 {
		c.report.Channels = uint64(len(c.seqs))
		c.part.Take(c.channels)
		return c.part, nil
	}
	c.channels = c.part
	for pass := range c.passes {
		if err := c.read(ctx, int(pass)); err != nil {
			return c.part, err
		}
		c.report.Channels += uint64(len(c.seqs))
	}
	return c.part, nil
}

// mend names what can repair the log. What the write-ahead log no longer makes comes back only from a copy.
func (c *chain) mend() {
	if c.part.Differences > 0 {
		c.part.Mend("sendhouse repair message-log --partition %d", c.part.Partition)
	}
}

// everything is the first pass. It checks all, but the channels only for as long as they are few enough. If they are not, it finds out
// how many passes they take, and what it has found of them is forgotten.
const everything = -1

type chain struct {
	js       jetstream.JetStream
	part     *audit.Part
	report   *Chained
	progress *audit.Progress
	log      *messagelog.Log

	message  message.Message // at hand; its strings lie in the record
	last     uint64          // the record up to which the log is checked
	record   uint64          // the last one read
	next     uint64          // the partition_seq that the next message must have; 0 if it may be any
	previous struct {
		id       message.ID
		walSeq   uint64
		walIndex uint32
	}
	channels    *audit.Part // takes what is found of channels
	seed        maphash.Seed
	key         []byte
	seqs        map[uint64]uint64 // the last message_seq, by the hash of a channel
	channelsMax int               // in seqs
	passes      uint64            // a channel belongs to that pass which is the remainder of its hash
	whole       bool              // the channels' beginnings are in the log
}

// read goes through the log once.
func (c *chain) read(ctx context.Context, pass int) error {
	c.report.Passes++
	c.seqs, c.whole, c.record, c.next = make(map[uint64]uint64), c.report.First == 1, c.report.First-1, 0
	if c.whole {
		c.next = 1
	}
	reader, err := c.log.ReadRecords(ctx, c.report.First)
	if err != nil {
		return err
	}
	defer reader.Stop()
	for c.record < c.last {
		r, err := reader.NextRecord(ctx)
		switch {
		case errors.Is(err, messagelog.ErrQuiet):
			if deleted, err := c.endDeleted(ctx); err != nil {
				return err
			} else if deleted {
				return c.gap(ctx, c.last+1, pass)
			}
			continue
		case err != nil:
			return err
		case r.Seq > c.record+1:
			if err := c.gap(ctx, min(r.Seq, c.last+1), pass); err != nil {
				return err
			}
		}
		c.record = r.Seq
		if r.Seq <= c.last {
			c.check(r, pass)
		}
	}
	return nil
}

// check checks a record against the one before it.
func (c *chain) check(r *messagelog.Record, pass int) {
	size, reads := c.report.Last-c.report.First+1, uint64(1)
	if c.passes > 1 {
		reads += c.passes
	}
	c.progress.At(uint64(c.report.Passes-1)*size+r.Seq-c.report.First, reads*size)
	if pass == everything && c.next > 0 && r.Batch.First != c.next {
		c.part.Differ("record %d begins with message %d, wanted %d", r.Seq, r.Batch.First, c.next)
	}
	c.next = r.Batch.Next()
	for i := range r.Batch.Messages {
		e := r.Entry(i)
		c.message.Reset()
		if err := c.message.UnmarshalVTUnsafe(e.Data); err != nil {
			if pass == everything {
				c.part.Differ("message %d is not an encoded Message: %v", e.PartitionSeq, err)
			}
			continue
		}
		if pass == everything {
			c.part.Compared++
			c.order(e)
		}
		c.count(e, pass)
	}
}

// endDeleted reports whether a log that delivers nothing more has lost its last records for good. One that ends before them is
// behind, which is an error; it looks at the end first, since that may come back meanwhile.
func (c *chain) endDeleted(ctx context.Context) (bool, error) {
	records, err := c.log.Records(ctx)
	if err != nil {
		return false, err
	}
	if records.Last < c.last {
		return false, fmt.Errorf("partition %d: the message log ends at record %d, and had %d: %w", c.part.Partition, records.Last, c.last, messagelog.ErrTailLost)
	}
	raw, err := storedRecord(ctx, c.js, c.part.Partition, c.record+1)
	return raw == nil || raw.Sequence > c.last, err
}

// gap is a run of records, up to before next, that the log does not have: taken by
// retention while it was read, or else a hole.
func (c *chain) gap(ctx context.Context, next uint64, pass int) error {
	records, err := c.log.Records(ctx)
	if err != nil {
		return err
	}
	if next <= records.First {
		clear(c.seqs) // what the channels had before is not known any more
		c.whole, c.next = false, 0
	} else if pass == everything {
		c.part.Differ("records %d to %d are missing: the log has a hole", c.record+1, next-1)
	}
	c.record = next - 1
	return nil
}

// order checks a message against the one before it, and against the record that holds it.
func (c *chain) order(e messagelog.Entry) {
	m, p := &c.message, &c.previous
	id := message.ID(m.GetMessageId())
	switch {
	case id <= p.id:
		c.part.Differ("%s has a message_id that does not follow %d", audit.MessageName(m, e.PartitionSeq), p.id)
	case id.Partition() != c.part.Partition:
		c.part.Differ("%s has a message_id of partition %d", audit.MessageName(m, e.PartitionSeq), id.Partition())
	}
	if p.walSeq > 0 && (m.GetWalSeq() < p.walSeq || (m.GetWalSeq() == p.walSeq && m.GetWalIndex() <= p.walIndex)) {
		c.part.Differ("%s is from record %d, place %d, which does not follow %d, place %d", audit.MessageName(m, e.PartitionSeq), m.GetWalSeq(), m.GetWalIndex(), p.walSeq, p.walIndex)
	}
	if e.StreamSeq != m.GetWalSeq() {
		c.part.Differ("%s is in record %d, and is from record %d of the write-ahead log", audit.MessageName(m, e.PartitionSeq), e.StreamSeq, m.GetWalSeq())
	}
	p.id, p.walSeq, p.walIndex = id, m.GetWalSeq(), m.GetWalIndex()
}

// count checks a message against the one before it in its channel, if that is this pass's.
func (c *chain) count(e messagelog.Entry, pass int) {
	c.key = append(append(c.key[:0], byte(c.message.GetChannelType())), c.message.GetChannelId()...)
	key := maphash.Bytes(c.seed, c.key)
	if key%c.passes != uint64(max(pass, 0)) {
		return
	}
	seq := c.message.GetMessageSeq()
	last, known := c.seqs[key]
	if (known || c.whole) && seq != last+1 {
		c.channels.Differ("%s does not follow message_seq %d", audit.MessageName(&c.message, e.PartitionSeq), last)
	}
	c.seqs[key] = seq
	if pass == everything && len(c.seqs) > c.channelsMax {
		c.passes *= 2
		maps.DeleteFunc(c.seqs, func(key, _ uint64) bool { return key%c.passes != 0 })
	}
}
