package groupcommit

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/internal/ingesttest"
	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// follow enqueues a send that must not be stored without another.
func (b *bundle) follow(s *message.Send, after Ticket) Ticket {
	b.t.Helper()
	ticket, p := b.EnqueueDeferred(0, s, s.SizeVT(), nil, after)
	require.True(b.t, p.OK(), p.Message())
	return ticket
}

// A send that must not be stored without another waits for it, and no other send does.
func TestASendFollowsAnother(t *testing.T) {
	t.Parallel()
	b, wal := setup(t)
	first := b.follow(send("first"), Ticket{})
	second := b.follow(send("second"), first)
	require.True(t, second.Taken(), "it joins the batch of the first")
	b.Flush(0)
	r := wal.Next()
	require.Len(t, r.Sends, 2)
	other := b.enqueue(send("another caller's"))
	require.False(t, b.follow(send("third"), second).Taken(), "the log may still refuse the second")
	require.Equal(t, 1, b.Load(0).Sends)

	r.Refuse(http.StatusServiceUnavailable, errCodeStreamStoreFailed, "maximum bytes exceeded")
	for _, ticket := range []Ticket{first, second} {
		_, became := b.await(ticket)
		require.Equal(t, outcome.WALFull, became)
	}
	r = wal.Next()
	require.Len(t, r.Sends, 1)
	require.Equal(t, "another caller's", r.Sends[0].GetClientMsgNo())
	r.Answer(1)
	_, became := b.await(other)
	require.Equal(t, outcome.Accepted, became, "it does not fail with a batch that it was not in")
	b.forgotten()
}

// The log's acknowledgement is enough: the sequencer's answer need not be there.
func TestASendFollowsOneThatIsInTheLog(t *testing.T) {
	t.Parallel()
	b, wal := setup(t)
	first := b.enqueue(send("first"))
	r := wal.Next()
	require.False(t, b.follow(send("second"), first).Taken())
	r.Ack()
	require.Eventually(t, func() bool { return b.follow(send("second"), first).Taken() }, ingesttest.Timeout, time.Millisecond)
	b.Flush(0)
	r.Answer(1)
	wal.Next().Answer(2)
	b.forgotten()
}

// A full batch is no place for a send that must not be stored without those in it.
func TestASendDoesNotFollowAFullBatch(t *testing.T) {
	t.Parallel()
	b, wal := setup(t)
	large := func(no string) *message.Send {
		s := send(no)
		s.Payload = make([]byte, 300<<10)
		return s
	}
	first := b.follow(large("first"), Ticket{})
	require.False(t, b.follow(large("second"), first).Taken())
	require.Equal(t, 1, b.Load(0).Sends)
	b.Flush(0)
	wal.Next().Answer(1)
	b.forgotten()
}
