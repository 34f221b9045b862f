package ingest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// underWay is how many sends the tests have acknowledged and not answered when the next commit is held back.
const underWay = 10

// held acknowledges a commit of underWay sends, which leaves the way free, and does not answer it.
func held(t *testing.T, holdMax time.Duration) (b *bundle, wal *scripted, unanswered *record) {
	t.Helper()
	b = setup(t, one())
	b.service.holdMax = holdMax
	wal = b.script(0)
	b.enqueue("first")
	first := wal.next()
	for i := range underWay {
		b.enqueue(fmt.Sprint("under way ", i))
	}
	first.ack()
	first.answer(1)
	unanswered = wal.next()
	require.Len(t, unanswered.sends, underWay)
	unanswered.ack()
	return b, wal, unanswered
}

// enqueue puts a send into the first partition, and waits for no answer.
func (b *bundle) enqueue(clientMsgNo string) {
	b.t.Helper()
	s := &message.Send{ChannelId: "g", ChannelType: 2, FromUid: "u", ClientMsgNo: clientMsgNo, Payload: []byte("x")}
	_, failed := b.service.partitions[0].enqueue(s, s.SizeVT(), nil)
	require.Equal(b.t, outcomeAccepted, failed)
}

// freed waits until the acknowledgement has been seen.
func (b *bundle) freed() {
	b.t.Helper()
	p := b.service.partitions[0]
	require.Eventually(b.t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.inFlight == nil && p.held
	}, testTimeout, time.Millisecond)
}

func TestASmallCommitWaitsForAnAnswer(t *testing.T) {
	t.Parallel()
	b, wal, unanswered := held(t, time.Hour)
	b.freed()
	b.enqueue("held back")
	b.queued(0, 1)
	unanswered.answer(2)
	require.Len(t, wal.next().sends, 1)
}

func TestACommitGoesWhenItIsLarge(t *testing.T) {
	t.Parallel()
	b, wal, _ := held(t, time.Hour)
	b.freed()
	for i := range underWay {
		b.queued(0, i)
		b.enqueue(fmt.Sprint("gathered ", i))
	}
	require.Len(t, wal.next().sends, underWay)
}

func TestAFullCommitIsNotHeldBack(t *testing.T) {
	t.Parallel()
	b, wal, _ := held(t, time.Hour)
	b.freed()
	// Two of them fill a commit, and are fewer than those under way.
	large := &message.Send{ChannelId: "g", ChannelType: 2, FromUid: "u", ClientMsgNo: "large", Payload: make([]byte, 300<<10)}
	for range 2 {
		_, failed := b.service.partitions[0].enqueue(large, large.SizeVT(), nil)
		require.Equal(t, outcomeAccepted, failed)
	}
	require.Len(t, wal.next().sends, 1)
}

func TestACommitIsNotHeldBackForLong(t *testing.T) {
	t.Parallel()
	b, wal, _ := held(t, time.Millisecond)
	b.enqueue("nobody answers the others")
	require.Len(t, wal.next().sends, 1)
}

func TestFewSendsAreNotHeldBack(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	b.service.holdMax = time.Hour
	wal := b.script(0)
	b.enqueue("first")
	wal.next().ack()
	b.enqueue("second")
	require.Len(t, wal.next().sends, 1, "though the first is not answered")
}

func TestALostConnectionEndsTheHold(t *testing.T) {
	t.Parallel()
	b, wal, _ := held(t, time.Hour)
	b.freed()
	p := b.service.partitions[0]
	p.onDisconnect()
	// What is acknowledged goes on waiting, and is no reason to hold back what comes behind.
	b.enqueue("after it")
	require.Len(t, wal.next().sends, 1)
}
