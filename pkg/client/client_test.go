package client_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/message"
)

func TestSend(t *testing.T) {
	t.Parallel()
	s := script(t, says200)
	c := newClient(t, s.URL+"/", func(cfg *client.Config) { cfg.Token = "secret" })
	full := client.Send{
		ClientMsgNo: "no-1", FromUID: "u", ChannelID: "g", ChannelType: client.ChannelCommunity, Payload: []byte{0, 1, 255}, NoPersist: true, RedDot: true,
		SyncOnce: true, StreamNo: "s", TagKey: "t", Expire: 60, Subscribers: []string{"a", "<b>"},
	}
	r, err := c.Send(t.Context(), full)
	require.NoError(t, err)
	require.Equal(t, client.Result{MessageID: 9007199254740993, MessageSeq: 5, ClientMsgNo: "no-1"}, r, "an ID beyond 2^53 is whole")
	require.Equal(t, "Bearer secret", s.heads[0].Get("Authorization"))
	require.Equal(t, "application/json", s.heads[0].Get("Content-Type"))
	require.NotContains(t, s.heads[0], "Idempotency-Key")
	body, ok := strings.CutPrefix(s.seen()[0], "POST /message/send ")
	require.True(t, ok, s.seen()[0])
	requireJSON(t, `{"header":{"no_persist":1,"red_dot":1,"sync_once":1},"client_msg_no":"no-1","from_uid":"u","channel_id":"g","channel_type":4,
		"stream_no":"s","tag_key":"t","expire":60,"subscribers":["a","<b>"],"payload":"AAH/"}`, body)
	var again client.Send
	require.NoError(t, json.Unmarshal([]byte(body), &again))
	require.Equal(t, full, again)

	// A channel that the server names is not sent as an empty one.
	_, err = c.Send(t.Context(), client.Send{ClientMsgNo: "no-1", FromUID: "u", SyncOnce: true, Subscribers: []string{"a"}, Payload: []byte("x")})
	require.NoError(t, err)
	require.NotContains(t, s.seen()[1], "channel")
}

// The answers to a single send and to a bulk tell which temporary channel the real server has made of the receivers.
func TestTemporaryChannel(t *testing.T) {
	t.Parallel()
	c := newClient(t, house.URL(), nil)
	command := client.Send{ClientMsgNo: strings.Repeat("n", 256), FromUID: "u", SyncOnce: true, Subscribers: []string{"temporary-a", "temporary-b"}, Payload: []byte("x")}
	r, err := c.Send(t.Context(), command)
	require.NoError(t, err)
	require.Len(t, r.ChannelID, 32)
	require.Equal(t, client.ChannelTemporary, r.ChannelType)
	plain := client.Send{FromUID: "u", ChannelID: "g", ChannelType: 249, StreamNo: strings.Repeat("s", 256), TagKey: strings.Repeat("t", 256), Payload: make([]byte, 512<<10)}
	outcomes, err := c.SendBulk(t.Context(), []client.Send{command, plain, plain})
	require.NoError(t, err)
	r.Replayed = true
	require.Equal(t, r, outcomes[0].Result)
	require.Empty(t, outcomes[1].Result.ChannelID)
	require.Zero(t, outcomes[1].Result.ChannelType)
	require.Equal(t, int64(2), outcomes[2].Result.MessageSeq)

	named, err := c.Send(t.Context(), client.Send{FromUID: "u", ChannelID: r.ChannelID, ChannelType: r.ChannelType, SyncOnce: true, Payload: []byte("y")})
	require.NoError(t, err)
	require.Equal(t, r.MessageSeq+1, named.MessageSeq)
}

// What the server refuses of keys, the client refuses before it sends.
func TestKeys(t *testing.T) {
	t.Parallel()
	s := script(t, says200)
	c := newClient(t, s.URL, nil)
	for field, set := range map[string]func(*client.Send, string){
		"client_msg_no": func(s *client.Send, key string) { s.ClientMsgNo = key },
		"stream_no":     func(s *client.Send, key string) { s.StreamNo = key },
		"tag_key":       func(s *client.Send, key string) { s.TagKey = key },
	} {
		for key, rule := range map[string]string{
			" ": "must not be white space alone", "\u3000\t": "must not be white space alone", strings.Repeat("x", 257): "is 257 bytes; at most 256 are taken", "\xff": "must be UTF-8",
		} {
			send := client.Send{FromUID: "u", ChannelID: "g", ChannelType: client.ChannelGroup, Payload: []byte("x")}
			set(&send, key)
			_, err := c.Send(t.Context(), send)
			answered := (*client.Error)(nil)
			require.ErrorAs(t, err, &answered)
			require.Equal(t, field, answered.Field)
			require.ErrorContains(t, err, rule)
		}
	}
	require.Empty(t, s.seen())
}

