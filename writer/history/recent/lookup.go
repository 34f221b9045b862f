package recent

import (
	"context"
	"slices"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// Wanted names messages of a channel by their message_seq, their ID or their client_msg_no.
type Wanted struct {
	Seqs         []uint64
	IDs          []int64
	ClientMsgNos []string
}

// Lookup is Channel for the messages that are wanted, in no order and perhaps repeated; of those with the same client_msg_no the latest.
func (l *Log) Lookup(ctx context.Context, c clickhouse.Channel, w *Wanted) (Part, error) {
	return l.read(ctx, l.partitions.Of(c.ID, c.Type), func(t *tail) Part { return t.lookup(c, w, l.now().Unix()) })
}

func (t *tail) lookup(key clickhouse.Channel, w *Wanted, now int64) Part {
	p := t.part(key, Span{}, 0, now)
	c := t.channels[key]
	if c == nil {
		return p
	}
	take := func(m *Message) {
		if m.live(now) {
			p.Messages = append(p.Messages, *m)
		}
	}
	for _, seq := range w.Seqs {
		if i, found := t.search(c, seq); found {
			take(t.at(c.seqs[i]))
		}
	}
	for _, id := range w.IDs {
		if it := t.byID(message.ID(id), now); it != nil && it.in == c {
			take(&it.Message)
		}
	}
	missing := make(map[string]bool)
	for _, no := range w.ClientMsgNos {
		missing[no] = true
	}
	for _, partitionSeq := range slices.Backward(c.seqs) {
		if len(missing) == 0 {
			break
		}
		m := t.at(partitionSeq)
		if view, err := message.ViewSend(m.Data); err == nil && m.live(now) && missing[string(view.ClientMsgNo)] {
			delete(missing, string(view.ClientMsgNo))
			take(m)
		}
	}
	return p
}
