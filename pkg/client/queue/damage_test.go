package queue

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
)

// newSeed is TEST_SEED, or another each time. It prints the command that replays it.
func newSeed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("replay with: TEST_SEED=%d go test -count=1 -run '^%s$' ./pkg/client/queue", seed, t.Name())
	return seed
}

// damage is one way to damage a file.
func damage(random *rand.Rand, text []byte) (how string, damaged []byte, from, to int) {
	at := random.IntN(len(text))
	switch damaged = slices.Clone(text); random.IntN(3) {
	case 0:
		return fmt.Sprintf("cut at %d", at), damaged[:at], at, len(text)
	case 1:
		at = at / 4096 * 4096
		to = min(at+4096, len(text))
		clear(damaged[at:to])
		return fmt.Sprintf("page at %d zeroed", at), damaged, at, to
	default:
		n := 1 + random.IntN(8)
		from, to = at, min(at+n, len(text))
		for i := from; i < to; i++ {
			damaged[i] ^= byte(1 + random.IntN(255))
		}
		return fmt.Sprintf("%d bytes at %d flipped", to-from, at), damaged, from, to
	}
}

// Files that are damaged in 200 ways: the queue opens, tells of what it has found, and delivers every send whose record can be read, in order.
// What it has delivered before and might have forgotten is not sent a second time without asking.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(newSeed(t), 0))
	b := setup(t, func(c *Config) { c.BytesMax = 1 << 20 }) // files of 16 KiB
	const channels, each = 6, 60
	b.run()
	for n := range each { // some are delivered, others wait
		for c := range channels {
			s := groupSend(fmt.Sprint("c", c), fmt.Sprintf("no-%04d", n))
			s.Payload = make([]byte, 1+random.IntN(400))
			_, err := b.Enqueue(t.Context(), s)
			require.NoError(t, err)
		}
		if n == each/3 {
			b.flush()
			b.end()
			b.open()
		}
	}
	delivered := make(map[string][]string)
	for c := range channels {
		delivered[fmt.Sprint("c", c)] = b.server.got(fmt.Sprint("c", c))
	}
	names, err := filepath.Glob(filepath.Join(b.cfg.Dir, "*.log"))
	require.NoError(t, err)
	require.Greater(t, len(names), 2)
	// Where each send that waits has its record.
	type place struct {
		file     string
		from, to int
	}
	places := make(map[string]place)
	for _, one := range b.byKey {
		one.all(0, func(i *item) bool {
			record, err := b.journal.Read(i.at)
			require.NoError(t, err)
			e, err := entryOf(i.number, record[itemHeadBytes+1+int(record[itemHeadBytes]):])
			require.NoError(t, err)
			file := fmt.Sprintf("%010d.log", i.at.Segment)
			places[e.Send.ChannelID+"/"+e.Send.ClientMsgNo] = place{file, int(i.at.Offset), int(i.at.Offset + i.at.Length)}
			return true
		})
	}
	for round := range 200 {
		victim := names[random.IntN(len(names))]
		text, err := os.ReadFile(victim)
		require.NoError(t, err)
		how, damaged, from, to := damage(random, text)
		what := fmt.Sprintf("round %d: %s: %s", round, filepath.Base(victim), how)
		dir := filepath.Join(t.TempDir(), "queue")
		require.NoError(t, os.CopyFS(dir, os.DirFS(b.cfg.Dir)))
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(victim)), damaged, 0o600))

		cfg := b.cfg
		cfg.Dir, cfg.OnSent, cfg.OnDead = dir, nil, nil
		q, err := Open(cfg)
		require.NoError(t, err, what)
		found := make(map[string]bool)
		for _, one := range q.byKey {
			last := ""
			one.all(0, func(i *item) bool {
				record, err := q.journal.Read(i.at)
				require.NoError(t, err, what)
				no, text := splitPut(record)
				e, err := entryOf(i.number, text)
				require.NoError(t, err, what)
				require.Greater(t, no, last, "%s: the order of %s", what, e.Send.ChannelID)
				last = no
				found[e.Send.ChannelID+"/"+no] = true
				if slices.Contains(delivered[e.Send.ChannelID], no) {
					require.NotZero(t, i.since, "%s: %s was delivered, and would be sent again without a doubt", what, no)
				}
				return true
			})
		}
		lost := 0
		for name, at := range places {
			hit := at.file == filepath.Base(victim) && at.from < to && from < at.to
			if !found[name] {
				lost++
				require.True(t, hit, "%s: %s at %+v is lost and was not damaged", what, name, at)
			}
		}
		aside, err := filepath.Glob(filepath.Join(dir, "*.damaged-*"))
		require.NoError(t, err)
		atEnd := victim == names[len(names)-1]
		if !atEnd { // the torn end of the last write is no damage
			require.NotEmpty(t, aside, what)
			require.Positive(t, q.Stats().DeadLetters, what)
		}
		require.NoError(t, q.Close())

		// What was found once is found again, and not told of again.
		q, err = Open(cfg)
		require.NoError(t, err, what)
		require.Equal(t, len(found), q.Stats().Entries, what)
		again, err := filepath.Glob(filepath.Join(dir, "*.damaged-*"))
		require.NoError(t, err)
		require.Equal(t, aside, again, what)
		_, err = q.Enqueue(t.Context(), groupSend("c0", "no-later"))
		require.NoError(t, err, what)
		require.NoError(t, q.Close())
	}
}

// A record that is damaged while the queue is open is given up, and its channel continues.
func TestRecordDamagedWhileOpen(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.enqueue("g", numbers(0, 3)...)
	at := b.byKey[laneOf(&client.Send{ChannelID: "g", ChannelType: client.ChannelGroup})].first().at
	file, err := os.OpenFile(filepath.Join(b.cfg.Dir, "0000000001.log"), os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = file.WriteAt([]byte("xxxx"), int64(at.Offset)+40)
	require.NoError(t, err)
	require.NoError(t, file.Close())
	b.run()
	b.flush()
	require.Equal(t, []string{"no-0001", "no-0002"}, b.server.got("g"))
	all, err := b.DeadLetters(0, 10)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, Damaged, all[0].Reason)
	require.Contains(t, all[0].Text, "0000000001.log")
	require.Error(t, b.Revive(all[0].Number))
	b.end()
}
