package groupcommit

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/internal/ingesttest"
)

// underWay is the number of sends that the tests have acknowledged and not answered when the next commit is delayed.
const underWay = 10

// delayed acknowledges a commit of underWay sends, so that no batch is in flight, and does not answer it.
func delayed(t *testing.T, delayMax time.Duration) (b *bundle, wal *ingesttest.Script, unanswered *ingesttest.Record) {
	t.Helper()
	b, wal = setup(t)
	b.delayMax = delayMax
	b.enqueue(send("first"))
	first := wal.Next()
	for i := range underWay {
		b.enqueue(send(fmt.Sprint("under way ", i)))
	}
	first.Ack()
	first.Answer(1)
	unanswered = wal.Next()
	require.Len(t, unanswered.Sends, underWay)
	unanswered.Ack()
	return b, wal, unanswered
}

// freed waits until the acknowledgement has been handled.
func (b *bundle) freed() {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		b.p.mu.Lock()
		defer b.p.mu.Unlock()
		return b.p.inFlight == nil && b.p.delayed
	}, ingesttest.Timeout, time.Millisecond)
}

func TestASmallCommitWaitsForAnAnswer(t *testing.T) {
	t.Parallel()
	b, wal, unanswered := delayed(t, time.Hour)
	b.freed()
	b.enqueue(send("held back"))
	b.queued(1)
	unanswered.Answer(2)
	require.Len(t, wal.Next().Sends, 1)
}

func TestACommitGoesWhenItIsLarge(t *testing.T) {
	t.Parallel()
	b, wal, _ := delayed(t, time.Hour)
	b.freed()
	for i := range underWay {
		b.queued(i)
		b.enqueue(send(fmt.Sprint("gathered ", i)))
	}
	require.Len(t, wal.Next().Sends, underWay)
}

func TestAFullCommitIsNotDelayed(t *testing.T) {
	t.Parallel()
	b, wal, _ := delayed(t, time.Hour)
	b.freed()
	// Two of them fill a commit, and are fewer than the unanswered ones.
	large := send("large")
	large.Payload = make([]byte, 300<<10)
	for range 2 {
		b.enqueue(large)
	}
	require.Len(t, wal.Next().Sends, 1)
}

func TestACommitIsNotDelayedForLong(t *testing.T) {
	t.Parallel()
	b, wal, _ := delayed(t, time.Millisecond)
	b.enqueue(send("the others are not answered"))
	require.Len(t, wal.Next().Sends, 1)
}

func TestFewSendsAreNotDelayed(t *testing.T) {
	t.Parallel()
	b, wal := setup(t)
	b.delayMax = time.Hour
	b.enqueue(send("first"))
	wal.Next().Ack()
	b.enqueue(send("second"))
	require.Len(t, wal.Next().Sends, 1, "though the first is not answered")
}

func TestALostConnectionEndsTheDelay(t *testing.T) {
	t.Parallel()
	b, wal, _ := delayed(t, time.Hour)
	b.freed()
	b.p.onDisconnect()
	// Acknowledged sends keep waiting, and are no reason to delay later ones.
	b.enqueue(send("after it"))
	require.Len(t, wal.Next().Sends, 1)
}
