package messagelog

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// Messages that are chosen and kept, few of each record, do not keep the records: they share no memory with them.
func TestChosenMessagesHoldNoRecords(t *testing.T) {
	t.Parallel()
	encode := func(channel string) []byte {
		encoded, err := (&message.Send{ChannelId: channel, ChannelType: 2, Payload: []byte("hi")}).MarshalVT()
		require.NoError(t, err)
		return message.AppendMessage(nil, encoded, message.Identity{ID: 1, Seq: 1, WALSeq: 1})
	}
	often, seldom := encode("often"), encode("seldom")
	r := Record{Seq: 1, Data: testkit.MessageBatch(7, often, seldom, often)}
	require.NoError(t, message.ViewBatch(r.Data, &r.Batch))
	var kept []Entry
	handle := Only([]Channel{{ID: "seldom", Type: 2}}, func(e Entry) error {
		kept = append(kept, e)
		return nil
	})
	for i := range r.Batch.Messages {
		require.NoError(t, handle(r.Entry(i)))
	}
	copy(r.Data, bytes.Repeat([]byte{0xff}, len(r.Data)))
	require.Equal(t, []Entry{{PartitionSeq: 8, StreamSeq: 1, Data: seldom}}, kept)
}
