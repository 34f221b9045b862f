package clickhouse_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// The views show each message once although a batch went in twice, and know nothing of merges.
func TestViews(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	b.exec(t, "SYSTEM STOP MERGES "+b.database+".messages")
	block := fill(t, 1, 1000)
	require.NoError(t, b.client.Insert(b.ctx, block, 0, 1000, "a"))
	require.NoError(t, b.client.Insert(b.ctx, block, 0, 500, "b"))
	require.EqualValues(t, 1500, b.number(t, "SELECT count() FROM "+b.database+".messages"))

	require.EqualValues(t, 1000, b.number(t, "SELECT count() FROM "+b.database+".messages_latest"))
	one := sample(77)
	require.EqualValues(t, 1, b.number(t, fmt.Sprintf("SELECT count() FROM %s.messages_latest WHERE channel_id = '%s' AND channel_type = %d AND message_seq = 77",
		b.database, one.GetChannelId(), one.GetChannelType())))

	// 60 channels: five names times twelve types.
	require.EqualValues(t, 60, b.number(t, "SELECT count() FROM "+b.database+".channel_counts"))
	require.EqualValues(t, 1000, b.number(t, "SELECT sum(messages) FROM "+b.database+".channel_counts"))
	var messages, lastSeq uint64
	var lastID int64
	require.NoError(t, b.plain.QueryRow(b.ctx, fmt.Sprintf("SELECT messages, last_message_seq, last_message_id FROM %s.channel_counts WHERE channel_id = '%s' AND channel_type = %d",
		b.database, sample(960).GetChannelId(), sample(960).GetChannelType())).Scan(&messages, &lastSeq, &lastID))
	require.EqualValues(t, 16, messages)
	require.EqualValues(t, 960, lastSeq)
	require.EqualValues(t, sample(960).GetMessageId(), lastID)

	for view, rows := range map[string]uint64{
		fmt.Sprintf("messages_by_message_id(message_id = %d)", one.GetMessageId()):   1,
		"messages_by_message_id(message_id = 5)":                                     0,
		"messages_by_client_msg_no(client_msg_no = 'no-77')":                         1,
		"messages_by_client_msg_no(client_msg_no = '" + `it\'s not there` + "')":     0,
		fmt.Sprintf("messages_by_message_id(message_id = %d)", -one.GetMessageSeq()): 0,
	} {
		require.Equal(t, rows, b.number(t, "SELECT count() FROM "+b.database+"."+view), view)
	}
	var seq uint64
	require.NoError(t, b.plain.QueryRow(b.ctx, fmt.Sprintf("SELECT message_seq FROM %s.messages_by_message_id(message_id = %d)", b.database, one.GetMessageId())).Scan(&seq))
	require.EqualValues(t, 77, seq)
}

// A row whose time is up is in no view any more, whether or not a merge has taken it.
func TestViewsHideExpiredRows(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	b.exec(t, "SYSTEM STOP MERGES "+b.database+".messages")
	var block clickhouse.Block
	now := time.Since(message.Epoch()).Milliseconds()
	var last *message.Message
	for n, expire := range []uint32{0, 1, 100, 4294967295, 2} { // never, a second, …
		m := sample(12*n + 12)
		m.ChannelId, m.MessageSeq = "one", uint64(n+1)
		m.Expire, m.MessageId = expire, uint64(message.MakeID(now, 0, n))
		require.NoError(t, block.Append(uint64(n+1), encode(t, m)))
		last = m
	}
	require.NoError(t, b.client.Insert(b.ctx, &block, 0, 5, "t"))
	views := []string{"messages_latest", "channel_counts"}
	views = append(views, fmt.Sprintf("messages_by_message_id(message_id = %d)", last.GetMessageId()), "messages_by_client_msg_no(client_msg_no = '"+last.GetClientMsgNo()+"')")
	for _, view := range views {
		count := "count()"
		left := uint64(0)
		switch view {
		case "messages_latest":
			left = 3
		case "channel_counts":
			count, left = "sum(messages)", 3
		}
		testkit.WaitFor(t, 30*time.Second, "rows to expire in "+view, b.counts("SELECT "+count+" FROM "+b.database+"."+view, left))
	}
	require.EqualValues(t, 5, b.number(t, "SELECT count() FROM "+b.database+".messages"), "no merge has taken them")
	require.EqualValues(t, 4, b.number(t, "SELECT last_message_seq FROM "+b.database+".channel_counts"))
}

// What the views are made for must not read the whole table.
func TestViewsUseTheIndexes(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	const rows = 100_000 // over three months, in 13 granules or more
	require.NoError(t, b.client.Insert(b.ctx, fill(t, 1, rows), 0, rows, "t"))
	early := sample(rows + 1)
	early.Timestamp = uint64(early.AcceptedAt().AddDate(0, 0, -40).UnixMilli()) // the broker's clock was ahead before
	var block clickhouse.Block
	require.NoError(t, block.Append(rows+1, encode(t, early)))
	require.NoError(t, b.client.Insert(b.ctx, &block, 0, 1, "early"))
	var at time.Time
	require.NoError(t, b.plain.QueryRow(b.ctx, fmt.Sprintf("SELECT timestamp FROM %s.messages_by_message_id(message_id = %d)", b.database, early.GetMessageId())).Scan(&at))
	require.Equal(t, early.AcceptedAt(), at.UTC())
	one := sample(77_777)
	page := fmt.Sprintf("WHERE channel_id = '%s' AND channel_type = %d AND message_seq BETWEEN 1 AND 2000", one.GetChannelId(), one.GetChannelType())
	for query, want := range map[string][]string{
		fmt.Sprintf("messages_by_message_id(message_id = %d)", one.GetMessageId()): {"MinMax", "Keys: timestamp", "Condition: (toYYYYMM(timestamp) in (-Inf, ", "Name: message_id_index"},
		"messages_by_client_msg_no(client_msg_no = 'no-77777')":                    {"Name: client_msg_no_index", "Parts: 1/5"},
		"messages_latest " + page: {"PrimaryKey", "channel_id channel_type message_seq Condition: and("},
		"channel_counts WHERE channel_id = '" + one.GetChannelId() + "'": {"PrimaryKey", "channel_id Condition: (channel_id in"},
	} {
		text := strings.ReplaceAll(strings.Join(strings.Fields(b.explain(t, "SELECT * FROM "+b.database+"."+query)), " "), "Min-Max", "MinMax")
		for _, part := range want {
			require.Contains(t, text, part, query)
		}
	}
}
