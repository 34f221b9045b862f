package clickhouse

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// Row is a message as readers receive it.
type Row struct {
	MessageID   int64
	MessageSeq  uint64
	FromUID     string
	ClientMsgNo string
	RedDot      uint8
	SyncOnce    uint8
	StreamNo    string
	TagKey      string
	Expire      uint32
	Subscribers []string
	UnixSeconds uint32
	Payload     string
}

// rowColumns are the columns of a Row, in the order of scan.
const rowColumns = "message_id, message_seq, from_uid, client_msg_no, red_dot, sync_once, stream_no, tag_key, expire, subscribers, toUnixTimestamp(timestamp), payload"

func (r *Row) scan(rows driver.Rows) error {
	return rows.Scan(&r.MessageID, &r.MessageSeq, &r.FromUID, &r.ClientMsgNo, &r.RedDot, &r.SyncOnce, &r.StreamNo, &r.TagKey, &r.Expire, &r.Subscribers, &r.UnixSeconds, &r.Payload) //nolint:wrapcheck // the caller says what was being done
}

// Channel is a canonical channel, as the table names it.
type Channel struct {
	ID   string
	Type message.ChannelType
}

// Range is a part of a channel: messages with a message_seq from First to Last, both included, of which the first LimitRows
// are wanted, or the last if NewestFirst is set.
type Range struct {
	First, Last uint64
	NewestFirst bool
	LimitRows   int
}

// liveRows is the condition for rows that have not expired: an expired row remains in the table until its part is merged.
const liveRows = "(expire = 0 OR toUnixTimestamp(timestamp) + toUInt64(expire) > toUInt32(now()))"

// Page calls each with the messages of a range in order, as far as they are in the table and have not expired. If an insert
// was repeated after the server had lost its token, a message may come twice in a row until the parts are merged, and both
// count for LimitRows. The caller must skip the second; FINAL, or LIMIT 1 BY, would double the cost of the query.
//
// The row is valid only until each returns. An error of each ends the query and is returned unchanged.
func (c *Client) Page(ctx context.Context, channel Channel, r Range, each func(*Row) error) error {
	direction := ""
	if r.NewestFirst {
		direction = " DESC"
	}
	// Each part stores a channel's rows together in the order of the query, so the server reads only the range. A page costs
	// latency rather than work, so one thread is as fast as many.
	statement := fmt.Sprintf(`SELECT %s
FROM %s WHERE channel_id = $1 AND channel_type = $2 AND message_seq >= $3 AND message_seq <= $4 AND %s
ORDER BY message_seq%s LIMIT $5 SETTINGS %s`, rowColumns, c.MessagesTable(), liveRows, direction, readSettings(ctx))
	return c.eachRow(ctx, each, statement, channel.ID, uint8(channel.Type), r.First, r.Last, r.LimitRows)
}

// eachRow calls each with the rows of a statement that selects rowColumns. An error of each ends the query and is returned unchanged.
func (c *Client) eachRow(ctx context.Context, each func(*Row) error, statement string, args ...any) error {
	rows, err := c.query(ctx, statement, args...)
	if err != nil {
		return newError("read", c.target(tableMessages), err)
	}
	var row Row
	for rows.Next() {
		if err := row.scan(rows); err != nil {
			_ = rows.Close() // returns the same error
			return newError("read", c.target(tableMessages), err)
		}
		if err := each(&row); err != nil {
			_ = rows.Close()
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return newError("read", c.target(tableMessages), err)
	}
	return nil
}

// Identity holds what identifies a message.
type Identity struct {
	MessageID  int64
	MessageSeq uint64
}

// Sent finds the latest message of a sender in a channel that has this client_msg_no and has not expired.
func (c *Client) Sent(ctx context.Context, channel Channel, fromUID, clientMsgNo string) (found Identity, ok bool, err error) {
	statement := fmt.Sprintf(`SELECT message_id, message_seq FROM %s
WHERE channel_id = $1 AND channel_type = $2 AND client_msg_no = $3 AND from_uid = $4 AND %s
ORDER BY message_seq DESC LIMIT 1 SETTINGS %s`, c.MessagesTable(), liveRows, readSettings(ctx))
	rows, err := c.query(ctx, statement, channel.ID, uint8(channel.Type), clientMsgNo, fromUID)
	if err != nil {
		return found, false, newError("find", c.target(tableMessages), err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&found.MessageID, &found.MessageSeq); err != nil {
			return found, false, newError("find", c.target(tableMessages), err)
		}
		ok = true
	}
	if err := rows.Err(); err != nil {
		return found, false, newError("find", c.target(tableMessages), err)
	}
	return found, ok, nil
}

// query starts a statement, or returns when ctx ends: if a server accepts a connection and sends nothing, the driver blocks
// until the dial timeout regardless of ctx; see Ping.
func (c *Client) query(ctx context.Context, statement string, args ...any) (driver.Rows, error) {
	type answer struct {
		rows driver.Rows
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		rows, err := c.conn.Query(ctx, statement, args...)
		answers <- answer{rows, err}
	}()
	select {
	case a := <-answers:
		return a.rows, a.err
	case <-ctx.Done():
		go func() { // ends with the dial timeout at the latest
			if a := <-answers; a.err == nil {
				_ = a.rows.Close() // the caller has returned
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// readSettings limits the cost of a read on the server. The limits are part of the statement: the driver sets a time limit
// of its own in the settings of the call, five seconds beyond the deadline, and the server would keep working for no one.
func readSettings(ctx context.Context) string {
	seconds := readTimeout.Seconds()
	if deadline, ok := ctx.Deadline(); ok {
		seconds = max(1, min(seconds, math.Ceil(time.Until(deadline).Seconds()))) // 0 would be no limit
	}
	return fmt.Sprintf("max_threads = 1, max_execution_time = %d", int(seconds))
}
