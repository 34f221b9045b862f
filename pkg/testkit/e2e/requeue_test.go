package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

const (
	requeueSends = 200
	// poisoned is true of about one row in five.
	poisoned = "cityHash64(client_msg_no) % 5 = 0"
	// requeueKills is how often the command is killed, and requeueStep how many letters it may do before that, at the
	// most. Together they are fewer than there are letters, so each kill finds it at work.
	requeueKills = 4
	requeueStep  = 3
	// requeueTimeout bounds how long a machine with much else to do may take for all letters: each is some inserts.
	requeueTimeout = 3 * time.Minute
)

// requeue is a deployment with dead letters, whose cause is mended, and the command that requeues all of them.
type requeue struct {
	*testkit.Process
	t       *testing.T
	table   *table
	letters jetstream.Stream
	all     int // letters that there were
}

// startRequeue has the table refuse some of the rows that clients send, until all are letters, and mends it.
func startRequeue(t *testing.T, up *node, seed uint64) (*requeue, []*record) {
	t.Helper()
	tb := embeddedTable(t, up)
	tb.keepDuplicates(t)
	require.NoError(t, tb.conn.Exec(t.Context(), "ALTER TABLE "+tb.name+" ADD CONSTRAINT poison CHECK NOT ("+poisoned+")"))
	load := startLoad(t, up.api, loadConfig{seed: seed})
	load.await(requeueSends)
	records := load.finish()

	natsURL := "nats://" + up.nats
	nc := connectNATS(t, natsURL)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	r := &requeue{t: t, table: tb}
	r.letters, err = js.Stream(t.Context(), topology.DeadLettersStream)
	require.NoError(t, err)
	testkit.WaitFor(t, requeueTimeout, "a row or a letter of each send", func(ctx context.Context) error {
		rows, letters, err := r.look(ctx)
		if err == nil && rows+letters != len(records) {
			err = fmt.Errorf("%d rows and %d letters of %d sends", rows, letters, len(records))
		}
		r.all = letters
		return err
	})
	require.Greater(t, r.all, requeueKills*2*requeueStep, "letters; choose other sizes")
	require.NoError(t, tb.conn.Exec(t.Context(), "ALTER TABLE "+tb.name+" DROP CONSTRAINT poison"))
	r.Process = testkit.NewProcess(t, testkit.ProcessConfig{Name: "requeue", Path: binary(t), Args: asOperator(append([]string{
		"deadletters", "requeue", "--all", "--nats-url=" + natsURL,
	}, up.owner("sendhouse")...))})
	return r, records
}

// look counts the rows, then the letters.
func (r *requeue) look(ctx context.Context) (rows, letters int, err error) {
	n, err := r.table.count(ctx)
	if err != nil {
		return 0, 0, err
	}
	info, err := r.letters.Info(ctx)
	if err != nil {
		return 0, 0, err
	}
	return int(n), int(info.State.Msgs), nil
}

// said counts what the command has printed of letters, over all its runs.
func (r *requeue) said(outcome string) int { return strings.Count(r.Output(), " "+outcome+"\n") }

// awaitSaid waits until it has told of n more letters.
func (r *requeue) awaitSaid(n int) {
	r.t.Helper()
	told := func() int { return r.said("inserted") + r.said("already_stored") }
	target := told() + n
	testkit.WaitFor(r.t, arriveTimeout, "the command to continue", func(context.Context) error {
		select {
		case <-r.Done():
			return nil // and that is looked at below
		default:
		}
		if told() < target {
			return fmt.Errorf("it has told of %d letters of %d", told(), target)
		}
		return nil
	})
	require.GreaterOrEqual(r.t, told(), target, "the command has ended: %s", r.Output())
}

// killBetween kills the command when it has inserted a row and not yet removed its letter. When that is seen it is paused, and looked at again.
func (r *requeue) killBetween(sends int) {
	r.t.Helper()
	between := func() bool {
		rows, letters, err := r.look(r.t.Context())
		require.NoError(r.t, err)
		return rows+letters > sends
	}
	for {
		select {
		case <-r.Done():
			require.Fail(r.t, "the command has ended", r.Output())
		default:
		}
		if !between() {
			continue
		}
		r.Pause()
		if between() {
			r.Kill9()
			return
		}
		r.Resume()
	}
}

// TestEndToEndRequeueKilled kills the command that requeues dead letters again and again, with kill -9: anywhere, and when a row is in the
// table and its letter not yet removed. The next requeue finishes it, and in the end every row is there once, and no letter.
func TestEndToEndRequeueKilled(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	choose := rand.New(rand.NewPCG(seed, 1<<33))
	up := newUp(t, "--flush-interval=100ms", "--partitions=4")
	up.Start()
	r, records := startRequeue(t, up, seed)

	between := 0
	for kill := range requeueKills {
		r.Launch()
		r.awaitSaid(1 + choose.IntN(requeueStep))
		if kill%2 == 0 {
			r.Kill9()
		} else {
			r.killBetween(len(records))
		}
		rows, letters, err := r.look(t.Context())
		require.NoError(t, err)
		require.Positive(t, letters, "the kill came too late")
		// The letter that it was about may still be there although its row is, and no other.
		require.LessOrEqual(t, rows+letters-len(records), 1)
		require.GreaterOrEqual(t, rows+letters, len(records), "something is lost")
		if rows+letters > len(records) {
			between++
		}
	}
	for range 2 { // to the end, and once more for nothing
		r.Launch()
		require.Equal(t, 0, r.Wait(requeueTimeout), r.Output())
		rows, letters, err := r.look(t.Context())
		require.NoError(t, err)
		require.Zero(t, letters)
		require.Equal(t, len(records), rows)
	}
	require.Regexp(t, `\n0 inserted, 0 stored already, 0 expired, 0 cannot be requeued\n$`, r.Output())
	require.Positive(t, r.said("already_stored"))
	verify(t, r.table, records)
	audit(t, "nats://"+up.nats)
	t.Logf("%d letters of %d sends; killed %d times, %d of them between the row and its letter", r.all, len(records), requeueKills, between)
	require.Equal(t, 0, up.Stop())
}
