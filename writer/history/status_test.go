package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
)

// from makes message seq of group g one of u1's with this client_msg_no.
func from(seq int, clientMsgNo string) *message.Message {
	m := sample("g", seq)
	m.FromUid, m.ClientMsgNo = "u1", clientMsgNo
	return m
}

// sendOf is the send that became a message.
func sendOf(m *message.Message) *message.Send {
	return &message.Send{ChannelId: m.GetChannelId(), ChannelType: m.GetChannelType(), FromUid: m.GetFromUid(), ClientMsgNo: m.GetClientMsgNo(), Expire: m.GetExpire(), Payload: m.GetPayload()}
}

func (b *bundle) requireState(state string, seq uint64, clientMsgNo string, more ...string) {
	b.t.Helper()
	g := b.status(clientMsgNo, more...)
	require.Equal(b.t, http.StatusOK, g.status, g.raw)
	require.Equal(b.t, state, g.State, "%s: %s", clientMsgNo, g.raw)
	require.Equal(b.t, seq, g.MessageSeq, clientMsgNo)
	require.Equal(b.t, clientMsgNo, g.ClientMsgNo)
	require.Equal(b.t, seq != 0, strings.Contains(g.raw, `"message_idstr":"`), "an unknown message has no ID")
	if state == stateUnknown {
		require.True(b.t, *g.Complete, g.raw)
	}
}

// A send on its way: nowhere, in the write-ahead log, in the message log, in ClickHouse.
func TestStatusOnTheWay(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.requireState(stateUnknown, 0, "n")
	x, m := from(1, "x"), from(2, "n")
	elsewhere := from(7, "n") // the same key, of another channel, in the same record
	elsewhere.ChannelId = "other"
	b.write(sendOf(x), sendOf(elsewhere), sendOf(m))
	g := b.status("n")
	require.Equal(t, stateAccepted, g.State)
	require.Zero(t, g.MessageID)
	require.Equal(t, hintNotFolded, g.Hint)

	done := b.publish(x, elsewhere, m)
	b.requireState(stateAccepted, 1, "x")
	b.requireState(stateAccepted, 2, "n")
	b.requireState(stateAccepted, 7, "n", "channel_id", "other")
	b.insert(x, m)
	b.requireState(stateStored, 2, "n")
	b.record(done, b.streamCreated())
	b.requireState(stateStored, 2, "n")
	b.requireState(stateStored, 1, "x")

	// Nothing of it is anybody else's.
	b.requireState(stateUnknown, 0, "n", "from_uid", "u2")
	b.requireState(stateUnknown, 0, "n", "channel_id", "h")
	b.requireState(stateUnknown, 0, "n", "channel_type", "3")
	b.requireState(stateUnknown, 0, "n", "sync_once", "1")
	b.requireState(stateUnknown, 0, "N")
}

// Whatever was in ClickHouse or became nothing is not looked for in the logs.
func TestStatusBehindTheWriter(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	gone := from(1, "dead letter") // the writer is past it, and ClickHouse does not have it
	gone.WalSeq = b.write(sendOf(gone))
	done := b.publish(gone)
	b.record(done, b.streamCreated())
	b.requireState(stateUnknown, 0, "dead letter")

	b.record(done, b.streamCreated().Add(-time.Hour))
	b.serveOver(b.nc, b.js)
	b.requireState(stateAccepted, 1, "dead letter") // what the writer has done is of another stream
}

func TestStatusNeverStored(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	live := sendOf(from(1, "live"))
	live.NoPersist = true
	expired := from(1, "expired")
	expired.Expire = 1
	expiredSend := sendOf(from(1, "expired in the log"))
	expiredSend.Expire = 1
	b.service.now = func() time.Time { return time.Now().Add(time.Minute) }
	b.write(live, expiredSend, sendOf(from(1, "well")))
	b.publish(expired)
	b.requireState(stateUnknown, 0, "live")
	b.requireState(stateUnknown, 0, "expired")
	b.insert(expired)
	b.requireState(stateUnknown, 0, "expired")
	require.Equal(t, stateUnknown, b.status("expired in the log").State)
}

