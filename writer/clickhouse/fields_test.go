package clickhouse_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// columnsOf are the columns of the result of a query, with their types.
func (b bench) columnsOf(t testing.TB, query string) (names, types []string) {
	t.Helper()
	rows, err := b.plain.Query(b.ctx, "DESCRIBE ("+query+")")
	require.NoError(t, err, query)
	defer rows.Close()
	for rows.Next() {
		texts := make([]string, len(rows.Columns())) // the name, the type, and more
		targets := make([]any, len(texts))
		for i := range texts {
			targets[i] = &texts[i]
		}
		require.NoError(t, rows.Scan(targets...))
		names, types = append(names, texts[0]), append(types, texts[1])
	}
	require.NoError(t, rows.Err(), query)
	return names, types
}

// wholeViews are the views of whole messages, as a query names them.
func wholeViews() []string {
	return []string{"messages_latest", "messages_by_message_id(message_id = 1)", "messages_by_client_msg_no(client_msg_no = 'x')"}
}

// The table that the migrations make has each described column, with its type and in its order, and so has each view.
func TestEveryFieldIsInTheTableAndItsViews(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	var names, types []string
	for _, f := range message.StoredFields() {
		names, types = append(names, f.Name), append(types, f.Column)
	}
	for _, table := range append(wholeViews(), "messages") {
		haveNames, haveTypes := b.columnsOf(t, "SELECT * FROM "+b.database+"."+table)
		require.Equal(t, names, haveNames, "of %s; a migration that adds a column has the line {views}", table)
		require.Equal(t, types, haveTypes, "of %s", table)
	}
	single, err := clickhouse.Migrations(clickhouse.Layout{Database: "d"})
	require.NoError(t, err)
	cluster, err := clickhouse.Migrations(clickhouse.Layout{Database: "d", Cluster: "c"})
	require.NoError(t, err)
	require.Len(t, cluster, len(single)+1, "a migration is there for both layouts; a cluster has the one for messages_local more")
}

// What is inserted of a message is what the description reads of it, in each column, and ClickHouse makes the same digest of it.
func TestEveryFieldIsStoredAndCompared(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	require.NoError(t, b.client.Migrate(b.ctx))
	var block clickhouse.Block
	digester := clickhouse.NewDigester()
	const rows = 5
	var sum uint64
	for n := 1; n <= rows; n++ {
		encoded := encode(t, testkit.FullMessage(n))
		require.NoError(t, block.Append(uint64(n), encoded))
		digested, err := digester.Digest(uint64(n), encoded)
		require.NoError(t, err)
		sum += digested.Hash
	}
	require.NoError(t, b.client.Insert(b.ctx, &block, 0, rows, "every field"))
	for n := 1; n <= rows; n++ {
		want, err := digester.Texts(uint64(n), encode(t, testkit.FullMessage(n)))
		require.NoError(t, err)
		for i, text := range want {
			require.NotContains(t, []string{"0", "0:", ""}, text, "the test's message has no %s", digester.Names()[i])
		}
		have, err := b.client.RowTexts(b.ctx, 3, uint64(n))
		require.NoError(t, err)
		require.Equal(t, [][]string{want}, have)
	}
	sums, err := b.client.SumRanges(b.ctx, clickhouse.Selection{Partition: 3, First: 1, Last: rows}, rows)
	require.NoError(t, err)
	require.Equal(t, map[uint64]clickhouse.RangeSum{0: {Rows: rows, Sum: sum}}, sums)
}

// A migration can add a column, to a table with rows, and the views show it; also after the views or the table are gone, and in the middle of others.
func TestMigrationsCanAddAColumn(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	layout := clickhouse.Layout{Database: b.database}
	released, err := clickhouse.Migrations(layout)
	require.NoError(t, err)
	const add = "ALTER TABLE `{database}`.messages ADD COLUMN IF NOT EXISTS %s String CODEC(ZSTD(1));\n\n{views}\n"
	all, err := clickhouse.MigrationsAnd(layout, []string{"first_added", "second_added"}, map[string]string{
		fmt.Sprintf("%04d_first_added.sql", len(released)+1):  fmt.Sprintf(add, "first_added"),
		fmt.Sprintf("%04d_second_added.sql", len(released)+2): fmt.Sprintf(add, "second_added"),
	})
	require.NoError(t, err)
	require.Equal(t, released, all[:len(released)], "what was released stays as it is")
	require.NoError(t, b.client.Migrate(b.ctx))
	require.NoError(t, b.client.Insert(b.ctx, fill(t, 1, 10), 0, 10, "t"))
	last := func(m clickhouse.Migration, column string) {
		for range 2 { // as after a crash
			require.NoError(t, b.client.Apply(b.ctx, m))
		}
		for _, view := range wholeViews() {
			names, _ := b.columnsOf(t, "SELECT * FROM "+b.database+"."+view)
			require.Equal(t, column, names[len(names)-1], view)
		}
		require.EqualValues(t, 10, b.number(t, "SELECT count() FROM "+b.database+".messages_latest"))
	}
	require.Len(t, all[len(released)].Statements(), 4)
	last(all[len(released)], "first_added")
	last(all[len(released)+1], "second_added")
	require.NoError(t, b.client.Check(b.ctx), "a program of before writes on")
	require.NoError(t, b.client.Insert(b.ctx, fill(t, 11, 20), 0, 10, "u"))

	clusterLayout := clickhouse.Layout{Database: b.database, Cluster: "main-1"}
	before, err := clickhouse.Migrations(clusterLayout)
	require.NoError(t, err)
	cluster, err := clickhouse.MigrationsAnd(clusterLayout, []string{"first_added"}, map[string]string{fmt.Sprintf("%04d_first_added.sql", len(before)+1): "{views}"})
	require.NoError(t, err)
	for _, statement := range cluster[len(before)].Statements() {
		require.Contains(t, statement, " ON CLUSTER `main-1` AS\nSELECT\n    message_id, message_seq, ")
		require.Contains(t, statement, ", first_added\nFROM ")
	}
	require.Contains(t, cluster[len(before)].SQL, "timestamp <= fromUnixTimestamp64Milli", "of each view the latest form")
}
