package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// What TestEndToEndSteady does if it is not told otherwise: enough to see that it works.
const (
	steadyFor  = 5 * time.Second
	steadyRate = 500
	// steadyLook is the pause between two looks at the table: by so much the delays are measured too long.
	steadyLook = 50 * time.Millisecond
	// steadyPartsMax is far below the 3,000 at which ClickHouse refuses inserts.
	steadyPartsMax = 300
	// steadyRecent is for how long after it was made a part is searched for new rows.
	steadyRecent = 20 * time.Second
)

// TestEndToEndSteady sends at a rate to `up` with its default settings, and looks all the while how long rows
// take to be seen and of how many parts the table is. The delay of a row counts from its timestamp, when the
// write-ahead log took it, which is before it was answered. `make steady` does it for ten minutes at 5,000
// sends a second and wants 99 of 100 rows within STEADY_VISIBLE_MAX.
func TestEndToEndSteady(t *testing.T) {
	t.Parallel()
	lasting, rate := steadyFor, steadyRate
	if text := os.Getenv("STEADY_FOR"); text != "" {
		var err error
		lasting, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	if text := os.Getenv("STEADY_RATE"); text != "" {
		var err error
		rate, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	up := newUp(t, "--messages-bytes-max=8GiB")
	up.Start()
	look := newLook(t, embeddedTable(t, up))

	total := uint64(lasting.Seconds() * float64(rate))
	bench := testkit.StartProcess(t, testkit.ProcessConfig{Name: "bench", Path: binary(t), Args: []string{
		"bench", "--target=http://" + up.api, "--rate=" + strconv.Itoa(rate), fmt.Sprintf("--count=%d", total),
	}})
	began := time.Now()
	for running := true; running; {
		select {
		case <-bench.Done():
			running = false
		case <-time.After(steadyLook):
		}
		look.rows(t)
		look.parts(t, time.Since(began))
	}
	require.Equal(t, 0, bench.Wait(time.Minute), bench.Output())
	testkit.WaitFor(t, arriveTimeout, "the rest", func(context.Context) error {
		look.rows(t)
		if look.seen < total {
			return fmt.Errorf("%d of %d rows", look.seen, total)
		}
		return nil
	})
	count, err := look.table.count(t.Context())
	require.NoError(t, err)
	require.Equal(t, look.seen, count, "each row is seen once")
	t.Logf("%d rows; seen after p50 %s, p90 %s, p99 %s, p99.9 %s, at most %s", look.seen,
		look.quantile(0.5), look.quantile(0.9), look.quantile(0.99), look.quantile(0.999), look.quantile(1))
	t.Logf("active parts, at most %d: %s", look.partsMost, strings.Join(look.partsLog, ", "))
	t.Logf("%s", bench.Output())
	require.LessOrEqual(t, look.partsMost, uint64(steadyPartsMax))
	if text := os.Getenv("STEADY_VISIBLE_MAX"); text != "" {
		most, err := time.ParseDuration(text)
		require.NoError(t, err)
		require.LessOrEqual(t, look.quantile(0.99), most)
	}
	require.Equal(t, 0, up.Stop())
}

// look follows the table.
type look struct {
	table     *table
	upTo      map[uint16]uint64 // stream sequence by partition
	seen      uint64
	delays    map[time.Duration]uint64 // rows by delay, in steps of delayStep
	partsAt   time.Time
	partsLog  []string
	partsMost uint64
}

const (
	delayStep  = 10 * time.Millisecond
	partsEvery = 10 * time.Second
)

func newLook(t *testing.T, tb *table) *look {
	t.Helper()
	l := &look{table: tb, upTo: make(map[uint16]uint64), delays: make(map[time.Duration]uint64)}
	for p := range uint16(4) {
		l.upTo[p] = 0
	}
	return l
}

// rows counts the rows that were not there at the last look. They are in new parts, or in those that these
// were merged into since.
func (l *look) rows(t *testing.T) {
	t.Helper()
	var news []string
	for p, seq := range l.upTo {
		news = append(news, fmt.Sprintf("(partition = %d AND partition_seq > %d)", p, seq))
	}
	cursor, err := l.table.conn.Query(t.Context(), fmt.Sprintf("SELECT partition, intDiv(toUnixTimestamp64Milli(timestamp), %d) AS step, count(), max(partition_seq) "+
		"FROM %s WHERE (%s) AND _part IN (SELECT name FROM system.parts WHERE active AND table = 'messages' AND modification_time > now() - %d) GROUP BY partition, step",
		delayStep.Milliseconds(), l.table.name, strings.Join(news, " OR "), int(steadyRecent.Seconds())))
	require.NoError(t, err)
	now := time.Now()
	for cursor.Next() {
		var partition uint16
		var step int64
		var count, last uint64
		require.NoError(t, cursor.Scan(&partition, &step, &count, &last))
		delay := now.Sub(time.UnixMilli(step * delayStep.Milliseconds()))
		l.delays[delay.Truncate(delayStep)] += count
		l.seen += count
		l.upTo[partition] = max(l.upTo[partition], last)
	}
	require.NoError(t, cursor.Err())
}

// parts notes from time to time of how many the table is.
func (l *look) parts(t *testing.T, since time.Duration) {
	t.Helper()
	if time.Since(l.partsAt) < partsEvery {
		return
	}
	l.partsAt = time.Now()
	var n uint64
	require.NoError(t, l.table.conn.QueryRow(t.Context(), "SELECT count() FROM system.parts WHERE active AND database = 'sendhouse' AND table = 'messages'").Scan(&n))
	l.partsLog = append(l.partsLog, fmt.Sprintf("%d at %s", n, since.Round(time.Second)))
	l.partsMost = max(l.partsMost, n)
}

// quantile is the delay that a part of all rows did not exceed.
func (l *look) quantile(q float64) time.Duration {
	steps := make([]time.Duration, 0, len(l.delays))
	for step := range l.delays {
		steps = append(steps, step)
	}
	slices.Sort(steps)
	below := uint64(0)
	for _, step := range steps {
		if below += l.delays[step]; float64(below) >= q*float64(l.seen) {
			return step
		}
	}
	return 0
}
