package recent

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const now = 1_800_000_000

func key(n int) clickhouse.Channel {
	return clickhouse.Channel{ID: fmt.Sprintf("g%d", n), Type: 2}
}

// modelled is a message of the model's log; a damaged one cannot be stored.
type modelled struct {
	m       *message.Message
	damaged bool
}

func (m *modelled) live() bool {
	return m.m.GetExpire() == 0 || m.m.AcceptedAt().Unix()+int64(m.m.GetExpire()) > now
}

// model is a log in memory.
type model struct {
	log     []modelled // log[i] has the partition_seq i+1
	seqs    map[string]uint64
	records uint64
	unread  bool // a record was not read: it is foreign, or missing
}

// record appends a record of messages and returns it.
func (o *model) record(t *rapid.T) []byte {
	first := uint64(len(o.log)) + 1
	var encoded [][]byte
	for range rapid.IntRange(0, 4).Draw(t, "messages") {
		channel := key(rapid.IntRange(0, 2).Draw(t, "channel")).ID
		o.seqs[channel]++
		m := &message.Message{
			ChannelId: channel, ChannelType: 2, FromUid: "u", ClientMsgNo: fmt.Sprint("n", rapid.IntRange(0, 3).Draw(t, "client_msg_no")),
			MessageSeq: o.seqs[channel], MessageId: uint64(message.MakeID(now*1000-message.Epoch().UnixMilli()-500_000+int64(len(o.log)), 0, 0)),
			WalSeq: o.records + 1, Expire: rapid.SampledFrom([]uint32{0, 0, 100, 1_000_000}).Draw(t, "expire"), Payload: []byte("payload"),
		}
		damaged := rapid.IntRange(0, 9).Draw(t, "damage") == 0
		one, err := m.MarshalVT()
		require.NoError(t, err)
		if damaged {
			one = one[:len(one)-1]
		}
		o.log = append(o.log, modelled{m, damaged})
		encoded = append(encoded, one)
	}
	o.records++
	return testkit.MessageBatch(first, encoded...)
}

// of returns the stored messages of a channel after a partition_seq.
func (o *model) of(channel clickhouse.Channel, after uint64) (all []uint64) {
	for i := int(after); i < len(o.log); i++ {
		if l := &o.log[i]; !l.damaged && l.m.GetChannelId() == channel.ID {
			all = append(all, uint64(i+1))
		}
	}
	return all
}

// TestTailIsWhatTheLogHas compares a tail with a list of all messages, while records come, are foreign or missing, and while the
// position moves. A tail that says that it is complete has each message after the position.
func TestTailIsWhatTheLogHas(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		o := &model{seqs: make(map[string]uint64)}
		tl := tail{bytesMax: rapid.SampledFrom([]int{1 << 20, 2000}).Draw(t, "limit")}
		tl.reset(0, 1, 0)
		done := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"record": func(t *rapid.T) {
				var view message.BatchView
				require.NoError(t, message.ViewBatch(o.record(t), &view))
				tl.add(o.records, &view)
				o.unread = false
			},
			"missing": func(t *rapid.T) {
				o.record(t)
				o.unread = true
			},
			"foreign": func(t *rapid.T) {
				o.record(t)
				tl.addForeign(o.records)
				o.unread = true
			},
			"position": func(t *rapid.T) {
				done = rapid.Uint64Range(done, uint64(len(o.log))).Draw(t, "done")
				tl.advance(done)
			},
			"": func(t *rapid.T) {
				require.Equal(t, done, tl.done)
				bytes := 0
				for i := range tl.items {
					require.Equal(t, tl.from+1+uint64(i), tl.items[i].PartitionSeq)
					bytes += len(tl.items[i].Data) + messageOverheadBytes
				}
				require.Equal(t, bytes, tl.bytes)
				require.LessOrEqual(t, tl.bytes, tl.bytesMax)
				if o.unread {
					return // the next record shows what is missing; a read waits for it
				}
				after := tl.from
				if tl.complete() {
					require.LessOrEqual(t, tl.from, done)
					require.Equal(t, uint64(len(o.log)), max(tl.next-1, done), "everything after the position is there")
					after = done
				}
				o.compare(t, &tl, after)
			},
		})
	})
}

// compare compares what a tail says of the messages after a partition_seq.
func (o *model) compare(t *rapid.T, tl *tail, after uint64) {
	for n := range 3 {
		want := o.of(key(n), after)
		span := Span{First: rapid.Uint64Range(0, 12).Draw(t, "first"), Last: rapid.Uint64Range(0, 20).Draw(t, "last"), NewestFirst: rapid.Bool().Draw(t, "newest first")}
		limit := rapid.IntRange(0, 5).Draw(t, "limit")
		p := tl.part(key(n), span, limit, now)
		if len(want) == 0 {
			require.Equal(t, Part{Complete: tl.complete(), End: tl.end}, p)
			continue
		}
		require.Equal(t, o.log[want[0]-1].m.GetMessageSeq(), p.Lowest)
		require.Equal(t, o.log[want[len(want)-1]-1].m.GetMessageSeq(), p.Highest)
		var inside []uint64
		for _, partitionSeq := range want {
			if l := &o.log[partitionSeq-1]; l.live() && l.m.GetMessageSeq() >= span.First && l.m.GetMessageSeq() <= span.Last {
				inside = append(inside, partitionSeq)
			}
		}
		require.Equal(t, len(inside) > limit, p.More)
		require.Len(t, p.Messages, min(limit, len(inside)))
		for i := range p.Messages {
			wanted := inside[i%len(inside)]
			if span.NewestFirst {
				wanted = inside[len(inside)-1-i]
			}
			require.Equal(t, wanted, p.Messages[i].PartitionSeq)
			require.Equal(t, o.log[wanted-1].m.GetMessageSeq(), p.Messages[i].Seq)
			require.Equal(t, p.Messages[i], tl.byID(p.Messages[i].ID, now).Message)
		}
		o.compareFind(t, tl, n, want)
	}
	for i := range o.log {
		if l := &o.log[i]; l.damaged || !l.live() {
			require.Nil(t, tl.byID(message.ID(l.m.GetMessageId()), now))
		}
	}
}

func (o *model) compareFind(t *rapid.T, tl *tail, n int, among []uint64) {
	no := fmt.Sprint("n", rapid.IntRange(0, 3).Draw(t, "wanted"))
	var latest uint64
	for _, partitionSeq := range among {
		if l := &o.log[partitionSeq-1]; l.live() && l.m.GetClientMsgNo() == no {
			latest = partitionSeq
		}
	}
	found := tl.find(key(n), func(encoded []byte) bool {
		var m message.Message
		return m.UnmarshalVT(encoded) == nil && m.GetClientMsgNo() == no
	}, now).Messages
	if latest == 0 {
		require.Empty(t, found)
		return
	}
	require.Len(t, found, 1)
	require.Equal(t, latest, found[0].PartitionSeq)
}
