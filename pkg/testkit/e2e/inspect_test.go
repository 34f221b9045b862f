package e2e

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// truth makes sends with their rows, as a faultless service would have them: two partitions of one channel
// each.
func truth(t *testing.T) (rows []*row, records []*record) {
	t.Helper()
	d := &dice{Rand: rand.New(rand.NewPCG(1, 2)), channels: 1, prefix: "c"}
	start := time.Now().Add(-time.Hour)
	for partition := range 2 {
		clock, err := message.NewIDClock(partition, 0)
		require.NoError(t, err)
		for n := range 10 {
			s := d.send()
			s.channelID, s.channelType, s.syncOnce = strings.Repeat("g", 1+partition), message.ChannelGroup, false
			id := clock.Next(start.UnixMilli())
			r := &row{
				id: int64(id), seq: uint64(n) + 1, channelID: s.channelID, channelType: uint8(s.channelType), fromUID: s.fromUID,
				clientMsgNo: s.clientMsgNo, redDot: uint8(flag(s.redDot)), streamNo: s.streamNo, tagKey: s.tagKey, expire: s.expire,
				subscribers: s.subscribers, payload: string(s.payload), unixTime: uint32(id.UnixMilli() / 1000),
				partition: uint16(partition), partitionSeq: uint64(n) + 1, walSeq: uint64(n)/3 + 1, walIndex: uint32(n % 3),
			}
			rows = append(rows, r)
			begun := start.Add(time.Duration(n) * time.Second)
			records = append(records, &record{send: s, answer: answer{r.id, r.seq}, begun: begun, answered: begun.Add(time.Second / 2)})
		}
	}
	return rows, records
}

// The check has to see every kind of fault, or the other tests prove nothing.
func TestInspectSeesEveryFault(t *testing.T) {
	t.Parallel()
	rows, records := truth(t)
	require.Empty(t, inspect(rows, records).problems)

	for want, damage := range map[string]func(rows []*row, records []*record) ([]*row, []*record){
		"was answered {": func(rows []*row, records []*record) ([]*row, []*record) {
			return rows[1:], records // a lost send
		},
		"is there twice": func(rows []*row, records []*record) ([]*row, []*record) {
			return append(rows, rows[3]), records
		},
		"no answer named it": func(rows []*row, records []*record) ([]*row, []*record) {
			return rows, records[1:]
		},
		"and is there as {": func(rows []*row, records []*record) ([]*row, []*record) {
			records[4].seq++
			return rows, records
		},
		"is not what was sent": func(rows []*row, records []*record) ([]*row, []*record) {
			rows[5].payload += "x"
			return rows, records
		},
		`channel 2 "g": 5 follows 3`: func(rows []*row, records []*record) ([]*row, []*record) {
			for i := range rows[:10] {
				if rows[i].seq > 3 {
					rows[i].seq++
					records[i].seq++
				}
			}
			return rows, records
		},
		"after a later one was answered": func(rows []*row, records []*record) ([]*row, []*record) {
			records[2].begun = records[6].answered.Add(time.Second)
			return rows, records
		},
		"partition 1: partition_seq": func(rows []*row, records []*record) ([]*row, []*record) {
			rows[15].partitionSeq = 99
			return rows, records
		},
		"partition 1: WAL place": func(rows []*row, records []*record) ([]*row, []*record) {
			rows[15].walSeq = 1
			return rows, records
		},
		"is of partition": func(rows []*row, records []*record) ([]*row, []*record) {
			id := message.MakeID(1, 7, 1)
			rows[0].id, records[0].id = int64(id), int64(id)
			return rows, records
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			problems := inspect(damage(truth(t))).problems
			require.Contains(t, strings.Join(problems, "\n"), want)
		})
	}
}
