package clickhouse

import (
	"context"
	"fmt"
	"time"
)

// Key is a message's place: its channel and its number in it.
type Key struct {
	ChannelID   string
	ChannelType uint8
	MessageSeq  uint64
}

// Key is the place of a row's message.
func (b *Block) Key(row int) Key {
	return Key{ChannelID: b.channelID.rows[row], ChannelType: b.channelType.rows[row], MessageSeq: b.messageSeq.rows[row]}
}

// Expires is when a row's message is to be gone; the zero time if never.
func (b *Block) Expires(row int) time.Time {
	if b.expire.rows[row] == 0 {
		return time.Time{}
	}
	return b.AcceptedAt(row).Add(time.Duration(b.expire.rows[row]) * time.Second)
}

// Find gives the message_id of each row that the table has at a place: one, none, or the same one twice where a
// repeated insert has not been merged. More than one ID means that two messages were given the same place.
func (c *Client) Find(ctx context.Context, key Key) ([]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	rows, err := c.conn.Query(ctx, fmt.Sprintf("SELECT message_id FROM %s.%s WHERE channel_id = %s AND channel_type = %d AND message_seq = %d",
		quoteName(c.database), tableMessages, quoteText(key.ChannelID), key.ChannelType, key.MessageSeq))
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

// quoteText writes any bytes as a string literal. unhex spares the question which of them a literal may hold.
func quoteText(text string) string { return fmt.Sprintf("unhex('%X')", text) }
