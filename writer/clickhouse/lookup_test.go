package clickhouse_test

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

func TestLookup(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	b.exec(t, "SYSTEM STOP MERGES "+b.database+".messages")
	const channel = `o'hara "\$1`
	at := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	block := history(t, channel, 20, at, func(n int, m *message.Message) {
		m.Expire = map[int]uint32{5: 1, 20: 1}[n]
		switch n {
		case 4, 9:
			m.ClientMsgNo = `it's "\one`
		case 11: // the broker's clock was ahead when the ID was made
			m.Timestamp = uint64(at.AddDate(0, -3, 0).UnixMilli())
		}
	})
	require.NoError(t, b.client.Insert(b.ctx, block, 0, block.Rows(), "a"))
	require.NoError(t, b.client.Insert(b.ctx, block, 0, 10, "b"), "some rows are there twice")
	other := history(t, "other", 3, at, func(_ int, m *message.Message) { m.MessageId += 100 })
	require.NoError(t, b.client.Insert(b.ctx, other, 0, other.Rows(), "c"))

	in := clickhouse.Channel{ID: channel, Type: 2}
	seqs := func(find func(each func(*clickhouse.Row) error) error) (found []uint64) {
		require.NoError(t, find(func(row *clickhouse.Row) error {
			if n := len(found); n == 0 || found[n-1] != row.MessageSeq {
				found = append(found, row.MessageSeq)
			}
			return nil
		}))
		return found
	}
	bySeq := func(wanted ...uint64) []uint64 {
		return seqs(func(each func(*clickhouse.Row) error) error { return b.client.BySeq(b.ctx, in, wanted, each) })
	}
	require.Equal(t, []uint64{1, 3, 9}, bySeq(9, 1, 3, 5, 21, 1<<64-1))
	require.Empty(t, bySeq())
	id := func(n int) int64 { return int64(message.MakeID(at.Sub(message.Epoch()).Milliseconds(), 0, n)) }
	byID := func(wanted ...int64) []uint64 {
		return seqs(func(each func(*clickhouse.Row) error) error { return b.client.ByID(b.ctx, in, wanted, each) })
	}
	require.Equal(t, []uint64{2, 7, 11}, byID(id(11), id(2), 1, id(7), id(5), id(101)))
	require.Equal(t, []uint64{2}, byID(id(2), 1<<63-1), "the time of no ID overflows")
	require.Empty(t, byID())
	byKey := func(wanted ...string) []uint64 {
		return seqs(func(each func(*clickhouse.Row) error) error { return b.client.ByClientMsgNo(b.ctx, in, wanted, each) })
	}
	require.ElementsMatch(t, []uint64{9, 3}, byKey("no-3", `it's "\one`, "no-20", "unknown"))
	require.Empty(t, byKey())

	last, err := b.client.LastSeq(b.ctx, in)
	require.NoError(t, err)
	require.EqualValues(t, 20, last, "an expired row counts as long as it is there")
	last, err = b.client.LastSeq(b.ctx, clickhouse.Channel{ID: channel, Type: 3})
	require.NoError(t, err)
	require.Zero(t, last)
}

// A row has what a command to named receivers has.
func TestRowOfACommand(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	block := history(t, "g", 2, time.Now(), func(n int, m *message.Message) {
		if n == 1 {
			m.SyncOnce, m.StreamNo, m.TagKey, m.Subscribers = true, "s", "t", []string{"a'b", "c"}
		}
	})
	require.NoError(t, b.client.Insert(b.ctx, block, 0, block.Rows(), "a"))
	var rows []clickhouse.Row
	require.NoError(t, b.client.Page(b.ctx, clickhouse.Channel{ID: "g", Type: 2}, clickhouse.Range{First: 1, Last: 2, LimitRows: 3}, func(row *clickhouse.Row) error {
		rows = append(rows, *row)
		return nil
	}))
	require.Len(t, rows, 2)
	require.Equal(t, []string{"a'b", "c"}, rows[0].Subscribers)
	require.Equal(t, "s t", rows[0].StreamNo+" "+rows[0].TagKey)
	require.Empty(t, rows[1].Subscribers)
	require.Empty(t, rows[1].StreamNo+rows[1].TagKey)
}

// explained asks how the engine would go about each query before it runs it.
type explained struct {
	driver.Conn
	plan strings.Builder
}

func (e *explained) Query(ctx context.Context, query string, args ...any) (driver.Rows, error) {
	rows, err := e.Conn.Query(ctx, "EXPLAIN indexes = 1, actions = 1 "+query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return nil, err
		}
		e.plan.WriteString(strings.TrimSpace(line) + "\n")
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return e.Conn.Query(ctx, query, args...)
}

// A lookup reads those granules of its channel that the indexes do not exclude, and the last message of a channel is read from its end.
func TestLookupsUseTheIndexes(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	const rows = 300_000 // some 37 granules, of which an index block has 4
	at := time.Now().Add(-time.Hour)
	id := func(n int) int64 { return int64(message.MakeID(at.Sub(message.Epoch()).Milliseconds()+int64(n), 0, 1)) }
	for _, channel := range []string{"large", "other"} {
		block := history(t, channel, rows, at, func(n int, m *message.Message) { m.MessageId = uint64(id(n)) })
		require.NoError(t, b.client.Insert(b.ctx, block, 0, block.Rows(), channel))
	}
	b.exec(t, "OPTIMIZE TABLE "+b.database+".messages FINAL")
	e := &explained{}
	b.client.WrapConn(func(conn driver.Conn) driver.Conn {
		e.Conn = conn
		return e
	})
	in := clickhouse.Channel{ID: "large", Type: 2}
	found := 0
	count := func(*clickhouse.Row) error {
		found++
		return nil
	}
	granules := regexp.MustCompile(`Granules: (\d+)/\d+`)
	for name, find := range map[string]func() error{
		"by seq":         func() error { return b.client.BySeq(b.ctx, in, []uint64{77_777}, count) },
		"by ID":          func() error { return b.client.ByID(b.ctx, in, []int64{id(77_777)}, count) },
		"by key":         func() error { return b.client.ByClientMsgNo(b.ctx, in, []string{"no-77777"}, count) },
		"sent":           func() error { _, _, err := b.client.Sent(b.ctx, in, "u0", "no-300000"); return err },
		"by another ID":  func() error { return b.client.ByID(b.ctx, in, []int64{id(77_777) + 1}, count) },
		"by another key": func() error { return b.client.ByClientMsgNo(b.ctx, in, []string{"another"}, count) },
	} {
		found = 0
		e.plan.Reset()
		require.NoError(t, find(), name)
		if strings.Contains(name, "by another") {
			require.Zero(t, found, name)
		} else if name != "sent" {
			require.Equal(t, 1, found, name)
		}
		left := granules.FindAllStringSubmatch(e.plan.String(), -1)
		require.NotEmpty(t, left, e.plan.String())
		n, err := strconv.Atoi(left[len(left)-1][1])
		require.NoError(t, err)
		require.LessOrEqual(t, n, 12, "%s reads %d granules of 74: %s", name, n, e.plan.String()) // 4, and one or two blocks by mistake
	}
	e.plan.Reset()
	last, err := b.client.LastSeq(b.ctx, in)
	require.NoError(t, err)
	require.EqualValues(t, rows, last)
	require.Contains(t, e.plan.String(), "InReverseOrder")
}
