package writer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/deadletter"
)

// poisonRows is how many rows are written among which poisonLetters are refused; WRITER_POISON_ROWS sets
// another number.
const (
	poisonRows    = 1_000_000
	poisonLetters = 100
)

// A hundred rows that ClickHouse refuses, spread at random over a million: each becomes a dead letter, the
// letters are in order, and all other rows are there, each once. (It is among the end-to-end tests for its
// size: the race detector would make minutes of it.)
func TestEndToEndPoison(t *testing.T) {
	t.Parallel()
	rows := poisonRows
	if text := os.Getenv("WRITER_POISON_ROWS"); text != "" {
		var err error
		rows, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	b := setup(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // for a slow machine, or many rows
	defer cancel()
	b.ctx = ctx
	cfg := b.full()
	s := b.service(cfg)
	stop := b.start(s) // makes the table
	require.NoError(t, stop())
	var poison []uint64
	for _, n := range rand.New(rand.NewPCG(seed, 0)).Perm(rows)[:poisonLetters] {
		poison = append(poison, uint64(n+1))
	}
	slices.Sort(poison)
	tb := openTable(t, cfg.ClickHouseDSN)
	list := strings.Trim(strings.ReplaceAll(fmt.Sprint(poison), " ", ","), "[]")
	require.NoError(t, tb.conn.Exec(b.ctx, "ALTER TABLE "+tb.name+" ADD CONSTRAINT poison CHECK partition_seq NOT IN ("+list+")"))
	b.publish(0, 1, rows)

	s = b.service(cfg)
	begun := time.Now()
	stop = b.start(s)
	b.waitDone(0, uint64(rows))
	t.Logf("%d rows in %s, %v splits", rows, time.Since(begun), valueOf(t, s.metrics.splits))
	require.NoError(t, s.Check())
	require.NoError(t, stop())
	var letters []uint64
	for _, letter := range b.deadLetters() {
		require.Equal(t, "deadletters.writer.refused", letter.Subject)
		seq, err := strconv.ParseUint(letter.Header.Get(deadletter.HeaderPartitionSeq), 10, 64)
		require.NoError(t, err)
		letters = append(letters, seq)
	}
	require.Equal(t, poison, letters)
	have, different := tb.counts()
	require.EqualValues(t, rows-poisonLetters, have)
	require.EqualValues(t, rows-poisonLetters, different)
	var disorder uint64
	require.NoError(t, tb.conn.QueryRow(b.ctx, "SELECT countIf(message_id <= before) FROM (SELECT message_id, "+
		"lagInFrame(message_id) OVER (ORDER BY partition_seq ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS before FROM "+tb.name+")").Scan(&disorder))
	require.Zero(t, disorder)
}
