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

// A request whose records take exactly its bytes is over without the server's word.
func TestAFeedWhoseRequestsAreUsedUp(t *testing.T) {
	t.Parallel()
	const records, fit = 30, 10
	d := testkit.StartDeployment(t, 1)
	for range records {
		_, err := d.JetStream.Publish(t.Context(), topology.MessagesSubject(0), make([]byte, 1000))
		require.NoError(t, err)
	}
	read := func(bytes int) (sizes []int) {
		came, failed := make(chan int, records), make(chan error, 10)
		f, err := OpenFeed(t.Context(), FeedConfig{
			JetStream: d.JetStream, Stream: topology.MessagesStream(0), First: 1, bytes: bytes,
			Handle: func(_ uint64, m *nats.Msg) { came <- m.Size() },
			Failed: func(err error) { failed <- err },
			Warn:   func(err error) { t.Log(err) },
		})
		require.NoError(t, err)
		defer f.Stop()
		late := time.After(time.Minute)
		for range records {
			select {
			case size := <-came:
				sizes = append(sizes, size)
			case err := <-failed:
				require.NoError(t, err)
			case <-late:
				require.Fail(t, "no more records", "after %d, with %d bytes", len(sizes), bytes)
			}
		}
		return sizes
	}
	exact := 0
	for _, size := range read(0)[:fit] {
		exact += size
	}
	for _, bytes := range []int{exact - 1, exact, exact + 1, exact/fit + 100} {
		require.Len(t, read(bytes), records)
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
