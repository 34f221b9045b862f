package clickhouse

import (
	"context"
	"fmt"
	"slices"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// BySeq calls each with the messages of a channel that have one of these sequence numbers, as [Client.Page] does, in the order of message_seq.
func (c *Client) BySeq(ctx context.Context, channel Channel, seqs []uint64, each func(*Row) error) error {
	if len(seqs) == 0 {
		return nil
	}
	return c.lookup(ctx, channel, each, "message_seq IN $3", "", set(seqs))
}

// ByID calls each with the messages of a channel that have one of these IDs, as [Client.Page] does, in the order of message_seq. A message is never
// younger than the time in its ID, so months after the latest of these times are not read. Of the channel's rows only those are read that the
// index on message_id does not exclude.
func (c *Client) ByID(ctx context.Context, channel Channel, ids []int64, each func(*Row) error) error {
	if len(ids) == 0 {
		return nil
	}
	latest := message.ID(slices.Max(ids)).UnixMilli()
	return c.lookup(ctx, channel, each, "message_id IN $3 AND timestamp <= fromUnixTimestamp64Milli($4, 'UTC')", "", set(ids), latest)
}

// ByClientMsgNo calls each with the latest message of a channel, of any sender, for each of these keys. It reads rows by the index on
// client_msg_no, in no order.
func (c *Client) ByClientMsgNo(ctx context.Context, channel Channel, clientMsgNos []string, each func(*Row) error) error {
	if len(clientMsgNos) == 0 {
		return nil
	}
	return c.lookup(ctx, channel, each, "client_msg_no IN $3", " DESC LIMIT 1 BY client_msg_no", set(clientMsgNos))
}

func (c *Client) lookup(ctx context.Context, channel Channel, each func(*Row) error, condition, order string, args ...any) error {
	statement := fmt.Sprintf(`SELECT %s
FROM %s.%s WHERE channel_id = $1 AND channel_type = $2 AND %s AND %s
ORDER BY message_seq%s SETTINGS %s`, rowColumns, quoteName(c.database), tableMessages, condition, liveRows, order, readSettings(ctx))
	return c.eachRow(ctx, each, statement, append([]any{channel.ID, uint8(channel.Type)}, args...)...)
}

// set is the right side of an IN.
func set[T any](values []T) clickhouse.GroupSet {
	all := make([]any, len(values))
	for i, value := range values {
		all[i] = value
	}
	return clickhouse.GroupSet{Value: all}
}

// LastSeq returns the highest message_seq of a channel in the table, 0 if there is none. It counts expired rows that no merge has removed yet.
func (c *Client) LastSeq(ctx context.Context, channel Channel) (uint64, error) {
	// As of a page, the server reads the end of the channel in each part. max() would read the whole channel.
	statement := fmt.Sprintf("SELECT message_seq FROM %s.%s WHERE channel_id = $1 AND channel_type = $2 ORDER BY message_seq DESC LIMIT 1 SETTINGS %s",
		quoteName(c.database), tableMessages, readSettings(ctx))
	rows, err := c.query(ctx, statement, channel.ID, uint8(channel.Type))
	if err != nil {
		return 0, newError("find the last message", c.target(tableMessages), err)
	}
	defer rows.Close()
	var last uint64
	for rows.Next() {
		if err := rows.Scan(&last); err != nil {
			return 0, newError("find the last message", c.target(tableMessages), err)
		}
	}
	if err := rows.Err(); err != nil {
		return 0, newError("find the last message", c.target(tableMessages), err)
	}
	return last, nil
}
