package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	chcolumn "github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/stretchr/testify/require"
)

// What the driver quotes of its request, and its steps, say less than the operation and the target.
func TestErrorWithoutTheRequest(t *testing.T) {
	t.Parallel()
	refused := &url.Error{Op: "Post", URL: "http://u:secret@h:8123?async_insert=0&default_format=Native", Err: errors.New("dial tcp h:8123: connect: connection refused")}
	hello := fmt.Errorf("failed to query server hello: %w", fmt.Errorf("failed to query server hello info: sendQuery: %w", refused))
	err := newError(opConnect, "h:8123", errors.Join(fmt.Errorf("h:8123: %w", hello), fmt.Errorf("i:8123: %w", hello)))
	require.Equal(t, "clickhouse: connect to h:8123: h:8123: dial tcp h:8123: connect: connection refused i:8123: dial tcp h:8123: connect: connection refused", err.Error())
	require.ErrorIs(t, err, refused)
	require.Equal(t, `clickhouse: insert t: odd Post "`, newError("insert", "t", errors.New(`odd Post "`)).Error())
}

func TestClassify(t *testing.T) {
	t.Parallel()
	exception := func(code int32, text string) error {
		return fmt.Errorf("send: %w", &clickhouse.Exception{Code: code, Message: text})
	}
	status := func(code int) error {
		return &clickhouse.HTTPError{StatusCode: code, Err: errors.New("from a proxy")}
	}
	for _, c := range []struct {
		name string
		err  error
		want Class
		code int
	}{
		{"too many parts", exception(252, "Too many parts (300). Merges are processing significantly slower than inserts"), Backpressure, 252},
		{"too many partitions", exception(252, "Too many partitions for single INSERT block (more than 100)"), Oversize, 252},
		{"memory", exception(241, "Memory limit (total) exceeded"), Memory, 241},
		{"replica without keeper", exception(242, "Table is in readonly mode"), Backpressure, 242},
		{"too many queries", exception(202, ""), Backpressure, 202},
		{"disk full", exception(243, "Cannot reserve 1.00 MiB, not enough space"), Backpressure, 243},
		{"over HTTP", &clickhouse.HTTPError{StatusCode: 500, Err: exception(241, "")}, Memory, 241},
		{"wrong password", exception(516, "Authentication failed"), Configuration, 516},
		{"no table", exception(60, ""), Configuration, 60},
		{"no database", exception(81, ""), Configuration, 81},
		{"no column", exception(16, ""), Configuration, 16},
		{"other type", exception(53, ""), Configuration, 53},
		{"readonly user", exception(164, ""), Configuration, 164},
		{"no grant", exception(497, ""), Configuration, 497},
		{"driver cannot convert", fmt.Errorf("column a: %w: %w", errColumnMismatch, &chcolumn.ColumnConverterError{}), Configuration, 0},
		{"constraint", exception(469, ""), Data, 469},
		{"out of range", exception(321, ""), Data, 321},
		{"query timeout", exception(159, ""), Ambiguous, 159},
		{"keeper", exception(999, ""), Ambiguous, 999},
		{"unknown status of insert", exception(319, ""), Ambiguous, 319},
		{"new code", exception(54321, ""), Ambiguous, 54321},
		{"connection closed", fmt.Errorf("read: %w", io.EOF), Ambiguous, 0},
		{"refused", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, Ambiguous, 0},
		{"reset", &net.OpError{Op: "write", Err: syscall.ECONNRESET}, Ambiguous, 0},
		{"timeout", context.DeadlineExceeded, Ambiguous, 0},
		{"no connection free", clickhouse.ErrAcquireConnTimeout, Ambiguous, 0},
		{"proxy: later", status(503), Backpressure, 0},
		{"proxy: too many", status(429), Backpressure, 0},
		{"proxy: too large", status(413), Oversize, 0},
		{"proxy: not allowed", status(403), Configuration, 0},
		{"proxy: bad gateway", status(502), Ambiguous, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := newError("insert", "db.messages at host", c.err)
			require.Equal(t, c.want, ClassOf(fmt.Errorf("wrapped: %w", err)))
			var typed *Error
			require.ErrorAs(t, err, &typed)
			require.Equal(t, c.code, typed.Code)
			require.ErrorIs(t, err, c.err)
			require.NotContains(t, err.Error(), "\n")
		})
	}
	require.Equal(t, Ambiguous, ClassOf(errors.New("foreign")))
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"":                                     "is missing",
		"localhost:9000":                       "scheme",
		"mysql://localhost/db":                 "scheme",
		"clickhouse://localhost/a`b":           "must be letters",
		"clickhouse://u:secret@localhost:x/db": "dsn",
	} {
		_, _, err := Config{ClickHouseDSN: dsn}.options()
		require.ErrorContains(t, err, want, dsn)
		require.NotContains(t, err.Error(), "secret")
	}
	options, database, err := Config{ClickHouseDSN: "clickhouse://u:p@a:1,b:2/d?max_threads=2&read_timeout=7s"}.options()
	require.NoError(t, err)
	require.Equal(t, "d", database)
	require.Equal(t, []string{"a:1", "b:2"}, options.Addr)
	require.Equal(t, 2, options.Settings["max_threads"])
	require.Equal(t, 7*time.Second, options.ReadTimeout)
	require.Equal(t, clickhouse.CompressionLZ4, options.Compression.Method)
}

func TestRefusedRow(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"Constraint `poison` for table db.messages (0a1b) is violated at row 500. Expression: (wal_seq != 500). Column values: wal_seq = 500": 500,
		"Constraint `c` is violated at row 1.":             1,
		"Constraint `c` is violated":                       0,
		"is violated at row 99999999999999999999999 or so": 0,
	} {
		exception := &clickhouse.Exception{Code: 469, Message: text}
		var typed *Error
		require.ErrorAs(t, newError("insert", "t", fmt.Errorf("send: %w", exception)), &typed)
		require.Equal(t, want, typed.Row, text)
		exception.Code = 241
		require.ErrorAs(t, newError("insert", "t", exception), &typed)
		require.Zero(t, typed.Row)
	}
}
