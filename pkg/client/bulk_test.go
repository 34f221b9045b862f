package client_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
)

// bulkOf is n sends, no-0 and so on.
func bulkOf(n int) []client.Send {
	var sends []client.Send
	for i := range n {
		sends = append(sends, hello(fmt.Sprintf("no-%d", i)))
	}
	return sends
}

// numbers are the client_msg_no of a request.
func numbers(body string) (all []string) {
	_, body, _ = strings.Cut(body, " /message/sendbulk ")
	for line := range strings.Lines(body) {
		_, rest, _ := strings.Cut(line, `"client_msg_no":"`)
		no, _, _ := strings.Cut(rest, `"`)
		all = append(all, no)
	}
	return all
}

// answers answers the items of a request in order: "" with a 200, else with an error of this code. Behind the last one the answer ends, or
// the connection if it is "hang up".
func answers(s **scripted, codes ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		all := (*s).seen()
		nos := numbers(all[len(all)-1])
		for i, code := range codes {
			switch code {
			case "":
				_, _ = fmt.Fprintf(w, `{"status":200,"message_id":%d,"message_seq":%d,"client_msg_no":%q,"idempotent_replayed":%t}`+"\n", i+1, i+1, nos[i], i == 0)
			case "hang up":
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			default:
				status := 503
				if strings.HasPrefix(code, "invalid") {
					status = 400
				}
				_, _ = fmt.Fprintf(w, `{"status":%d,"code":%q,"msg":"m","field":"","reason":0}`+"\n", status, code)
			}
		}
	}
}

// Items without an answer are sent again, and only those; each outcome is in its place.
func TestBulkTriesAgain(t *testing.T) {
	t.Parallel()
	var s *scripted
	s = script(t,
		answers(&s, "", "invalid_request", "no_answer", "", "hang up"),
		answers(&s, "", ""), // of three
		says(503, "draining"),
		answers(&s, ""),
	)
	outcomes, err := newClient(t, s.URL, nil).SendBulk(t.Context(), bulkOf(6))
	require.ErrorContains(t, err, "1 of 6 sends failed")
	require.True(t, client.IsRefused(err))
	require.Len(t, outcomes, 6)
	for i, o := range outcomes {
		if i == 1 {
			require.True(t, client.IsRefused(o.Err))
			continue
		}
		require.NoError(t, o.Err)
		require.Equal(t, fmt.Sprintf("no-%d", i), o.Result.ClientMsgNo)
	}
	require.True(t, outcomes[0].Result.Replayed)
	require.False(t, outcomes[3].Result.Replayed)
	var sent [][]string
	for _, body := range s.seen() {
		sent = append(sent, numbers(body))
	}
	require.Equal(t, [][]string{
		{"no-0", "no-1", "no-2", "no-3", "no-4", "no-5"}, {"no-2", "no-4", "no-5"}, {"no-5"}, {"no-5"},
	}, sent)
}

func TestBulkIsCutToSize(t *testing.T) {
	t.Parallel()
	var s *scripted
	s = script(t, answers(&s, "", "", ""), answers(&s, "", ""), answers(&s, ""), answers(&s, "", ""))
	c := newClient(t, s.URL, func(cfg *client.Config) { cfg.BulkItemsMax, cfg.BulkBytesMax = 3, 1000 })
	sends := bulkOf(8)
	sends[5].Payload = make([]byte, 2000) // goes alone
	outcomes, err := c.SendBulk(t.Context(), sends)
	require.NoError(t, err)
	require.Len(t, outcomes, 8)
	var sizes []int
	for _, body := range s.seen() {
		sizes = append(sizes, len(numbers(body)))
	}
	require.Equal(t, []int{3, 2, 1, 2}, sizes)
}

// A server that is away is not asked once for each request of a large bulk.
func TestBulkGivesUp(t *testing.T) {
	t.Parallel()
	s := script(t, says(503, "overloaded"))
	c := newClient(t, s.URL, func(cfg *client.Config) { cfg.BulkItemsMax, cfg.TriesMax = 10, 3 })
	outcomes, err := c.SendBulk(t.Context(), bulkOf(100))
	require.ErrorContains(t, err, "100 of 100")
	require.Len(t, s.seen(), 3)
	for i, o := range outcomes {
		failed := (*client.SendError)(nil)
		require.ErrorAs(t, o.Err, &failed)
		require.Equal(t, fmt.Sprintf("no-%d", i), failed.ClientMsgNo)
		require.False(t, failed.MaybeStored)
		require.True(t, client.IsRetryable(o.Err))
	}
}

// takesUpTo answers requests of that many bytes, and refuses larger ones as a proxy does.
func takesUpTo(bytesMax int, s **scripted) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if int(r.ContentLength) > bytesMax {
			text(413, "<html>")(w, r)
			return
		}
		all := (*s).seen()
		answers(s, make([]string, len(numbers(all[len(all)-1])))...)(w, r)
	}
}

