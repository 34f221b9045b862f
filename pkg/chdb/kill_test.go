package chdb_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// killSeed replays a run of TestKillInMidInsert.
const killSeed = "SENDHOUSE_CHDB_TEST_SEED"

// kill -9 while blocks go in: after the restart each acknowledged block is there once, and sending every block again, the acknowledged and
// the doubtful, with the tokens they had, makes each be there once.
func TestKillInMidInsert(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(killSeed); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("replay with %s=%d go test -run TestKillInMidInsert ./pkg/chdb", killSeed, seed)
	random := rand.New(rand.NewPCG(seed, 0))

	dir := t.TempDir()
	acknowledged := make(map[int]bool)
	sent := 0
	for round := range 3 {
		served := serve(t, dir)
		b := bench{driver: connect(t, served.addr, "default")}
		if round == 0 {
			b.exec(t, messages)
		}
		requireBlocks(t, b, acknowledged)
		sent = insertUntilKilled(t, b, served, acknowledged, sent, 2+random.IntN(12))
	}

	served := serve(t, dir)
	require.Empty(t, leftovers(t, dir))
	b := bench{driver: connect(t, served.addr, "default")}
	requireBlocks(t, b, acknowledged)
	for number := range sent {
		require.NoError(t, insert(t, b, fmt.Sprint("block ", number), block(number*killRows, killRows)))
		acknowledged[number] = true
	}
	requireBlocks(t, b, acknowledged)
	require.EqualValues(t, sent*killRows, b.count(t, "SELECT count() FROM messages"))
	served.stop(t)
}

const killRows = 10_000

// insertUntilKilled sends blocks from two clients, kills the process while they do after so many acknowledgements, and returns the number of
// the next block.
func insertUntilKilled(t *testing.T, b bench, served *child, acknowledged map[int]bool, next, killAfter int) int {
	t.Helper()
	var mu sync.Mutex
	var clients sync.WaitGroup
	enough := make(chan struct{})
	count := 0
	for range 2 {
		clients.Go(func() {
			for {
				mu.Lock()
				number := next
				next++
				mu.Unlock()
				if insert(t, b, fmt.Sprint("block ", number), block(number*killRows, killRows)) != nil {
					return // Killed.
				}
				mu.Lock()
				acknowledged[number] = true
				if count++; count == killAfter {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	served.kill()
	clients.Wait()
	return next
}

// requireBlocks checks that each acknowledged block is there whole and once, and any other whole and once or not at all.
func requireBlocks(t *testing.T, b bench, acknowledged map[int]bool) {
	t.Helper()
	rows, err := b.driver.Query(t.Context(), fmt.Sprintf(
		"SELECT intDiv(message_id, %d) AS number, count() AS rows, uniqExact(message_id) AS ids FROM messages GROUP BY number", killRows))
	require.NoError(t, err)
	found := make(map[int]bool)
	for rows.Next() {
		var number, count, ids uint64
		require.NoError(t, rows.Scan(&number, &count, &ids))
		require.EqualValues(t, killRows, count, "rows of block %d", number)
		require.EqualValues(t, killRows, ids, "ids of block %d", number)
		found[int(number)] = true
	}
	require.NoError(t, rows.Err())
	for number := range acknowledged {
		require.True(t, found[number], "block %d was acknowledged and is gone", number)
	}
}