func TestStatusPersonAndCommand(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	m := from(1, "n")
	m.ChannelId, m.ChannelType = message.PersonChannel("u1", "u2"), 1
	command := from(1, "c")
	command.ChannelId = "g" + message.CommandSuffix
	b.publish(m)
	b.insert(command)
	b.requireState(stateAccepted, 1, "n", "channel_id", "u2", "channel_type", "1")
	b.requireState(stateAccepted, 1, "n", "channel_id", "u2@u1", "channel_type", "1")
	b.requireState(stateStored, 1, "c", "sync_once", "1")
}

// What is not folded is looked for within limits, and the answer does not say more than is known.
func TestStatusFarBehind(t *testing.T) {
	t.Parallel()
	b := setup(t, options{config: func(c *Config) { c.HistoryTimeout = time.Second }})
	for n := range walRecordsMax + 5 {
		send := sendOf(from(1, fmt.Sprintf("w%d", n)))
		send.ChannelId = "h"
		b.write(send)
	}
	require.Equal(t, stateAccepted, b.status(fmt.Sprintf("w%d", walRecordsMax+4), "channel_id", "h").State)
	g := b.status("w0", "channel_id", "h")
	require.Equal(t, stateUnknown, g.State)
	require.False(t, *g.Complete)
	require.Equal(t, hintIncomplete, g.Hint)
}

// The writer is within a record: of what it has passed nothing is looked for, of the rest everything.
func TestStatusWithinARecord(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.publish(from(1, "a"), from(2, "b"))
	b.publish()
	b.publish(from(3, "dead letter"), from(4, "last"), from(5, "next"))
	b.publish(from(6, "behind"))
	for _, record := range []uint64{0, 3} { // not noted, noted
		b.recordIn(4, record, b.streamCreated())
		for _, no := range []string{"a", "dead letter", "last"} {
			b.requireState(stateUnknown, 0, no)
		}
		b.requireState(stateAccepted, 5, "next")
		b.requireState(stateAccepted, 6, "behind")
	}

	// Of two with the same key the latest counts, wherever it is.
	b.publish(from(7, "twice"), from(8, "x"), from(9, "twice"))
	b.requireState(stateAccepted, 9, "twice")
	b.publish(from(10, "twice"))
	b.requireState(stateAccepted, 10, "twice")
}

func TestStatusRefuses(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	for _, row := range []struct {
		no, name, value, field, msg string
	}{
		{"", "x", "y", "client_msg_no", "is required"},
		{strings.Repeat("n", 257), "x", "y", "client_msg_no", "is 257 bytes; at most 256 are taken"},
		{"n", "from_uid", "", "from_uid", "from_uid is required"},
		{"n", "channel_type", "x", "channel_type", "must be an integer from 1 to 255"},
		{"n", "channel_type", "", "channel_type", "is required"},
		{"n", "channel_id", "g____cmd", "channel_id", "must not end in ____cmd"},
		{"n", "sync_once", "2", "sync_once", "must be 0 or 1"},
		{"n", "channel_id", "\xff", "channel_id", "is not valid UTF-8"},
	} {
		g := b.status(row.no, row.name, row.value)
		require.Equal(t, http.StatusBadRequest, g.status, g.raw)
		require.Equal(t, "invalid_request", g.Code)
		require.Equal(t, row.field, g.Field)
		require.Contains(t, g.Msg, row.msg)
	}
}

