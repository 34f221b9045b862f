package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// verify waits for the rows of all records and proves what the package promises of them. That no other's
// send is there rests on a partition's rows being written in order: what was taken before the last of the
// records is seen.
func verify(t *testing.T, tb *table, records []*record) {
	t.Helper()
	require.NotEmpty(t, records)
	tb.await(t, len(records))
	v := inspect(tb.rows(t), records)
	require.Empty(t, v.problems, "%d rows, %d sends", len(v.rows), len(v.records))
}

// verification collects what is wrong.
type verification struct {
	rows     []*row // by partition and partition_seq
	records  []*record
	problems []string

	lost, repeated, renumbered int             // how many sends
	expired                    map[rowKey]bool // rows that may be gone
}

type rowKey struct {
	channel     string
	channelType uint8
	seq         uint64
}

// summary says in a line what is wrong with the sends.
func (v *verification) summary() string {
	return fmt.Sprintf("of %d answered sends %d are lost, %d are there twice, %d have another identity; %d rows",
		len(v.records), v.lost, v.repeated, v.renumbered, len(v.rows))
}

func inspect(rows []*row, records []*record) *verification {
	v := &verification{rows: rows, records: records, expired: make(map[rowKey]bool)}
	for _, s := range records {
		if s.expired() {
			v.expired[rowKey{s.channel(), uint8(s.channelType), s.seq}] = true
		}
	}
	v.everySendOnce()
	v.everyChannelCounts()
	v.everyPartitionCounts()
	return v
}

const problemsMax = 20

func (v *verification) wrong(format string, args ...any) {
	if len(v.problems) < problemsMax {
		v.problems = append(v.problems, fmt.Sprintf(format, args...))
	}
}

// everySendOnce: each record has one row, with its answer and its content, and each row has a record.
func (v *verification) everySendOnce() {
	byKey := make(map[string]*row, len(v.rows))
	ids := make(map[int64]bool, len(v.rows))
	for _, r := range v.rows {
		if twin := byKey[r.clientMsgNo]; twin != nil {
			v.repeated++
			v.wrong("%s is there twice: %s and %s", r.clientMsgNo, twin.place(), r.place())
		}
		byKey[r.clientMsgNo] = r
		if ids[r.id] {
			v.wrong("message_id %d is there twice", r.id)
		}
		ids[r.id] = true
	}
	for _, s := range v.records {
		r := byKey[s.clientMsgNo]
		if r == nil && s.expired() {
			continue
		}
		if r == nil {
			v.lost++
			v.wrong("%s was answered %v and is not there", s.clientMsgNo, s.answer)
			continue
		}
		delete(byKey, s.clientMsgNo)
		if got := (answer{r.id, r.seq}); got != s.answer {
			v.renumbered++
			v.wrong("%s was answered %v and is there as %v, %s", s.clientMsgNo, s.answer, got, r.place())
		}
		if !s.matches(r) {
			v.wrong("%s is not what was sent: %+v, sent %+v", s.clientMsgNo, *r, s.send)
		}
	}
	for key, r := range byKey {
		v.wrong("%s is there, %s, and no answer named it", key, r.place())
	}
}

// expired reports whether ClickHouse may have removed the row.
func (s *record) expired() bool {
	return s.expire > 0 && !time.Now().Before(time.UnixMilli(message.ID(s.id).UnixMilli()).Add(time.Duration(s.expire)*time.Second))
}

func (r *row) place() string {
	return fmt.Sprintf("partition %d, partition_seq %d, wal_seq %d[%d], message_seq %d of %d %q",
		r.partition, r.partitionSeq, r.walSeq, r.walIndex, r.seq, r.channelType, r.channelID)
}

// matches reports whether the row holds what was sent, in every column.
func (s *send) matches(r *row) bool {
	return r.channelID == s.channel() && r.channelType == uint8(s.channelType) && r.fromUID == s.fromUID &&
		r.redDot == uint8(flag(s.redDot)) && r.syncOnce == uint8(flag(s.syncOnce)) && r.streamNo == s.streamNo && r.tagKey == s.tagKey &&
		r.expire == s.expire && slices.Equal(r.subscribers, s.subscribers) && r.payload == string(s.payload) &&
		int64(r.unixTime) == message.ID(r.id).UnixMilli()/1000
}

// everyChannelCounts: the sequences of a channel are 1 to n, and in an order that its clients can have seen.
func (v *verification) everyChannelCounts() {
	type channel struct {
		name string
		kind uint8
	}
	byChannel := make(map[channel][]*row)
	for _, r := range v.rows {
		c := channel{r.channelID, r.channelType}
		byChannel[c] = append(byChannel[c], r)
	}
	records := make(map[string]*record, len(v.records))
	for _, s := range v.records {
		records[s.clientMsgNo] = s
	}
	for c, rows := range byChannel {
		slices.SortFunc(rows, func(a, b *row) int { return int(a.seq) - int(b.seq) })
		last := uint64(0)
		for _, r := range rows {
			for v.expired[rowKey{c.name, c.kind, last + 1}] && last+1 < r.seq {
				last++
			}
			if r.seq != last+1 {
				v.wrong("channel %d %q: %d follows %d", c.kind, c.name, r.seq, last)
				break
			}
			last = r.seq
		}
		// From the last to the first: none may have begun after a later one was answered.
		earliest := time.Now()
		for _, r := range slices.Backward(rows) {
			s := records[r.clientMsgNo]
			if s == nil {
				continue // everySendOnce has said so
			}
			if s.begun.After(earliest) {
				v.wrong("channel %d %q: %d began %s after a later one was answered", c.kind, c.name, r.seq, s.begun.Sub(earliest))
			}
			if s.answered.Before(earliest) {
				earliest = s.answered
			}
		}
	}
}

// everyPartitionCounts: the message log of a partition is 1 to n in the table too, in the order of the
// write-ahead log and of the IDs. Which of the numbers belong to expired rows it does not know.
func (v *verification) everyPartitionCounts() {
	var last *row
	for _, r := range v.rows {
		if last == nil || last.partition != r.partition {
			last = &row{partition: r.partition}
		}
		if r.partitionSeq != last.partitionSeq+1 && (len(v.expired) == 0 || r.partitionSeq <= last.partitionSeq) {
			v.wrong("partition %d: partition_seq %d follows %d", r.partition, r.partitionSeq, last.partitionSeq)
		}
		if r.id <= last.id {
			v.wrong("partition %d: message_id %d follows %d", r.partition, r.id, last.id)
		}
		if r.walSeq < last.walSeq || (r.walSeq == last.walSeq && last.partitionSeq > 0 && r.walIndex <= last.walIndex) {
			v.wrong("partition %d: WAL place %d[%d] follows %d[%d]", r.partition, r.walSeq, r.walIndex, last.walSeq, last.walIndex)
		}
		if message.ID(r.id).Partition() != int(r.partition) {
			v.wrong("partition %d: message_id %d is of partition %d", r.partition, r.id, message.ID(r.id).Partition())
		}
		last = r
	}
}

// audit lets the service itself fold the write-ahead log again and compare the message log with it.
func audit(t *testing.T, natsURL string) {
	t.Helper()
	status, output := command(t, "audit", "--nats-url="+natsURL)
	require.Equal(t, 0, status, output)
	require.Contains(t, output, "the rows: --clickhouse-dsn is not given")
}
