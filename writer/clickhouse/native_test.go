package clickhouse_test

import (
	"context"
	"strings"
	"testing"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// The tests of the native protocol run against Debian's ClickHouse 18.16, a server process over TCP. It is older than what the product needs:
// it has neither the settings of an insert nor the types, codecs and views of the migrations. So the table and the adapter that takes the
// settings away are these tests' own, and what a token does is tested with the embedded engine.

// withoutSettings is a connection whose inserts have no settings of their own.
type withoutSettings struct{ driver.Conn }

func (c withoutSettings) PrepareBatch(ctx context.Context, query string, opts ...driver.PrepareBatchOption) (driver.Batch, error) {
	return c.Conn.PrepareBatch(chgo.Context(ctx, chgo.WithSettings(nil)), query, opts...)
}

// serverDSN is the address of a database on a server process.
func serverDSN(s *testkit.ClickHouseServer, database string) string {
	return "clickhouse://" + s.Addr + "/" + database
}

// setupNative is setup for a server process.
func setupNative(t testing.TB, dsn string) bench {
	t.Helper()
	b := setup(t, dsn)
	b.client.WrapConn(func(conn driver.Conn) driver.Conn { return withoutSettings{conn} })
	return b
}

// createNative makes the database and a table with the columns of the product's. A timestamp in milliseconds is an Int64 there, since 18.16 has no
// DateTime64; the driver hands it the same numbers.
func (b bench) createNative(t testing.TB) {
	t.Helper()
	b.exec(t, "CREATE DATABASE IF NOT EXISTS "+b.database)
	var columns []string
	for _, f := range message.StoredFields() {
		if f.Kind == message.Time {
			f.Column = "Int64"
		}
		columns = append(columns, f.Name+" "+f.Column)
	}
	b.exec(t, "CREATE TABLE "+b.database+".messages ("+strings.Join(columns, ", ")+") ENGINE = ReplacingMergeTree() ORDER BY (channel_id, channel_type, message_seq)")
}

// Every kind of value comes through the native protocol as it was, in blocks of every size, and is read back by the client.
func TestNativeRoundTrip(t *testing.T) {
	t.Parallel()
	b := setupNative(t, serverDSN(testkit.StartClickHouse(t), "round"))
	b.createNative(t)
	requireRoundTrip(t, b, func(at time.Time) any { return at.UnixMilli() }, new(int64))

	extents, err := b.client.Extents(b.ctx)
	require.NoError(t, err)
	require.Len(t, extents, 4)
	there, err := b.client.Messages(b.ctx, clickhouse.Span{Partition: 1, First: 1, Last: 300})
	require.NoError(t, err)
	require.Len(t, there, 75)
	ids, err := b.client.Find(b.ctx, clickhouse.Key{ChannelID: sample(77).GetChannelId(), ChannelType: uint8(sample(77).GetChannelType()), MessageSeq: 77})
	require.NoError(t, err)
	require.Equal(t, []int64{int64(sample(77).GetMessageId())}, ids)
	count, err := b.client.CountRange(b.ctx, 1, 1, 300)
	require.NoError(t, err)
	require.EqualValues(t, 75, count)
}

// An error of the server is classified by its code over the native protocol too.
func TestNativeErrors(t *testing.T) {
	t.Parallel()
	b := setupNative(t, serverDSN(testkit.StartClickHouse(t), "errors"))
	block := fill(t, 1, 10)
	insert := func() *clickhouse.Error {
		var typed *clickhouse.Error
		require.ErrorAs(t, b.client.Insert(b.ctx, block, 0, 10, "t"), &typed)
		return typed
	}
	require.Equal(t, clickhouse.Configuration, insert().Class) // no database
	b.createNative(t)
	b.exec(t, "DROP TABLE "+b.database+".messages")
	err := insert()
	require.Equal(t, clickhouse.Configuration, err.Class)
	require.Equal(t, 60, err.Code)

	b.createNative(t)
	require.NoError(t, b.client.Insert(b.ctx, block, 0, 10, "t"))
}
