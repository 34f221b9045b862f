package writer

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const naiveColumns = " (message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, red_dot, sync_once, " +
	"stream_no, tag_key, expire, subscribers, payload, timestamp, partition, partition_seq, wal_seq, wal_index)"

// naiveOnce reads rows of the log as one would at first: a durable consumer, each message decoded into a struct and
// appended to the driver's batch as a row, and each record acknowledged.
func naiveOnce(b *testing.B, t *bundle, dsn string, rows int) time.Duration {
	client, err := clickhouse.Open(clickhouse.Config{ClickHouseDSN: dsn}, t.log)
	require.NoError(b, err)
	require.NoError(b, client.Migrate(t.ctx))
	require.NoError(b, client.Close())
	table := openTable(b, dsn)
	consumer, err := t.js.CreateConsumer(t.ctx, topology.MessagesStream(0), jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 2 * benchBlock,
	})
	require.NoError(b, err)
	begun := time.Now()
	messages, err := consumer.Messages(jetstream.PullMaxMessages(4096))
	require.NoError(b, err)
	defer messages.Stop()
	for done := 0; done < rows; {
		batch, err := table.conn.PrepareBatch(t.ctx, "INSERT INTO "+table.name+naiveColumns)
		require.NoError(b, err)
		for end := done + benchBlock; done < min(end, rows); {
			msg, err := messages.Next()
			require.NoError(b, err)
			var record message.MessageBatch
			require.NoError(b, record.UnmarshalVT(msg.Data()))
			wanted := record.GetMessages()
			wanted = wanted[:min(len(wanted), rows-done)]
			for i, m := range wanted {
				require.NoError(b, batch.Append(naiveRow(record.GetFirst()+uint64(i), m)...))
			}
			require.NoError(b, msg.Ack())
			done += len(wanted)
		}
		require.NoError(b, batch.Send())
	}
	took := time.Since(begun)
	require.NoError(b, t.js.DeleteConsumer(t.ctx, topology.MessagesStream(0), consumer.CachedInfo().Name))
	have, _ := table.counts()
	require.EqualValues(b, rows, have)
	return took
}

func naiveRow(place uint64, m *message.Message) []any {
	id := message.ID(m.GetMessageId())
	return []any{
		int64(id), m.GetMessageSeq(), m.GetChannelId(), uint8(m.GetChannelType()), m.GetFromUid(), m.GetClientMsgNo(),
		flag(m.GetRedDot()), flag(m.GetSyncOnce()), m.GetStreamNo(), m.GetTagKey(), m.GetExpire(), m.GetSubscribers(), string(m.GetPayload()),
		id.Time(), uint16(id.Partition()), place, m.GetWalSeq(), m.GetWalIndex(),
	}
}

func flag(set bool) uint8 {
	if set {
		return 1
	}
	return 0
}
