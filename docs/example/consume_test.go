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
	for n := 1; n <= 20; n++ {
		encoded, err := (&message.Send{ChannelId: "c", ChannelType: 2, FromUid: "u", Payload: []byte("hi")}).MarshalVT()
		require.NoError(t, err)
		_, err = js.Publish(ctx, "messages.0.2.c", message.AppendMessage(nil, encoded, message.Identity{ID: message.MakeID(int64(n), 0, 0), Seq: uint64(n), WALSeq: uint64(n)}))
		require.NoError(t, err)
	}
	read := func(after, last uint64) (seqs []uint64, err error) {
		err = example.Consume(ctx, js, 0, after, func(seq uint64, m *message.Message) error {
			require.Equal(t, seq, m.GetMessageSeq())
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
	require.ErrorContains(t, err, "messages 13 to 15 are gone")
}

// The page shows the code that the test above runs.
func TestPageShowsTheExample(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../replay.md")
	require.NoError(t, err)
	code, err := os.ReadFile("consume.go")
	require.NoError(t, err)
	_, code2, found := strings.Cut(string(code), "// Consume hands")
	require.True(t, found)
	require.Contains(t, string(page), fmt.Sprintf("```go\n// Consume hands%s```", code2))
}
