package checkpoint

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

const patience = 20 * time.Second

// harness is a broker with the streams and buckets of a deployment of one partition.
type harness struct {
	t          testing.TB
	ctx        context.Context
	nc         *nats.Conn
	js         jetstream.JetStream
	deployment *testkit.Deployment
}

func setup(t testing.TB) *harness {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	d := testkit.StartDeployment(t, 1)
	return &harness{t: t, ctx: ctx, nc: d.NATS, js: d.JetStream, deployment: d}
}

func (h *harness) checkpoints() *Store {
	h.t.Helper()
	store, err := Open(h.ctx, h.js, 0)
	require.NoError(h.t, err)
	return store
}

// largeBytes is about what the state of largeState takes as a checkpoint: many chunks.
const largeBytes = 5 << 20

func (h *harness) objects() jetstream.ObjectStore {
	h.t.Helper()
	store, err := h.js.ObjectStore(h.ctx, topology.CheckpointBucket)
	require.NoError(h.t, err)
	return store
}

func (h *harness) params() fold.Params {
	return fold.Params{DedupWindow: h.deployment.Deployment.DedupWindow, DedupEntriesMax: h.deployment.Deployment.DedupEntriesMax}
}

func (h *harness) largeState() *fold.State {
	h.t.Helper()
	const perRecord, nameBytes, entryBytes = 1000, 200, 240
	state, err := fold.New(h.params())
	require.NoError(h.t, err)
	for seq := uint64(1); state.Channels() < largeBytes/entryBytes; seq++ {
		var data []byte
		for i := range perRecord {
			no := strconv.Itoa(int(seq)*perRecord + i)
			data, err = message.AppendSend(data, &message.Send{ChannelId: no + strings.Repeat("c", nameBytes-len(no)), ChannelType: 2, FromUid: "u", ClientMsgNo: no})
			require.NoError(h.t, err)
		}
		_, err = state.Fold(fold.Record{Seq: seq, Time: time.Now(), Data: data}, nil)
		require.NoError(h.t, err)
	}
	return state
}

// saved stores a state as a new owner does.
func (h *harness) saved(state *fold.State) runner.Kept {
	h.t.Helper()
	store := h.checkpoints()
	kept, err := store.Claim(h.ctx)
	require.NoError(h.t, err)
	kept, err = store.Save(h.ctx, state.Snapshot(), time.Now(), kept, nil)
	require.NoError(h.t, err)
	return kept
}

// over opens the checkpoints over another connection, on which no request may take longer than a timeout.
func (h *harness) over(timeout time.Duration, dialer nats.CustomDialer) *Store {
	h.t.Helper()
	nc, err := nats.Connect(h.deployment.Server.URL(), h.deployment.Server.Operator(), nats.SetCustomDialer(dialer))
	require.NoError(h.t, err)
	h.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(timeout))
	require.NoError(h.t, err)
	store, err := Open(h.ctx, js, 0)
	require.NoError(h.t, err)
	return store
}

// slowLink carries at most so much in a tick, and nothing more behind the limit.
type slowLink struct {
	net.Conn
	tick    time.Duration
	limit   int64
	carried *atomic.Int64
	over    context.Context //nolint:containedctx // ends with the test
}

func (l *slowLink) Dial(network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(l.over, network, address)
	return &slowLink{Conn: conn, tick: l.tick, limit: l.limit, carried: l.carried, over: l.over}, err
}

func (l *slowLink) Read(p []byte) (int, error) {
	const tickBytes = 32 << 10
	n, err := l.Conn.Read(p[:min(len(p), tickBytes)])
	if l.carried.Add(int64(n)) > l.limit {
		<-l.over.Done()
	}
	if n > tickBytes/8 { // not the words between
		select {
		case <-time.After(l.tick):
		case <-l.over.Done():
		}
	}
	return n, err
}

// A checkpoint is read back however long it takes as a whole: what has a limit is each of its chunks.
func TestLargeCheckpointIsReadOverASlowNetwork(t *testing.T) {
	t.Parallel()
	h := setup(t)
	state := h.largeState()
	kept := h.saved(state)
	link := &slowLink{tick: 10 * time.Millisecond, limit: 1 << 40, carried: new(atomic.Int64), over: h.ctx}
	const timeout = time.Second
	began := time.Now()
	// Without a deadline, as a partition does it.
	loaded, err := h.over(timeout, link).Load(context.WithoutCancel(h.ctx), kept.Metas[0], h.params())
	require.NoError(t, err)
	require.Equal(t, state.WALSeq(), loaded.WALSeq())
	require.Greater(t, time.Since(began), timeout, "or this shows nothing")
}

