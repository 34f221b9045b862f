package clickhouse

import (
	"context"
	"fmt"
	"time"
)

// Key identifies a message by its channel and its message_seq.
type Key struct {
	ChannelID   string
	ChannelType uint8
	MessageSeq  uint64
}

// Key returns the key of a row's message.
func (b *Block) Key(row int) Key {
	return Key{ChannelID: b.channelID.rows[row], ChannelType: b.channelType.rows[row], MessageSeq: b.messageSeq.rows[row]}
}

// Expires returns when a row's message expires; the zero time if never.
func (b *Block) Expires(row int) time.Time {
	if b.expire.rows[row] == 0 {
		return time.Time{}
	}
	return b.AcceptedAt(row).Add(time.Duration(b.expire.rows[row]) * time.Second)
}

// Find returns the message_id of each row with a key: none, one, or the same one twice if a repeated insert has not been
// merged. More than one distinct ID means that two messages have the same message_seq.
func (c *Client) Find(ctx context.Context, key Key) ([]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	rows, err := c.conn.Query(ctx, fmt.Sprintf("SELECT message_id FROM %s WHERE channel_id = %s AND channel_type = %d AND message_seq = %d",
		c.MessagesTable(), quoteText(key.ChannelID), key.ChannelType, key.MessageSeq))
	if err != nil {
		return nil, newError("look for a row", c.target(tableMessages), err)
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, newError("look for a row", c.target(tableMessages), err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return nil, newError("look for a row", c.target(tableMessages), err)
	}
	return ids, nil
}

// quoteText encodes any bytes as a string literal. unhex avoids having to escape them.
func quoteText(text string) string { return fmt.Sprintf("unhex('%X')", text) }
