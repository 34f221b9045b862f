package broker_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// cutSetup is a message log of 20 records in which 3 and 11 to 14 are missing.
func cutSetup(t *testing.T) (jetstream.JetStream, jetstream.StreamConfig) {
	t.Helper()
	_, js := connect(t, startEmbedded(t, t.TempDir()))
	config := options().MessagesConfig(0)
	stream, err := js.CreateStream(t.Context(), config)
	require.NoError(t, err)
	for seq := uint64(1); seq <= 20; seq++ {
		appendRecord(t, js, seq)
	}
	for _, seq := range []uint64{3, 11, 12, 13, 14} {
		require.NoError(t, stream.DeleteMsg(t.Context(), seq))
	}
	return js, config
}

// appendRecord adds a record on the condition that it gets this sequence.
func appendRecord(t *testing.T, js jetstream.JetStream, seq uint64) {
	t.Helper()
	ack, err := js.Publish(t.Context(), topology.MessagesSubject(0), recordData(seq), jetstream.WithExpectLastSequence(seq-1))
	require.NoError(t, err)
	require.Equal(t, seq, ack.Sequence)
}

func recordData(seq uint64) []byte { return []byte("record " + strconv.FormatUint(seq, 10)) }

func records(t *testing.T, js jetstream.JetStream) map[uint64]time.Time {
	t.Helper()
	stream, err := js.Stream(t.Context(), topology.MessagesStream(0))
	require.NoError(t, err)
	state := stream.CachedInfo().State
	found := make(map[uint64]time.Time)
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		m, err := broker.RecordAt(t.Context(), js, topology.MessagesStream(0), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		require.NoError(t, err)
		require.Equal(t, string(recordData(seq)), string(m.Data))
		found[seq] = m.Time
	}
	require.Len(t, found, int(state.Msgs))
	return found
}

// requireCut asserts that the log is as it was up to record 10, with the old hole, the old times, the old settings and its
// consumers, and can be continued at 11.
func requireCut(t *testing.T, js jetstream.JetStream, config jetstream.StreamConfig, before map[uint64]time.Time) {
	t.Helper()
	for seq := range before {
		if seq > 10 {
			delete(before, seq)
		}
	}
	require.Equal(t, before, records(t, js))
	_, err := js.Stream(t.Context(), broker.CutName(config.Name))
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
	for seq := uint64(11); seq <= 20; seq++ {
		appendRecord(t, js, seq)
	}
	stream, err := js.Stream(t.Context(), config.Name)
	require.NoError(t, err)
	have := stream.CachedInfo().Config
	require.Equal(t, config.Subjects, have.Subjects)
	require.Equal(t, jetstream.DefaultPersistMode, have.PersistMode)
	require.Equal(t, config.MaxAge, have.MaxAge)
	require.Equal(t, config.MaxBytes, have.MaxBytes)
	require.Nil(t, have.Mirror)
}

func TestCutStreamKeepsTheFront(t *testing.T) {
	t.Parallel()
	js, config := cutSetup(t)
	before := records(t, js)
	consumer, err := js.CreateConsumer(t.Context(), config.Name, jetstream.ConsumerConfig{Durable: "reader", AckPolicy: jetstream.AckExplicitPolicy})
	require.NoError(t, err)
	for range 6 { // acknowledged are 1, 2, 4, 5, 6, 7
		m, err := consumer.Next()
		require.NoError(t, err)
		require.NoError(t, m.DoubleAck(t.Context()))
	}

	require.NoError(t, broker.CutStream(t.Context(), js, config.Name, 10))
	requireCut(t, js, config, before)

	consumer, err = js.Consumer(t.Context(), config.Name, "reader")
	require.NoError(t, err)
	for seq := uint64(8); seq <= 20; seq++ {
		m, err := consumer.Next()
		require.NoError(t, err)
		require.Equal(t, string(recordData(seq)), string(m.Data()))
	}
}

func TestCutStreamKeepsNothing(t *testing.T) {
	t.Parallel()
	js, config := cutSetup(t)
	stream, err := js.Stream(t.Context(), config.Name)
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeSequence(11))) // the first record is 15 now
	require.NoError(t, broker.CutStream(t.Context(), js, config.Name, 10))
	requireCut(t, js, config, map[uint64]time.Time{})
}

// dyingJetStream fails at a step: each change of a stream is one before it is carried out and one after.
type dyingJetStream struct {
	jetstream.JetStream
	left int
}

var errDied = errors.New("died")

func (d *dyingJetStream) step() error {
	if d.left--; d.left < 0 {
		return errDied
	}
	return nil
}

func (d *dyingJetStream) change(do func() (jetstream.Stream, error)) (jetstream.Stream, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	stream, err := do()
	if died := d.step(); died != nil {
		return nil, died
	}
	return stream, err
}

func (d *dyingJetStream) CreateStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	return d.change(func() (jetstream.Stream, error) { return d.JetStream.CreateStream(ctx, c) })
}

func (d *dyingJetStream) UpdateStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	return d.change(func() (jetstream.Stream, error) { return d.JetStream.UpdateStream(ctx, c) })
}

func (d *dyingJetStream) DeleteStream(ctx context.Context, name string) error {
	_, err := d.change(func() (jetstream.Stream, error) { return nil, d.JetStream.DeleteStream(ctx, name) })
	return err
}

// TestCutStreamDiesAtAnyStep: the next process finishes what was begun, or finds the stream as it was and cuts it again.
func TestCutStreamDiesAtAnyStep(t *testing.T) {
	t.Parallel()
	for step := 0; ; step++ {
		js, config := cutSetup(t)
		before := records(t, js)
		err := broker.CutStream(t.Context(), &dyingJetStream{js, step}, config.Name, 10)
		if err == nil {
			require.Greater(t, step, 12)
			break
		}
		require.ErrorIs(t, err, errDied)
		require.NoError(t, broker.ResumeCut(t.Context(), js, config.Name))
		stream, err := js.Stream(t.Context(), config.Name)
		require.NoError(t, err, "step %d", step)
		if stream.CachedInfo().State.LastSeq > 10 {
			require.NoError(t, broker.CutStream(t.Context(), js, config.Name, 10))
		}
		requireCut(t, js, config, before)
	}
}