// The types are those of pkg/message, which a client need not import.
func TestChannelTypes(t *testing.T) {
	t.Parallel()
	for ours, theirs := range map[client.ChannelType]message.ChannelType{
		client.ChannelPerson: message.ChannelPerson, client.ChannelGroup: message.ChannelGroup, client.ChannelCustomerService: message.ChannelCustomerService,
		client.ChannelCommunity: message.ChannelCommunity, client.ChannelCommunityTopic: message.ChannelCommunityTopic, client.ChannelInfo: message.ChannelInfo,
		client.ChannelData: message.ChannelData, client.ChannelTemporary: message.ChannelTemporary, client.ChannelLive: message.ChannelLive,
		client.ChannelVisitors: message.ChannelVisitors, client.ChannelAgent: message.ChannelAgent, client.ChannelAgentGroup: message.ChannelAgentGroup,
	} {
		require.Equal(t, uint8(theirs), uint8(ours))
	}
}

// Whatever goes wrong in between, each try is the same request, and the answer to the last one is the send's.
func TestSendTriesAgain(t *testing.T) {
	t.Parallel()
	replayed := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Idempotent-Replayed", "true")
		says200(w, r)
	}
	s := script(t, says(503, "overloaded"), hangsUp, says(429, "rate_limited"), text(502, "<html>"), text(200, "{"), says(400, "body_unreadable"),
		says(500, "internal"), says(503, "outcome_unknown"), replayed)
	c := newClient(t, s.URL, func(cfg *client.Config) { cfg.TriesMax = 20 })
	r, err := c.Send(t.Context(), hello("no-1"))
	require.NoError(t, err)
	require.True(t, r.Replayed)
	// net/http itself repeats a request whose kept connection was closed.
	require.GreaterOrEqual(t, len(s.seen()), 9)
	for _, body := range s.seen() {
		require.Equal(t, s.seen()[0], body)
	}
}

func TestSendMakesClientMsgNo(t *testing.T) {
	t.Parallel()
	s := script(t, says(503, "wal_full"))
	c := newClient(t, s.URL, func(cfg *client.Config) { cfg.TriesMax = 3 })
	_, err := c.Send(t.Context(), hello(""))
	failed := (*client.SendError)(nil)
	require.ErrorAs(t, err, &failed)
	require.Equal(t, 3, failed.Tries)
	require.Len(t, s.seen(), 3)
	id, err := uuid.Parse(failed.ClientMsgNo)
	require.NoError(t, err)
	require.Equal(t, uuid.Version(7), id.Version())
	for _, body := range s.seen() {
		require.Contains(t, body, failed.ClientMsgNo)
	}
	require.False(t, failed.MaybeStored)
	require.EqualError(t, failed, "client: send "+failed.ClientMsgNo+": not stored after 3 tries: 503 wal_full: said so")
}

// An earlier try may be stored though the last one surely is not.
func TestMaybeStoredIsOfAllTries(t *testing.T) {
	t.Parallel()
	s := script(t, says(503, "no_answer"), says(503, "draining"))
	c := newClient(t, s.URL, func(cfg *client.Config) { cfg.TriesMax = 2 })
	_, err := c.Send(t.Context(), hello("no-1"))
	require.True(t, client.MaybeStored(err))
	require.ErrorContains(t, err, "503 draining")
}

// A send that may be stored is not tried again when the server may have forgotten it; one that is surely not stored is.
func TestResendWithin(t *testing.T) {
	t.Parallel()
	short := func(cfg *client.Config) { cfg.ResendWithin, cfg.TriesMax = time.Nanosecond, 5 }
	s := script(t, says(503, "overloaded"), says(503, "overloaded"), says(503, "no_answer"))
	_, err := newClient(t, s.URL, short).Send(t.Context(), hello("no-1"))
	require.ErrorContains(t, err, "may be stored after 3 tries: 503 no_answer")
	require.Len(t, s.seen(), 3)

	var b *scripted
	b = script(t, answers(&b, "overloaded", "no_answer", ""), answers(&b, ""))
	outcomes, err := newClient(t, b.URL, short).SendBulk(t.Context(), bulkOf(3))
	require.ErrorContains(t, err, "1 of 3")
	require.NoError(t, outcomes[0].Err)
	require.ErrorContains(t, outcomes[1].Err, "may be stored after 1 try: 503 no_answer")
	require.NoError(t, outcomes[2].Err)
	require.Equal(t, []string{"no-0"}, numbers(b.seen()[1]))
}