// What did not come may be whole: recovery must ask again, and not take another state.
func TestCheckpointThatDoesNotComeIsNotDamaged(t *testing.T) {
	t.Parallel()
	h := setup(t)
	kept := h.saved(h.largeState())
	link := &slowLink{limit: largeBytes / 2, carried: new(atomic.Int64), over: h.ctx}
	_, err := h.over(300*time.Millisecond, link).Load(context.WithoutCancel(h.ctx), kept.Metas[0], h.params())
	require.ErrorContains(t, err, "read checkpoint")
	require.NotErrorIs(t, err, runner.ErrDamaged)

	ctx, stop := context.WithCancel(h.ctx)
	stop()
	_, err = h.checkpoints().Load(ctx, kept.Metas[0], h.params())
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, runner.ErrDamaged)
}

func TestCheckpointThatLacksAChunkIsDamaged(t *testing.T) {
	t.Parallel()
	h := setup(t)
	kept := h.saved(h.largeState())
	store := h.checkpoints()
	chunks := h.chunks()
	require.Len(t, chunks, 1)
	for _, purge := range [][]jetstream.StreamPurgeOpt{
		{jetstream.WithPurgeSubject(chunks[0]), jetstream.WithPurgeKeep(5)},
		{jetstream.WithPurgeSubject(chunks[0])},
	} {
		require.NoError(t, store.stream.Purge(h.ctx, purge...))
		_, err := store.Load(h.ctx, kept.Metas[0], h.params())
		require.ErrorIs(t, err, runner.ErrDamaged)
	}
	for _, description := range []string{`{}`, `{`} {
		_, err := h.js.Publish(h.ctx, metaSubject(kept.Metas[0].Object), []byte(description))
		require.NoError(t, err)
		_, err = store.Load(h.ctx, kept.Metas[0], h.params())
		require.ErrorIs(t, err, runner.ErrDamaged)
	}
	require.Len(t, h.saved(h.largeState()).Metas, 1, "and is swept")
}

// chunks are the subjects of all chunks that are stored.
func (h *harness) chunks() []string {
	h.t.Helper()
	stream, err := h.js.Stream(h.ctx, objectStream)
	require.NoError(h.t, err)
	info, err := stream.Info(h.ctx, jetstream.WithSubjectFilter(chunkPrefix+">"))
	require.NoError(h.t, err)
	var subjects []string
	for subject := range info.State.Subjects {
		subjects = append(subjects, subject)
	}
	return subjects
}

// A stream that is slow to acknowledge is sent no more than it can take, and given time.
func TestChunksWaitForThoseBeforeThem(t *testing.T) {
	t.Parallel()
	server := testkit.StartNATS(t, testkit.NATSOptions{})
	nc, err := nats.Connect(server.URL)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	slow, err := nc.SubscribeSync("$O." + topology.CheckpointBucket + ".>") // stands for the stream
	require.NoError(t, err)
	object, err := newObjectWriter(t.Context(), nc, "p0.1.a")
	require.NoError(t, err)
	defer object.close()
	const chunks = 3*chunksInFlightMax + 1 // the last of one byte
	done := make(chan error, 1)
	go func() {
		_, err := object.Write(make([]byte, (chunks-1)*chunkBytes+1))
		if err == nil {
			err = object.finish()
		}
		done <- err
	}()

	var held []*nats.Msg
	for range chunksInFlightMax {
		m, err := slow.NextMsg(patience)
		require.NoError(t, err)
		held = append(held, m)
	}
	_, err = slow.NextMsg(200 * time.Millisecond)
	require.ErrorIs(t, err, nats.ErrTimeout, "more than %d chunks in flight", chunksInFlightMax)
	for seq := 1; seq <= chunks+1; seq++ { // the chunks, and the object's description
		if len(held) == 0 {
			m, err := slow.NextMsg(patience)
			require.NoError(t, err)
			held = append(held, m)
		}
		require.Equal(t, seq > chunks, strings.HasPrefix(held[0].Subject, metaPrefix), "message %d: the description comes last", seq)
		require.NoError(t, held[0].Respond(fmt.Appendf(nil, `{"stream":%q,"seq":%d}`, objectStream, seq)))
		held = held[1:]
	}
	require.NoError(t, <-done)
}

