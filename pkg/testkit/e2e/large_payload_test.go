package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// largestPayload is the default of --ingest-payload-bytes-max.
const largestPayload = 512 << 10

// ofClient is the send as pkg/client takes it.
func (s *send) ofClient() client.Send {
	return client.Send{
		ClientMsgNo: s.clientMsgNo, FromUID: s.fromUID, ChannelID: s.channelID, ChannelType: client.ChannelType(s.channelType),
		RedDot: s.redDot, SyncOnce: s.syncOnce, StreamNo: s.streamNo, TagKey: s.tagKey, Expire: s.expire, Subscribers: s.subscribers, Payload: s.payload,
	}
}

// TestEndToEndLargestSends sends what the default settings just take, in channels of an application's own types: one, many at a time, and in a bulk,
// with a kill after them. Each becomes one whole row and can be read; one byte more is refused.
func TestEndToEndLargestSends(t *testing.T) {
	t.Parallel()
	// A slow machine must not fail this; no limit of size is set.
	up := newUp(t, "--ingest-body-read-timeout=60s", "--ingest-ack-timeout=60s", "--ingest-answer-timeout=60s", "--ingest-wait-max=60s",
		"--ingest-drain-timeout=60s", "--ingest-write-timeout=180s", "--history-timeout=9s")
	up.Start()
	largest := func(n int) send {
		no := fmt.Sprint(n)
		s := send{
			clientMsgNo: no + strings.Repeat("k", 256-len(no)), fromUID: "u", channelID: fmt.Sprint("c", n%5), channelType: []message.ChannelType{2, 13, 249, 251, 255}[n%5],
			streamNo: strings.Repeat("s", 256), tagKey: strings.Repeat("t", 256), payload: make([]byte, largestPayload),
		}
		for i := range s.payload {
			s.payload[i] = byte(i*i>>3 + n)
		}
		return s
	}
	c, err := client.New(client.Config{URL: "http://" + up.api, TriesMax: 30, BackoffMax: time.Second, TryTimeout: 3 * time.Minute, BulkTryTimeout: 5 * time.Minute})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	var mu sync.Mutex
	var records []*record
	note := func(s send, r client.Result) {
		mu.Lock()
		defer mu.Unlock()
		records = append(records, &record{send: s, answer: answer{r.MessageID, uint64(r.MessageSeq)}})
	}
	const together, inBulk = 24, 23
	var clients sync.WaitGroup
	for n := range together {
		clients.Go(func() {
			s := largest(n)
			r, err := c.Send(t.Context(), s.ofClient())
			if err != nil {
				t.Errorf("send %d: %v", n, err)
				return
			}
			note(s, r)
		})
		if n == 0 {
			clients.Wait() // one alone
		}
	}
	clients.Wait()
	var bulk []client.Send
	for n := together; n < together+inBulk; n++ {
		s := largest(n)
		bulk = append(bulk, s.ofClient())
	}
	outcomes, err := c.SendBulk(t.Context(), bulk)
	require.NoError(t, err)
	for i, o := range outcomes {
		note(largest(together+i), o.Result)
	}

	tooLarge := largest(1000)
	tooLarge.payload = append(tooLarge.payload, 0)
	_, err = c.Send(t.Context(), tooLarge.ofClient())
	refused := (*client.Error)(nil)
	require.ErrorAs(t, err, &refused)
	require.Equal(t, http.StatusRequestEntityTooLarge, refused.Status)

	// A command to receivers that it names: the answer has the channel by which it can be asked for and read.
	command := send{clientMsgNo: "command", fromUID: "u", syncOnce: true, subscribers: []string{"a", "b"}, payload: []byte("x")}
	r, err := c.Send(t.Context(), command.ofClient())
	require.NoError(t, err)
	require.NotEmpty(t, r.ChannelID)
	command.channelID, command.channelType = r.ChannelID, message.ChannelType(r.ChannelType)
	note(command, r)

	up.Kill9()
	up.Start()
	verify(t, embeddedTable(t, up), records)
	for _, r := range records {
		status, err := up.statusOf(t.Context(), &r.send)
		require.NoError(t, err)
		require.Equal(t, "stored", status.State, status.text)
		require.Equal(t, answer{status.ID, status.Seq}, r.answer)
	}
	pages := make(map[string][]synced)
	for _, r := range records {
		if pages[r.channelID] == nil {
			pages[r.channelID] = up.pages(t, &r.send, 3, int(r.seq)%2) // three of them pass no limit of bytes
		}
		m := pages[r.channelID][r.seq-1]
		require.Equal(t, r.id, m.ID)
		require.Equal(t, uint8(r.channelType), m.ChannelType)
		require.True(t, bytes.Equal(r.payload, m.Payload))
	}
}
