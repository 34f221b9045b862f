package load

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

const columns = "message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, payload"

// store makes rows of what the service was sent and has answered.
func (a *api) store(ctx context.Context, t testing.TB, conn driver.Conn, table string) {
	t.Helper()
	require.NoError(t, conn.Exec(ctx, "CREATE TABLE "+table+" (message_id Int64, message_seq UInt64, channel_id String, channel_type UInt8, from_uid String, client_msg_no String, payload String) ENGINE = Memory"))
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO "+table+" ("+columns+")")
	require.NoError(t, err)
	for key, b := range a.sent {
		g := a.given[key]
		require.NoError(t, batch.Append(int64(g.id), g.seq, b.Channel, uint8(b.ChannelType), b.From, key, string(b.Payload)))
	}
	require.NoError(t, batch.Send())
}

// TestVerifySeesEveryFault plants faults between the table and the one who reads it, as questions in place of its name.
func TestVerifySeesEveryFault(t *testing.T) {
	t.Parallel()
	server := testkit.StartClickHouse(t)
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{server.Addr}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })

	for name, change := range map[string]func(*Config){
		"single": func(*Config) {},
		"bulk":   func(c *Config) { c.Bulk = 50 },
		"twice":  func(c *Config) { c.Duplicates = 0.2 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, nil)
			cfg := testConfig(a.URL)
			change(&cfg)
			run, err := New(cfg, true)
			require.NoError(t, err)
			report, err := run.Do(t.Context(), io.Discard)
			require.NoError(t, err)
			table := "rows_" + name
			a.store(t.Context(), t, conn, table)
			verify := func(from string) *RowCheck {
				t.Helper()
				verified := *report
				require.NoError(t, run.Verify(t.Context(), Table{Conn: conn, Name: from, Patience: time.Millisecond}, &verified))
				require.Equal(t, verified.Rows.Clean(), verified.Err() == nil, "the exit status is by that")
				if err := verified.Err(); err != nil {
					require.ErrorIs(t, err, ErrViolated)
				}
				return verified.Rows
			}
			require.True(t, verify(table).Clean(), verify(table).String())

			// A row that is one of many.
			var key string
			require.NoError(t, conn.QueryRow(t.Context(), "SELECT max(client_msg_no) FROM "+table).Scan(&key))
			changed := func(column, to string) string {
				return fmt.Sprintf("(SELECT %s FROM %s WHERE client_msg_no != '%s' UNION ALL SELECT %s FROM (SELECT %s FROM %s WHERE client_msg_no = '%s'))",
					columns, table, key, replaced(column, to), columns, table, key)
			}
			for fault, from := range map[string]string{
				"missing":           fmt.Sprintf("(SELECT * FROM %s WHERE client_msg_no != '%s')", table, key),
				"doubled":           fmt.Sprintf("(SELECT * FROM %s UNION ALL SELECT * FROM %s WHERE client_msg_no = '%s')", table, table, key),
				"other payload":     changed("payload", "concat(payload, ' ')"),
				"other ID":          changed("message_id", "message_id + 1"),
				"other sequence":    changed("message_seq", "message_seq + 1"),
				"other channel":     changed("channel_id", "concat(channel_id, '0')"),
				"other type":        changed("channel_type", "toUInt8(channel_type + 1)"),
				"other sender":      changed("from_uid", "concat(from_uid, '0')"),
				"other key":         changed("client_msg_no", "concat(client_msg_no, '0')"),
				"one for another":   fmt.Sprintf("(SELECT * FROM %s WHERE client_msg_no != '%s' UNION ALL (SELECT * FROM %s WHERE client_msg_no != '%s' LIMIT 1))", table, key, table, key),
				"one never sent":    fmt.Sprintf("(SELECT %s FROM %s UNION ALL SELECT %s FROM (SELECT %s FROM %s WHERE client_msg_no = '%s'))", columns, table, replaced("client_msg_no", "concat(client_msg_no, '00')"), columns, table, key),
				"nothing is there":  fmt.Sprintf("(SELECT * FROM %s WHERE client_msg_no = '')", table),
				"everything double": fmt.Sprintf("(SELECT * FROM %s UNION ALL SELECT * FROM %s)", table, table),
			} {
				check := verify(from)
				require.False(t, check.Clean(), fault)
				require.Contains(t, check.String(), "DIFFERENT", fault)
			}
		})
	}
}

// replaced are the columns with one of them changed.
func replaced(column, to string) string {
	list := ""
	for _, c := range []string{"message_id", "message_seq", "channel_id", "channel_type", "from_uid", "client_msg_no", "payload"} {
		if c == column {
			c = to + " AS " + c
		}
		if list != "" {
			list += ", "
		}
		list += c
	}
	return list
}

// What got no answer may be there or not: if more is unknown than is remembered, nothing is reported to be right.
func TestVerifyCannotTell(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(int, bool, *given) (int, bool) { return 0, true })
	cfg := testConfig(a.URL)
	cfg.Count, cfg.GiveUp, cfg.Bulk = unknownMax+1000, time.Millisecond, 1000
	run, err := New(cfg, true)
	require.NoError(t, err)
	report, err := run.Do(t.Context(), io.Discard)
	require.NoError(t, err)
	require.Equal(t, cfg.Count, report.Unanswered)
	require.NoError(t, run.Verify(t.Context(), Table{}, report))
	require.False(t, report.Rows.Clean())
	require.ErrorContains(t, report.Err(), "could not be verified")
}
