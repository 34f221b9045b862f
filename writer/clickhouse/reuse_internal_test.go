package clickhouse

import (
	"testing"
	"testing/synctest"
	"time"

	drivercolumn "github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/stretchr/testify/require"
)

func driverColumns(t *testing.T, types ...drivercolumn.Type) []drivercolumn.Interface {
	t.Helper()
	columns := make([]drivercolumn.Interface, len(types))
	for i, of := range types {
		var err error
		columns[i], err = of.Column("c", &drivercolumn.ServerContext{})
		require.NoError(t, err)
	}
	return columns
}

// A batch gets the memory of an earlier one and none of its rows.
func TestKeptColumnsSpareMemory(t *testing.T) { //nolint:paralleltest // it counts allocations
	const text = "a text that is long enough to be seen"
	insert := func(kept *keptColumns) {
		columns := driverColumns(t, "String", "UInt64")
		kept.lend(columns)
		require.Zero(t, columns[0].Rows())
		require.Zero(t, columns[1].Rows())
		for n := range uint64(100) {
			require.NoError(t, columns[0].AppendRow(text))
			require.NoError(t, columns[1].AppendRow(n))
		}
		require.Equal(t, text, columns[0].Row(99, false))
		require.Equal(t, uint64(99), columns[1].Row(99, false))
		kept.keep(columns)
	}
	var kept keptColumns
	again := testing.AllocsPerRun(10, func() { insert(&kept) })
	require.Len(t, kept.sets, 1)
	require.Less(t, again, testing.AllocsPerRun(10, func() { insert(new(keptColumns)) }))
}

// Each set is lent to one batch only, and columns of another type stay as they are.
func TestKeptColumns(t *testing.T) {
	t.Parallel()
	var kept keptColumns
	one, two := driverColumns(t, "String"), driverColumns(t, "UInt64")
	kept.keep(one)
	kept.keep(two)
	other := driverColumns(t, "String")
	kept.lend(other) // two, which does not fit
	require.NoError(t, other[0].AppendRow("text"))
	require.Len(t, kept.sets, 1)
	require.Same(t, one[0], kept.take()[0])
	require.Empty(t, kept.take())
}

// What no insert uses from one call of drop to the next goes, and what is used stays.
func TestUnusedColumnsGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var kept keptColumns
		for range 3 {
			kept.keep(driverColumns(t, "String"))
		}
		use := func(n int) {
			var taken [][]drivercolumn.Interface
			for range n {
				taken = append(taken, kept.take())
			}
			for _, columns := range taken {
				require.NotEmpty(t, columns)
				kept.keep(columns)
			}
		}
		size := func() int {
			synctest.Wait()
			kept.mu.Lock()
			defer kept.mu.Unlock()
			return len(kept.sets)
		}
		for range 5 { // two concurrent inserts instead of three
			<-time.After(keptFor * 3 / 4) // of the bubble
			use(2)
		}
		require.Equal(t, 2, size())
		for range 3 {
			<-time.After(keptFor * 3 / 4) // of the bubble
			use(1)
		}
		require.Equal(t, 1, size())
		<-time.After(2 * keptFor) // of the bubble
		require.Zero(t, size())
		require.Nil(t, kept.timer)
	})
}
