package writer

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

func TestServerWritesAllPartitions(t *testing.T) {
	t.Parallel()
	b := setup(t, 3)
	server := testkit.StartClickHouse(t)
	s := b.service(b.config(serverDSN(server, "test"), clickhouse.SchemaReduced))
	require.ErrorContains(t, s.Check(), "not started")
	stop := b.start(s)
	for p := range 3 {
		b.publish(p, 1, 500)
	}
	for p := range 3 {
		b.waitDone(p, 500)
	}
	require.NoError(t, s.Check())
	b.publish(1, 501, 510)
	b.waitDone(1, 510)
	require.NoError(t, stop())
	require.ErrorIs(t, s.Check(), errStopped)

	rows, different := openTable(t, serverDSN(server, "test")).counts(false)
	require.EqualValues(t, 1510, rows)
	require.EqualValues(t, 1510, different)
}