// A caller whose question for the window is not answered holds no other up.
func TestWindowIsAskedByEach(t *testing.T) {
	t.Parallel()
	asked, leave := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	s := script(t, says(503, "no_answer"), says(503, "no_answer"), says200)
	s.window = func(w http.ResponseWriter, _ *http.Request) {
		if !first.Swap(true) {
			close(asked)
			<-leave
		}
		_, _ = io.WriteString(w, `{"remembers_ms":600000}`)
	}
	c := newClient(t, s.URL, func(cfg *client.Config) { cfg.TryTimeout = time.Hour })
	send := func() <-chan error {
		sent := make(chan error, 1)
		go func() {
			_, err := c.Send(t.Context(), hello("no-1"))
			sent <- err
		}()
		return sent
	}
	slow := send()
	<-asked
	select {
	case err := <-send():
		require.NoError(t, err)
	case <-time.After(30 * time.Second):
		require.Fail(t, "it waits for the other's question")
	}
	close(leave)
	require.NoError(t, <-slow)
}

// A send that may be stored is not sent again while the server does not know how far back it remembers.
func TestWindowNotKnownYet(t *testing.T) {
	t.Parallel()
	s := script(t, says(503, "no_answer"), says200)
	var asked atomic.Int64
	s.window = func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			_, _ = io.WriteString(w, `{"ordered_bulks":true}`)
			return
		}
		_, _ = io.WriteString(w, `{"remembers_ms":600000}`)
	}
	_, err := newClient(t, s.URL, nil).Send(t.Context(), hello("no-1"))
	require.NoError(t, err)
	require.Equal(t, int64(3), asked.Load())
	require.Len(t, s.seen(), 2)

	s = script(t, says(503, "no_answer"))
	s.window = func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) }
	_, err = newClient(t, s.URL, func(cfg *client.Config) { cfg.TriesMax = 4 }).Send(t.Context(), hello("no-1"))
	require.ErrorContains(t, err, "may be stored after 4 tries: the server does not know yet")
	require.Len(t, s.seen(), 1)
}

// net/http repeats a request by itself if a kept connection ends without an answer, but not when the server may have forgotten the first one.
func TestRequestIsNotRepeatedLate(t *testing.T) {
	t.Parallel()
	late := func(w http.ResponseWriter, r *http.Request) {
		<-time.After(1100 * time.Millisecond) // what is tested is that time passes
		hangsUp(w, r)
	}
	s := script(t, says200, hangsUp, says200, late, says200)
	c := newClient(t, s.URL, nil)
	_, err := c.Try(t.Context(), hello("no-1"))
	require.NoError(t, err)
	_, err = c.Try(t.Context(), hello("no-1"))
	require.NoError(t, err)
	require.Len(t, s.seen(), 3, "it is repeated at once")
	_, err = c.Try(t.Context(), hello("no-1"))
	require.True(t, client.MaybeStored(err), "%v", err)
	require.Len(t, s.seen(), 4)
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name                   string
		step                   http.HandlerFunc
		code                   string
		retry, refused, stored bool
	}{
		{"a bad field", says(400, "invalid_request"), "invalid_request", false, true, false},
		{"not permitted", says(403, "not_subscriber"), "not_subscriber", false, true, false},
		{"another message's number", says(409, "client_msg_no_conflict"), "client_msg_no_conflict", false, true, false},
		{"too large", says(413, "too_large"), "too_large", false, true, false},
		{"too large for a proxy", text(413, "no"), "", false, true, false},
		{"no token", says(401, "unauthorized"), "unauthorized", false, false, false},
		{"a token for other things", says(403, "insufficient_scope"), "insufficient_scope", false, false, false},
		{"forbidden by something else", text(403, "no"), "", false, false, false},
		{"another server", text(404, "no"), "", false, false, false},
		{"moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, "", false, false, false},
		{"a body that was cut", says(400, "body_unreadable"), "body_unreadable", true, false, false},
		{"too many", says(429, "rate_limited"), "rate_limited", true, false, false},
		{"overloaded", says(503, "overloaded"), "overloaded", true, false, false},
		{"no answer", says(503, "no_answer"), "no_answer", true, false, true},
		{"a 503 of something else", text(503, ""), "", true, false, true},
		{"a gateway's", text(504, "slow"), "", true, false, true},
		{"a bug", says(500, "internal"), "internal", true, false, true},
		{"a 200 that is none", text(200, "hello"), "", true, false, true},
		{"another's answer", text(200, `{"message_id":1,"client_msg_no":"other"}`), "", true, false, true},
		{"a 204", text(204, ""), "", false, false, true},
		{"no answer at all", hangsUp, "", true, false, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := script(t, row.step)
			_, err := newClient(t, s.URL, nil).Try(t.Context(), hello("no-1"))
			require.Error(t, err)
			require.Equal(t, row.retry, client.IsRetryable(err), "retryable: %v", err)
			require.Equal(t, row.refused, client.IsRefused(err), "refused: %v", err)
			require.Equal(t, row.stored, client.MaybeStored(err), "maybe stored: %v", err)
			if answered := (*client.Error)(nil); row.code != "" {
				require.ErrorAs(t, err, &answered)
				require.Equal(t, client.Error{Status: answered.Status, Code: row.code, Msg: "said so", Field: "f", Reason: 7}, *answered)
			}
		})
	}
}