func TestChunkThatIsNotStoredFailsTheObject(t *testing.T) {
	t.Parallel()
	server := testkit.StartNATS(t, testkit.NATSOptions{})
	nc, err := nats.Connect(server.URL)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	object, err := newObjectWriter(t.Context(), nc, "p0.1.a")
	require.NoError(t, err)
	defer object.close()
	_, err = object.Write([]byte("checkpoint"))
	require.NoError(t, err)
	require.ErrorContains(t, object.finish(), "store chunk 1", "nobody takes it")

	slow, err := nc.SubscribeSync(chunkPrefix + ">")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	object, err = newObjectWriter(ctx, nc, "p0.1.a")
	require.NoError(t, err)
	defer object.close()
	go func() {
		if _, err := slow.NextMsg(patience); err == nil {
			stop()
		}
	}()
	_, err = object.Write(make([]byte, 2*chunksInFlightMax*chunkBytes))
	require.ErrorIs(t, err, context.Canceled, "it does not wait for what is in flight")
}

// Chunks of a checkpoint that was cut short, and objects that the pointer does not name, go with the next one.
func TestWhatIsLeftOfACheckpointIsSwept(t *testing.T) {
	t.Parallel()
	h := setup(t)
	state := h.largeState()
	others := []string{
		chunkPrefix + "p1.1.a.other",        // of another partition, which is storing it
		chunkPrefix + "p0.1000000.a.later",  // of a later owner
		chunkPrefix + "TVQXkzFSUyzJNMjW3Af", // who knows
	}
	for _, subject := range others {
		_, err := h.js.Publish(h.ctx, subject, []byte("chunk"))
		require.NoError(t, err)
	}
	chunk, err := h.nc.SubscribeSync(chunkPrefix + "p0.>")
	require.NoError(t, err)

	store := h.checkpoints()
	seen, err := store.Claim(h.ctx)
	require.NoError(t, err)
	ctx, kill := context.WithCancel(h.ctx)
	go func() {
		if _, err := chunk.NextMsg(patience); err == nil {
			kill()
		}
	}()
	_, err = store.Save(ctx, state.Snapshot(), time.Now(), seen, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, h.chunks(), len(others)+1, "or this shows nothing")
	_, err = h.objects().PutBytes(h.ctx, fmt.Sprintf("p0.%d.b", seen.Claim), []byte("as nats.go stores it"))
	require.NoError(t, err)
	require.Len(t, h.chunks(), len(others)+2)

	state, err = fold.New(h.params())
	require.NoError(t, err)
	kept := h.saved(state)
	require.Len(t, h.chunks(), len(others)+1, "the new one's")
	require.Subset(t, h.chunks(), others)
	objects, err := h.objects().List(h.ctx, jetstream.ListObjectsShowDeleted())
	require.NoError(t, err)
	require.Len(t, objects, 1)
	require.Equal(t, kept.Metas[0].Object, objects[0].Name)

	data, err := h.objects().GetBytes(h.ctx, kept.Metas[0].Object)
	require.NoError(t, err, "any client can read it")
	require.Len(t, data, int(kept.Metas[0].Bytes))

	// The kept ones stay, whoever stored them.
	seen, err = store.Claim(h.ctx)
	require.NoError(t, err)
	for range 4 {
		seen, err = store.Save(h.ctx, state.Snapshot(), time.Now(), seen, &seen.Metas[0])
		require.NoError(t, err)
		require.Len(t, seen.Metas, 2)
		for _, meta := range seen.Metas {
			_, err = store.Load(h.ctx, meta, h.params())
			require.NoError(t, err)
		}
		require.LessOrEqual(t, len(h.chunks()), len(others)+3)
	}
}

// A pointer with any one bit flipped is refused, or names the same checkpoints.
func TestFlippedBitOfAPointerIsNoticed(t *testing.T) {
	t.Parallel()
	taken := time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)
	good, err := encodePointer([]runner.CheckpointMeta{
		{Object: "p0.7.a", WALSeq: 20, Output: 19, Bytes: 1234, CRC32C: 0xdeadbeef, TakenAt: taken},
		{Object: "p0.5.b", WALSeq: 10, Output: 9, Bytes: 1230, CRC32C: 0xbeefdead, TakenAt: taken.Add(-time.Minute)},
	})
	require.NoError(t, err)
	want, err := parsePointer(good)
	require.NoError(t, err)
	for i := range good {
		for bit := range 8 {
			flipped := append([]byte(nil), good...)
			flipped[i] ^= 1 << bit
			p, err := parsePointer(flipped)
			if err == nil { // encoding/json reads names without regard to case, and time takes a comma for a point
				require.Equal(t, want, p, "bit %d of byte %d is not noticed: %s", bit, i, flipped)
				continue
			}
			require.ErrorIs(t, err, ErrPointer)
		}
	}
}
