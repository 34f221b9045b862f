package recent

import (
	"cmp"
	"slices"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// messageOverheadBytes is the approximate memory of a message beyond its encoding: its place in the tail and in its channel.
const messageOverheadBytes = 128

// Message is a message of the tail.
type Message struct {
	PartitionSeq uint64
	Seq          uint64 // message_seq
	ID           message.ID
	Expires      int64  // Unix seconds from which it is gone; 0 if never
	Data         []byte // an encoded Message, which must not be changed
}

// live reports whether it has not expired, by the rule of ClickHouse.
func (m *Message) live(unixSeconds int64) bool { return m.Expires == 0 || m.Expires > unixSeconds }

// Span is a part of a channel: messages with a message_seq from First to Last, both included.
type Span struct {
	First, Last uint64
	NewestFirst bool
}

// Part is what the tail has of a channel.
type Part struct {
	// Messages are those of the span that have not expired, in its direction. What the writer makes a dead letter because it
	// cannot be decoded is not among them.
	Messages []Message
	// More reports whether the tail has others of the span.
	More bool
	// Lowest and Highest are the channel's first and last message_seq in the tail, expired or not; 0 if it has none.
	Lowest, Highest uint64
	// Complete reports whether all messages that precede the tail are in ClickHouse, dead letters, or lost.
	Complete bool
	// Reached reports whether the tail has everything that was answered before the read began. If not, the records of the
	// write-ahead log after End are not folded, or not in the message log yet.
	Reached bool
	// End is the stream_seq of the last record that the tail was read from.
	End uint64
}

// tail holds the messages of a partition after the writers' position. The mutex of the follower guards it.
type tail struct {
	bytesMax int

	done  uint64 // the partition_seq up to which the writers are done
	from  uint64 // everything of the log after this partition_seq is in items
	next  uint64 // the partition_seq that comes next; 0 if that is unknown
	end   uint64 // the stream_seq of the last record
	items []item // consecutive: items[0] has the partition_seq from+1
	bytes int

	channels map[clickhouse.Channel]*channel

	decoded message.Stored // the latest message
}

// item is a message in the order of the partition. A message that cannot be stored has no channel and no Data.
type item struct {
	Message
	in *channel
}

// channel lists the messages of one channel.
type channel struct {
	key  clickhouse.Channel
	seqs []uint64 // partition_seqs, ascending
}

// reset empties the tail. It continues with the record after end, in which next is the first wanted message.
func (t *tail) reset(done, next, end uint64) {
	*t = tail{bytesMax: t.bytesMax, done: done, from: done, next: next, end: end, channels: make(map[clickhouse.Channel]*channel)}
}

// complete reports whether the tail begins where the writers are.
func (t *tail) complete() bool { return t.next != 0 && t.from <= t.done }

// add appends a record, and drops the oldest messages if there are too many. batch must not be changed afterwards.
func (t *tail) add(streamSeq uint64, batch *message.BatchView) {
	t.end = streamSeq
	if t.next == 0 || batch.First > t.next { // messages are missing before it
		t.restart(batch.First)
	}
	for i, encoded := range batch.Messages {
		if partitionSeq := batch.First + uint64(i); partitionSeq >= t.next {
			t.append(partitionSeq, encoded)
		}
	}
	for t.bytes > t.bytesMax && len(t.items) > 0 {
		t.drop()
	}
}

// addForeign passes over a record that is not a batch of messages. Nothing tells how many messages it replaced.
func (t *tail) addForeign(streamSeq uint64) {
	t.restart(1)
	t.end, t.next = streamSeq, 0
}

// restart drops everything; the tail begins with the message next.
func (t *tail) restart(next uint64) {
	t.from, t.next, t.items, t.bytes = next-1, next, nil, 0
	clear(t.channels)
}

// append adds the next message.
func (t *tail) append(partitionSeq uint64, encoded []byte) {
	t.next = partitionSeq + 1
	it := item{Message: Message{PartitionSeq: partitionSeq}}
	if n := len(t.items); n > 0 {
		it.ID = t.items[n-1].ID // IDs stay in order
	}
	if clickhouse.Decode(&t.decoded, partitionSeq, encoded) == nil {
		m := &t.decoded.Message
		it.Message = Message{PartitionSeq: partitionSeq, Seq: m.GetMessageSeq(), ID: message.ID(m.GetMessageId()), Data: encoded}
		if expire := m.GetExpire(); expire > 0 {
			it.Expires = m.AcceptedAt().Unix() + int64(expire)
		}
		it.in = t.channelOf(m)
		it.in.seqs = append(it.in.seqs, partitionSeq)
	}
	t.items = append(t.items, it)
	t.bytes += len(it.Data) + messageOverheadBytes
}

func (t *tail) channelOf(m *message.Message) *channel {
	key := clickhouse.Channel{ID: m.GetChannelId(), Type: message.ChannelType(m.GetChannelType())}
	c := t.channels[key]
	if c == nil {
		key.ID = string([]byte(key.ID)) // the decoded one aliases the record
		c = &channel{key: key}
		t.channels[key] = c
	}
	return c
}

// drop removes the oldest message.
func (t *tail) drop() {
	it := &t.items[0]
	if c := it.in; c != nil {
		if c.seqs = c.seqs[1:]; len(c.seqs) == 0 {
			delete(t.channels, c.key)
		}
	}
	t.bytes -= len(it.Data) + messageOverheadBytes
	t.from = it.PartitionSeq
	*it = item{}
	t.items = t.items[1:]
}

// advance drops what the writers have done.
func (t *tail) advance(done uint64) {
	t.done = done
	if t.next == 0 {
		return
	}
	for len(t.items) > 0 && t.items[0].PartitionSeq <= done {
		t.drop()
	}
	if len(t.items) == 0 && done >= t.next { // ahead of what was read
		t.from, t.next = done, done+1
	}
}

// at returns the message with a partition_seq of the tail.
func (t *tail) at(partitionSeq uint64) *Message { return &t.items[partitionSeq-t.from-1].Message }

// part returns up to limit messages of a channel that have not expired.
func (t *tail) part(key clickhouse.Channel, s Span, limit int, now int64) Part {
	p := Part{Complete: t.complete(), End: t.end}
	c := t.channels[key]
	if c == nil {
		return p
	}
	p.Lowest, p.Highest = t.at(c.seqs[0]).Seq, t.at(c.seqs[len(c.seqs)-1]).Seq
	low, _ := t.search(c, s.First)
	high := len(c.seqs)
	if s.Last < p.Highest {
		high, _ = t.search(c, s.Last+1)
	}
	for i := range max(high-low, 0) {
		place := low + i
		if s.NewestFirst {
			place = high - 1 - i
		}
		m := t.at(c.seqs[place])
		switch {
		case !m.live(now):
		case len(p.Messages) == limit:
			p.More = true
			return p
		default:
			p.Messages = append(p.Messages, *m)
		}
	}
	return p
}

// search returns the place of a message_seq in a channel, within which it grows with partition_seq.
func (t *tail) search(c *channel, seq uint64) (place int, found bool) {
	return slices.BinarySearchFunc(c.seqs, seq, func(partitionSeq, seq uint64) int { return cmp.Compare(t.at(partitionSeq).Seq, seq) })
}

// find returns the latest message of a channel that is wanted and has not expired.
func (t *tail) find(key clickhouse.Channel, wanted func(encoded []byte) bool, now int64) Part {
	p := t.part(key, Span{}, 0, now)
	if c := t.channels[key]; c != nil {
		for _, partitionSeq := range slices.Backward(c.seqs) {
			if m := t.at(partitionSeq); m.live(now) && wanted(m.Data) {
				p.Messages = []Message{*m}
				break
			}
		}
	}
	return p
}

// byID returns the message with an ID, nil if there is none or it has expired. IDs grow in a partition.
func (t *tail) byID(id message.ID, now int64) *item {
	i, found := slices.BinarySearchFunc(t.items, id, func(it item, id message.ID) int { return cmp.Compare(it.ID, id) })
	if !found || t.items[i].in == nil || !t.items[i].live(now) {
		return nil
	}
	return &t.items[i]
}
