package messagelog

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// At the end of the log requests expire, and are sent again.
func TestAFeedWaitsAtTheEnd(t *testing.T) {
	t.Parallel()
	d := testkit.StartDeployment(t, 1)
	seqs, failed := make(chan uint64, 10), make(chan error, 10)
	f, err := OpenFeed(t.Context(), FeedConfig{
		JetStream: d.JetStream, Stream: topology.MessagesStream(0), First: 1, expires: 50 * time.Millisecond,
		Handle: func(seq uint64, _ *nats.Msg) { seqs <- seq },
		Failed: func(err error) { failed <- err },
		Warn:   func(err error) { t.Log(err) },
	})
	require.NoError(t, err)
	defer f.Stop()
	want := uint64(0)
	for range 3 {
		before := d.NATS.Stats().OutMsgs
		testkit.WaitFor(t, time.Minute, "requests to be sent again", func(context.Context) error {
			if sent := d.NATS.Stats().OutMsgs - before; sent < 3 {
				return fmt.Errorf("%d were sent", sent)
			}
			return nil
		})
		_, err := d.JetStream.Publish(t.Context(), topology.MessagesSubject(0), []byte("x"))
		require.NoError(t, err)
		want++
		select {
		case seq := <-seqs:
			require.Equal(t, want, seq)
		case err := <-failed:
			require.NoError(t, err)
		case <-t.Context().Done():
		}
	}
}

func TestSequence(t *testing.T) {
	t.Parallel()
	for reply, want := range map[string]uint64{
		"$JS.ACK.MESSAGES_0.consumer_1.1.42.7.1700000000000000000.3":                42,
		"$JS.ACK.hub.ABCDEF.MESSAGES_0.consumer_1.1.43.7.1700000000000000000.3":     43,
		"$JS.ACK._.ABCDEF.MESSAGES_0.consumer_1.1.44.7.1700000000000000000.3.token": 44,
	} {
		seq, err := sequence(reply)
		require.NoError(t, err)
		require.Equal(t, want, seq)
	}
	for _, reply := range []string{"", "_INBOX.a.b", "$JS.ACK.MESSAGES_0.consumer.1.x.7.1.3", "$JS.NAK.MESSAGES_0.consumer.1.42.7.1.3"} {
		_, err := sequence(reply)
		require.Error(t, err, reply)
	}
}
