package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// TestEndToEndQueue kills a client with a queue on disk, and the server too, again and again. What the client's Enqueue took is in ClickHouse
// in the end, each once, in its channel's order: the n-th send of a channel is its n-th message.
func TestEndToEndQueue(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	choose := rand.New(rand.NewPCG(seed, 1<<33))
	up := newUp(t, "--flush-interval=100ms")
	up.Start()
	table := embeddedTable(t, up)
	table.keepDuplicates(t)

	dir := t.TempDir()
	stop := filepath.Join(t.TempDir(), "stop")
	sender := testkit.NewProcess(t, testkit.ProcessConfig{
		Name: "a client with a queue", Path: os.Args[0],
		Env: []string{queueDirVariable + "=" + dir, queueURLVariable + "=http://" + up.api, queueStopVariable + "=" + stop},
	})
	sender.Launch()
	const kills = 10
	for kill := range kills {
		awaitLines(t, dir, enqueuedFile, countLines(t, dir, enqueuedFile)+1+choose.IntN(400))
		switch kill % 5 {
		case 0, 1: // the client alone
			sender.Kill9()
			sender.Launch()
		case 2: // the server, and the client while it is away
			up.Kill9()
			awaitLines(t, dir, enqueuedFile, countLines(t, dir, enqueuedFile)+100)
			sender.Kill9()
			sender.Launch()
			awaitLines(t, dir, enqueuedFile, countLines(t, dir, enqueuedFile)+100)
			up.Start()
		case 3: // the client, soon after its start
			sender.Kill9()
			sender.Launch()
			killed := time.NewTimer(time.Duration(choose.IntN(100)) * time.Millisecond)
			<-killed.C
			sender.Kill9()
			sender.Launch()
		case 4: // an orderly end
			require.Equal(t, 0, sender.Stop())
			sender.Launch()
		}
		awaitLines(t, dir, sentFile, countLines(t, dir, sentFile)+1) // it continues
	}
	require.NoError(t, os.WriteFile(stop, nil, 0o600))
	records := awaitAllSent(t, dir)
	require.Equal(t, 0, sender.Stop())
	verify(t, table, records)
	audit(t, "nats://"+up.nats)
	t.Logf("%d sends in %d channels", len(records), queueChannels)
}

func countLines(t *testing.T, dir, file string) int {
	t.Helper()
	lines, err := readLines(filepath.Join(dir, file))
	require.NoError(t, err)
	return len(lines)
}

func awaitLines(t *testing.T, dir, file string, n int) {
	t.Helper()
	testkit.WaitFor(t, arriveTimeout, fmt.Sprintf("%d lines in %q", n, file), func(context.Context) error {
		if got := countLines(t, dir, file); got < n {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
}

// awaitAllSent waits until every send that was enqueued has been reported as sent, and makes the records of them. The server said the same of
// a send each time that it was asked.
func awaitAllSent(t *testing.T, dir string) (records []*record) {
	t.Helper()
	type key struct{ channel, n int }
	sent := make(map[key]*record)
	testkit.WaitFor(t, answeredTimeout, "everything to be sent", func(context.Context) error {
		clear(sent)
		lines, err := readLines(filepath.Join(dir, sentFile))
		if err != nil {
			return err
		}
		for _, line := range lines {
			k := key{line.Channel, line.N}
			got := answer{line.ID, uint64(line.Seq)}
			if earlier := sent[k]; earlier != nil {
				require.Equal(t, earlier.answer, got, "%v was reported twice", k)
				continue
			}
			require.Equal(t, int64(line.N), line.Seq, "the place of %v", k)
			sent[k] = &record{send: recordOf(line.Channel, line.N), answer: got, answered: line.At}
		}
		if lines, err = readLines(filepath.Join(dir, enqueuedFile)); err != nil {
			return err
		}
		for _, line := range lines {
			r := sent[key{line.Channel, line.N}]
			if r == nil {
				return fmt.Errorf("%d of channel %d is not: %d are", line.N, line.Channel, len(sent))
			}
			if r.begun.IsZero() {
				r.begun = line.At
			}
		}
		return nil
	})
	for _, r := range sent {
		records = append(records, r)
	}
	return records
}

// recordOf is a queued send as the rows are held against it.
func recordOf(channel, n int) send {
	s := queuedSend(channel, n)
	return send{
		clientMsgNo: s.ClientMsgNo, fromUID: s.FromUID, channelID: s.ChannelID, channelType: message.ChannelGroup, redDot: s.RedDot, payload: s.Payload,
	}
}
