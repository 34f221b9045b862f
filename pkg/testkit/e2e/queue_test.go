package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// queueUser is a process with a queue on disk, and the files that it writes.
type queueUser struct {
	*testkit.Process
	t     *testing.T
	dir   string
	files map[string]*counted
}

// newQueueUser prepares a process that sends to an address.
func newQueueUser(t *testing.T, address string, env ...string) *queueUser {
	t.Helper()
	u := &queueUser{t: t, dir: t.TempDir(), files: make(map[string]*counted)}
	u.Process = testkit.NewProcess(t, testkit.ProcessConfig{
		Name: "a client with a queue", Path: os.Args[0],
		Env: append([]string{queueDirVariable + "=" + u.dir, queueURLVariable + "=http://" + address}, env...),
	})
	return u
}

// counted is a file of which the lines are counted as it grows.
type counted struct {
	offset int64
	lines  int
}

// lines is how many lines a file of the process has.
func (u *queueUser) lines(file string) int {
	u.t.Helper()
	c := u.files[file]
	if c == nil {
		c = &counted{}
		u.files[file] = c
	}
	f, err := os.Open(filepath.Join(u.dir, file))
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	require.NoError(u.t, err)
	defer func() { _ = f.Close() }() // only read
	text, err := io.ReadAll(io.NewSectionReader(f, c.offset, 1<<40))
	require.NoError(u.t, err)
	c.offset += int64(len(text))
	c.lines += bytes.Count(text, []byte("{"))
	return c.lines
}

// await waits until a file has so many lines more.
func (u *queueUser) await(file string, more int) {
	u.t.Helper()
	n := u.lines(file) + more
	testkit.WaitFor(u.t, arriveTimeout, fmt.Sprintf("%d lines in %q", n, file), func(context.Context) error {
		if got := u.lines(file); got < n {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
}

// finish lets the process deliver everything, ends it, and returns what it has sent.
func (u *queueUser) finish() []*record {
	u.t.Helper()
	require.NoError(u.t, os.WriteFile(filepath.Join(u.dir, stopFile), nil, 0o600))
	records := u.awaitAllSent()
	require.Equal(u.t, 0, u.Stop())
	return records
}

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
	user := newQueueUser(t, up.api)
	user.Launch()
	const kills = 10
	for kill := range kills {
		user.await(enqueuedFile, 1+choose.IntN(400))
		switch kill % 5 {
		case 0, 1: // the client alone
			user.Kill9()
			user.Launch()
		case 2: // the server, and the client while it is away
			up.Kill9()
			user.await(enqueuedFile, 100)
			user.Kill9()
			user.Launch()
			user.await(enqueuedFile, 100)
			up.Start()
		case 3: // the client, soon after its start
			user.killSoon(choose)
		case 4: // an orderly end
			require.Equal(t, 0, user.Stop())
			user.Launch()
		}
		user.await(sentFile, 1) // it continues
	}
	records := user.finish()
	verify(t, table, records)
	audit(t, "nats://"+up.nats)
	t.Logf("%d sends in %d channels", len(records), queueChannels)
}

// killSoon kills the process, and the one that follows it at some time in its first moments.
func (u *queueUser) killSoon(choose *rand.Rand) {
	u.t.Helper()
	u.Kill9()
	u.Launch()
	soon := time.NewTimer(time.Duration(choose.IntN(100)) * time.Millisecond)
	<-soon.C
	u.Kill9()
	u.Launch()
}

// awaitForgotten waits until the server, which has one partition, has forgotten all client_msg_no that it knows now. A send that is not stored is
// repeated until it is no repetition any more; what it costs are records of the write-ahead log, which the window's clock needs to advance.
func awaitForgotten(t *testing.T, up *node) {
	t.Helper()
	c, err := client.New(client.Config{URL: "http://" + up.api})
	require.NoError(t, err)
	defer c.Close()
	marker := client.Send{
		ClientMsgNo: fmt.Sprint("marker-", time.Now().UnixNano()), FromUID: "marker", ChannelID: "marker", ChannelType: client.ChannelGroup,
		Payload: []byte("marker"), NoPersist: true,
	}
	_, err = c.Send(t.Context(), marker)
	require.NoError(t, err)
	testkit.WaitFor(t, arriveTimeout, "the server to forget a client_msg_no", func(ctx context.Context) error {
		r, err := c.Send(ctx, marker)
		if err == nil && r.Replayed {
			err = errors.New("it knows it")
		}
		return err
	})
}

// awaitAllSent waits until every send that was enqueued has been reported as sent, and makes the records of them. The server said the same of
// a send each time that it was asked.
func (u *queueUser) awaitAllSent() (records []*record) {
	t := u.t
	t.Helper()
	type key struct{ channel, n int }
	sent := make(map[key]*record)
	testkit.WaitFor(t, answeredTimeout, "everything to be sent", func(context.Context) error {
		clear(sent)
		lines, err := readLines(filepath.Join(u.dir, sentFile))
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
		if lines, err = readLines(filepath.Join(u.dir, enqueuedFile)); err != nil {
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
