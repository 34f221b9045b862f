package groupcommit

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// TestWhatBecomesOfACommitFits: the message-log record that the sequencer derives from a group commit is never larger than
// derivedBytesMax, plus the head, for which room is reserved.
func TestWhatBecomesOfACommitFits(t *testing.T) {
	t.Parallel()
	require.Less(t, message.BatchHeadSizeMax, headerRoomBytes)
	rapid.Check(t, func(t *rapid.T) {
		b := new(batch)
		var derived []byte
		for i := range rapid.IntRange(1, 40).Draw(t, "sends") {
			send := &message.Send{ChannelId: "c", ChannelType: 2, Payload: make([]byte, rapid.SampledFrom([]int{0, 1, 60, 80, 100, 120, 127, 128, 16_300, 16_384}).Draw(t, "payload"))}
			before := b.derivedBytesMax()
			var err error
			b.bytes, err = message.AppendSend(b.bytes, send)
			require.NoError(t, err)
			b.sends++
			require.LessOrEqual(t, b.derivedBytesMax()-before, send.SizeVT()+message.MessageFrameOverheadMax, "what gathering reckons with")
			encoded, err := send.MarshalVT()
			require.NoError(t, err)
			derived = message.AppendBatchMessage(derived, encoded, message.Identity{ID: math.MaxInt64, Seq: math.MaxUint64, WALSeq: math.MaxUint64, WALIndex: math.MaxUint32 - uint32(i)})
		}
		require.LessOrEqual(t, len(derived), b.derivedBytesMax())
	})
}
