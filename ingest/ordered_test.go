package ingest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// In an ordered bulk no send is stored behind one that the log has not taken: neither what had gathered when that failed, nor what comes later.
func TestOrderedBulk(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)
	p := b.service.partitions[0]
	var ours, later uint64
	enqueue := func(no string, since *uint64) (ticket, outcome) {
		s := &message.Send{ChannelId: "g", ChannelType: 2, FromUid: "u", ClientMsgNo: no, Payload: []byte("x")}
		return p.enqueueHeld(s, s.SizeVT(), nil, since)
	}
	first, failed := enqueue("1", &ours)
	require.Equal(t, outcomeAccepted, failed)
	p.release()
	flying := wal.next()
	second, failed := enqueue("2", &ours)
	require.Equal(t, outcomeAccepted, failed)
	flying.refuse(503, 10077, "maximum bytes exceeded")
	_, became := first.wait(t.Context(), time.Minute)
	require.Equal(t, outcomeWALFull, became)
	_, became = second.wait(t.Context(), time.Minute)
	require.Equal(t, outcomeWALUnavailable, became, "it was taken behind one that was not")
	_, failed = enqueue("3", &ours)
	require.Equal(t, outcomeWALUnavailable, failed)
	require.Empty(t, p.queue)
	require.Zero(t, p.sends)
	require.Zero(t, p.bytes)

	// The next request begins again, and others are not concerned.
	again, failed := enqueue("1", &later)
	require.Equal(t, outcomeAccepted, failed)
	p.release()
	r := wal.next()
	require.Len(t, r.sends, 1)
	r.ack()
	r.answer(1)
	_, became = again.wait(t.Context(), time.Minute)
	require.Equal(t, outcomeAccepted, became)
}

// A flight that was refused once sends nothing more to the partition.
func TestOrderedFlightStops(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	f := b.service.newFlight()
	defer f.end()
	f.order()
	since := &f.begun[0]
	f.missed(since, outcomeTooLarge) // final: the next one may go
	require.True(t, b.service.partitions[0].inOrder(since))
	f.missed(since, outcomeOverloaded)
	require.False(t, b.service.partitions[0].inOrder(since))
}