func TestServerIsNotThere(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	_, err = newClient(t, "http://"+l.Addr().String(), nil).Send(t.Context(), hello("no-1"))
	require.True(t, client.IsRetryable(err))
	require.False(t, client.MaybeStored(err), "nothing has left this machine")
}

// A server that takes the request and says nothing: the try ends by its own time, and it may be stored.
func TestTryTimeout(t *testing.T) {
	t.Parallel()
	leave := make(chan struct{})
	s := script(t, func(http.ResponseWriter, *http.Request) { <-leave }, says200)
	defer close(leave)
	c := newClient(t, s.URL, func(cfg *client.Config) { cfg.TryTimeout = 50 * time.Millisecond })
	_, err := c.Try(t.Context(), hello("no-1"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, client.IsRetryable(err))
	require.True(t, client.MaybeStored(err))
	_, err = c.Send(t.Context(), hello("no-1"))
	require.NoError(t, err)
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	leave := make(chan struct{})
	defer close(leave)
	s := script(t, func(http.ResponseWriter, *http.Request) { cancel(); <-leave })
	_, err := newClient(t, s.URL, nil).Send(ctx, hello("no-1"))
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, s.seen(), 1)

	// Nor does it wait for what the context's time cannot hold.
	s = script(t, says(503, "overloaded", "Retry-After", "30"))
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = newClient(t, s.URL, nil).Send(ctx, hello("no-1"))
	require.ErrorContains(t, err, "after 1 try: 503 overloaded")
	require.Equal(t, 30*time.Second, client.RetryAfter(err))
	require.NoError(t, ctx.Err())

	// Nor for longer than it is allowed to.
	s = script(t, says(503, "overloaded", "Retry-After", "3600"))
	_, err = newClient(t, s.URL, nil).Send(t.Context(), hello("no-1"))
	require.ErrorContains(t, err, "after 1 try")
	require.Equal(t, time.Hour, client.RetryAfter(err))
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	s := script(t, says(503, "overloaded", "Retry-After", "1"), says200)
	start := time.Now()
	_, err := newClient(t, s.URL, nil).Send(t.Context(), hello("no-1"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(start), time.Second, "not before the server wants it")

	s = script(t, says(503, "overloaded", "Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)))
	_, err = newClient(t, s.URL, nil).Try(t.Context(), hello("no-1"))
	require.InDelta(t, time.Hour, client.RetryAfter(err), float64(time.Minute), "a date will do too")
}

func TestConnectionIsKept(t *testing.T) {
	t.Parallel()
	s := script(t, says200, says(503, "overloaded"), text(404, strings.Repeat("x", 100_000)), says200)
	c := newClient(t, s.URL, nil)
	for range 20 {
		_, _ = c.Try(t.Context(), hello("no-1")) // whatever the answer is
	}
	require.Equal(t, 1, s.conns)
}

func TestTextMustBeUTF8(t *testing.T) {
	t.Parallel()
	s := script(t, says200)
	bad := client.Send{FromUID: "a\xff", Subscribers: []string{"b", "\xfe"}, Payload: []byte{0xff}}
	_, err := newClient(t, s.URL, nil).Send(t.Context(), bad)
	answered := (*client.Error)(nil)
	require.ErrorAs(t, err, &answered)
	require.Equal(t, "from_uid,subscribers", answered.Field)
	require.True(t, client.IsRefused(err))
	require.Empty(t, s.seen())
}

func TestConfig(t *testing.T) {
	t.Parallel()
	_, err := client.New(client.Config{URL: "localhost:5001", Token: "a b", TriesMax: -1, BackoffMin: 2, BackoffMax: 1, ResendWithin: -1, BulkItemsMax: 10_001, BulkBytesMax: 1 << 30, TryTimeout: -1})
	for _, what := range []string{"URL", "Token", "TriesMax", "BackoffMin", "ResendWithin", "BulkItemsMax", "BulkBytesMax", "TryTimeout"} {
		require.ErrorContains(t, err, what)
	}
	for _, url := range []string{"", "http://", "http://u:p@h", "http://h?x=1", "ftp://h", "http://h\x00"} {
		_, err := client.New(client.Config{URL: url})
		require.ErrorContains(t, err, "URL", url)
	}
	require.NotContains(t, err.Error(), "a b", "a token is not told to anybody")
}