// A send that is too large by itself is refused, and the others are sent, wherever it is among them.
func TestBulkOneTooLarge(t *testing.T) {
	t.Parallel()
	for _, large := range []int{0, 2, 5} {
		var s *scripted
		s = script(t, takesUpTo(2000, &s))
		c := newClient(t, s.URL, func(cfg *client.Config) { cfg.BulkBytesMax = 2000 })
		sends := bulkOf(6)
		sends[large].Payload = make([]byte, 3000)
		outcomes, err := c.SendBulk(t.Context(), sends)
		require.ErrorContains(t, err, "1 of 6")
		for i, o := range outcomes {
			if i == large {
				require.True(t, client.IsRefused(o.Err))
				require.False(t, client.MaybeStored(o.Err))
				require.ErrorContains(t, o.Err, "not stored after 1 try: 413")
				continue
			}
			require.NoError(t, o.Err)
			require.Equal(t, fmt.Sprintf("no-%d", i), o.Result.ClientMsgNo)
		}
	}
}

// Something in between takes less than BulkBytesMax: requests become smaller, for the rest of the bulk too, and keep the order.
func TestBulkTooLargeTogether(t *testing.T) {
	t.Parallel()
	var s *scripted
	s = script(t, takesUpTo(1000, &s))
	outcomes, err := newClient(t, s.URL, func(cfg *client.Config) { cfg.BulkItemsMax = 50 }).SendBulk(t.Context(), bulkOf(200))
	require.NoError(t, err)
	require.Len(t, outcomes, 200)
	var sent []string
	refused := 0
	for _, body := range s.seen() {
		if len(body) > 1000+len("POST /message/sendbulk ") {
			refused++
			continue
		}
		sent = append(sent, numbers(body)...)
	}
	var want []string
	for _, one := range bulkOf(200) {
		want = append(want, one.ClientMsgNo)
	}
	require.Equal(t, want, sent)
	require.Less(t, refused, 5, "it is remembered")
}

// A send that was never tried has no answer that refuses it.
func TestBulkRefusesNoOther(t *testing.T) {
	t.Parallel()
	s := script(t, says(409, "client_msg_no_conflict"), says(413, "too_large"), says(401, "unauthorized"))
	outcomes, err := newClient(t, s.URL, func(cfg *client.Config) { cfg.BulkItemsMax = 1 }).SendBulk(t.Context(), bulkOf(4))
	require.ErrorContains(t, err, "4 of 4")
	require.Len(t, s.seen(), 3)
	require.True(t, client.IsRefused(outcomes[0].Err))
	require.True(t, client.IsRefused(outcomes[1].Err))
	require.ErrorContains(t, outcomes[2].Err, "after 1 try: 401")
	require.ErrorContains(t, outcomes[3].Err, "after 0 tries: 401")
}

func TestBulkItemNeverAnswered(t *testing.T) {
	t.Parallel()
	var s *scripted
	s = script(t, answers(&s, "", "hang up"), answers(&s, "hang up"))
	c := newClient(t, s.URL, func(cfg *client.Config) { cfg.TriesMax = 3 })
	outcomes, err := c.SendBulk(t.Context(), bulkOf(2))
	require.ErrorContains(t, err, "1 of 2")
	require.NoError(t, outcomes[0].Err)
	require.True(t, client.MaybeStored(outcomes[1].Err))
	require.ErrorContains(t, outcomes[1].Err, "after 3 tries")
}

// Answers that are out of step are not assigned to any send.
func TestBulkOutOfStep(t *testing.T) {
	t.Parallel()
	s := script(t, func(w http.ResponseWriter, _ *http.Request) {
		for _, no := range []string{"no-0", "no-2", "no-1"} {
			_, _ = fmt.Fprintf(w, `{"status":200,"message_id":1,"message_seq":1,"client_msg_no":%q}`+"\n", no)
		}
	})
	outcomes, err := newClient(t, s.URL, func(cfg *client.Config) { cfg.TriesMax = 1 }).SendBulk(t.Context(), bulkOf(3))
	require.ErrorContains(t, err, "2 of 3")
	require.NoError(t, outcomes[0].Err)
	require.ErrorContains(t, outcomes[1].Err, `client_msg_no "no-2"`)
}

func TestBulkOfNothing(t *testing.T) {
	t.Parallel()
	s := script(t, says200)
	outcomes, err := newClient(t, s.URL, nil).SendBulk(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, outcomes)
	require.Empty(t, s.seen())
}

// The real server: order within a channel, and an answer for each of more than one request.
func TestBulkToServer(t *testing.T) {
	t.Parallel()
	c := newClient(t, house.URL(), func(cfg *client.Config) { cfg.BulkItemsMax = 700 })
	sends := bulkOf(2000)
	for i := range sends {
		sends[i].ChannelID = fmt.Sprintf("bulk-%d", i%3)
	}
	outcomes, err := c.SendBulk(t.Context(), sends)
	require.NoError(t, err)
	for i, o := range outcomes {
		require.Equal(t, int64(i/3+1), o.Result.MessageSeq)
	}
	again, err := c.SendBulk(t.Context(), sends[10:20])
	require.NoError(t, err)
	for i, o := range again {
		require.True(t, o.Result.Replayed)
		require.Equal(t, outcomes[10+i].Result.MessageID, o.Result.MessageID)
	}
}
