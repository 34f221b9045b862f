package example_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/docs/example"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

var errEnough = errors.New("enough")

func TestConsume(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	js := testkit.StartDeployment(t, 1).JetStream
	for n := 1; n <= 20; n++ { // records of two messages
		encoded, err := (&message.Send{ChannelId: "c", ChannelType: 2, FromUid: "u", Payload: []byte("hi")}).MarshalVT()
		require.NoError(t, err)
		var pair [2][]byte
		for i := range pair {
			pair[i] = message.AppendMessage(nil, encoded, message.Identity{ID: message.MakeID(int64(n), 0, i), Seq: uint64(2*n - 1 + i), WALSeq: uint64(n), WALIndex: uint32(i)})
		}
		_, err = js.Publish(ctx, "messages.0", testkit.MessageBatch(uint64(2*n-1), pair[:]...))
		require.NoError(t, err)
	}
	read := func(after, last uint64) (seqs []uint64, err error) {
		err = example.Consume(ctx, js, 0, after, func(seq uint64, batch *message.MessageBatch) error {
			require.Len(t, batch.GetMessages(), 2)
			for i, m := range batch.GetMessages() {
				require.Equal(t, 2*seq-1+uint64(i), m.GetMessageSeq())
			}
			if seqs = append(seqs, seq); seq == last {
				return errEnough
			}
			return nil
		})
		return seqs, err
	}
	seqs, err := read(0, 12)
	require.ErrorIs(t, err, errEnough)
	require.Len(t, seqs, 12)
	seqs, err = read(12, 20) // after a crash
	require.ErrorIs(t, err, errEnough)
	require.Equal(t, []uint64{13, 14, 15, 16, 17, 18, 19, 20}, seqs)

	stream, err := js.Stream(ctx, "MESSAGES_0")
	require.NoError(t, err)
	require.NoError(t, stream.Purge(ctx, jetstream.WithPurgeSequence(16)))
	_, err = read(12, 20)
	require.ErrorContains(t, err, "records 13 to 15 are gone")
}

// The page shows the code that the test above runs.
func TestPageShowsTheExample(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../howto/read-the-log.md")
	require.NoError(t, err)
	code, err := os.ReadFile("consume.go")
	require.NoError(t, err)
	_, code2, found := strings.Cut(string(code), "// Consume calls")
	require.True(t, found)
	require.Contains(t, string(page), fmt.Sprintf("```go\n// Consume calls%s```", code2))
}