// ClickHouse stands still, dies, and comes back.
func TestClickHouseAway(t *testing.T) {
	t.Parallel()
	server := enginetest.StartServer(t)
	b := setup(t, options{
		dsn:    server.DSN("away"),
		config: func(c *Config) { c.HistoryTimeout = 3 * time.Second },
	})
	stored, logged := from(1, "stored"), from(2, "logged")
	b.insert(stored)
	b.publish(stored, logged) // the writer is in the middle of a record
	b.record(1, b.streamCreated())
	const body = `{"login_uid":"u","channel_id":"g","channel_type":2}`
	away := func(codes ...string) {
		for _, g := range []got{b.sync(body), b.status("stored"), b.status("nothing")} {
			require.Equal(t, http.StatusServiceUnavailable, g.status, g.raw)
			require.Contains(t, codes, g.Code)
			require.NotEmpty(t, g.header.Get("Retry-After"))
			require.NotContains(t, g.raw, server.Addr, "a reply must not contain addresses")
		}
	}
	testkit.WaitFor(t, testTimeout, "an answer", b.answers(body))

	server.Pause()
	away("history_timeout", "history_unavailable") // the driver may see the end of its time first
	b.requireState(stateAccepted, 2, "logged")
	server.Resume()
	testkit.WaitFor(t, testTimeout, "an answer", b.answers(body))

	server.Kill9()
	away("history_unavailable", "history_timeout")
	testkit.WaitFor(t, testTimeout, "the logs to know it", func(context.Context) error {
		if g := b.status("logged"); g.State != stateAccepted || g.MessageSeq != 2 {
			return errors.New(g.raw)
		}
		return nil
	})
	server.Start()
	testkit.WaitFor(t, testTimeout, "the table to know it", func(context.Context) error {
		if g := b.status("stored"); g.State != stateStored || g.MessageSeq != 1 {
			return errors.New(g.raw)
		}
		return nil
	})
}

// NATS hangs: the time that is waited for it leaves some for ClickHouse.
func TestNATSHangs(t *testing.T) {
	t.Parallel()
	b := setup(t, options{config: func(c *Config) { c.HistoryTimeout = 6 * time.Second }})
	b.insert(from(1, "stored"))
	link := testkit.StartLink(t, strings.TrimPrefix(b.nats.URL(), "nats://"))
	nc, js, err := broker.Connect(b.ctx, broker.Config{URL: "nats://" + link.Addr, Name: t.Name(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	b.serveOver(nc, js)
	link.Cut()
	b.requireState(stateStored, 1, "stored")
	g := b.status("nothing")
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	require.Equal(t, "log_unavailable", g.Code)
}

// NATS is away: ClickHouse answers what it can.
func TestNATSAway(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.insert(from(1, "stored"))
	b.requireState(stateUnknown, 0, "nothing")
	b.nats.Shutdown()
	require.Len(t, b.sync(`{"login_uid":"u","channel_id":"g","channel_type":2,"start_message_seq":1}`).Messages, 1)
	b.requireState(stateStored, 1, "stored")
	for _, g := range []got{b.status("nothing"), b.sync(`{"login_uid":"u","channel_id":"g","channel_type":2}`)} {
		require.Equal(t, http.StatusServiceUnavailable, g.status, "there may be more")
		require.Equal(t, "log_unavailable", g.Code)
		require.NotEmpty(t, g.header.Get("Retry-After"))
	}
}

func TestNotServed(t *testing.T) {
	t.Parallel()
	b := &bundle{t: t, ctx: t.Context(), url: serve(t, NotServed())}
	for _, g := range []got{b.sync(`{}`), b.status("n")} {
		require.Equal(t, http.StatusNotFound, g.status)
		require.Equal(t, "history_not_served", g.Code)
		require.Contains(t, g.Msg, "--clickhouse-dsn")
	}
}

func TestNewReportsAll(t *testing.T) {
	t.Parallel()
	_, err := New(Config{HistoryTimeout: time.Hour}, Deps{})
	for _, part := range []string{"history-requests-max 0", "history-timeout 1h0m0s", "history-page-bytes-max 0B", "ClickHouse", "NATS", "JetStream", "logger", "registerer", "partitions"} {
		require.ErrorContains(t, err, part)
	}
}
