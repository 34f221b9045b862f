package replay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	replays "github.com/sendhouse/sendhouse/pkg/replay"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
	"github.com/sendhouse/sendhouse/writer/replay"
)

var engine *enginetest.Engine

func TestMain(m *testing.M) {
	os.Exit(enginetest.Main(m, func(e *enginetest.Engine) { engine = e }))
}

const messages = 2000

// small makes batches of 300.
type small struct {
	*replay.Sink
	dieAt int // batch, taken and not acknowledged; 0: never
}

var errCrash = errors.New("crash")

func (s *small) BatchMax() int { return 300 }

func (s *small) Put(ctx context.Context, batch []messagelog.Entry) (uint64, error) {
	mark, err := s.Sink.Put(ctx, batch)
	if s.dieAt--; s.dieAt == 0 {
		return 0, errCrash
	}
	return mark, err
}

func publish(t *testing.T) jetstream.JetStream {
	t.Helper()
	js := testkit.StartDeployment(t, 1).JetStream
	clock, err := message.NewIDClock(0, 0)
	require.NoError(t, err)
	for n := 1; n <= messages; n++ {
		encoded, err := (&message.Send{ChannelId: "c", ChannelType: 2, FromUid: "u", ClientMsgNo: fmt.Sprint(n), Payload: []byte("hi")}).MarshalVT()
		require.NoError(t, err)
		encoded = message.AppendMessage(nil, encoded, message.Identity{ID: clock.Next(time.Now().UnixMilli()), Seq: uint64(n), WALSeq: uint64(n)})
		if n == 777 {
			encoded = []byte("no message")
		}
		_, err = js.PublishAsync(topology.MessagesSubject(0), testkit.MessageBatch(uint64(n), encoded), jetstream.WithStallWait(time.Minute))
		require.NoError(t, err)
	}
	<-js.PublishAsyncComplete()
	return js
}

// Each message is there once, however often the replay dies and whatever the table had before.
func TestFillsATable(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	js := publish(t)
	log := slog.New(slog.DiscardHandler)
	client, err := clickhouse.Open(clickhouse.Config{ClickHouseDSN: engine.DSN(t)}, log)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	count := func() (rows, different uint64) {
		require.NoError(t, client.Conn().QueryRow(ctx, "SELECT count(), uniqExact(partition_seq) FROM "+client.Database()+".messages").Scan(&rows, &different))
		return rows, different
	}
	run := func(dieAt int, cfg replays.Config) (*replay.Sink, error) {
		sink, err := replay.New(ctx, js, client, false, log)
		require.NoError(t, err)
		_, err = replays.Run(ctx, cfg, replays.NewMessageLog(js), 1, &small{sink, dieAt}, io.Discard)
		return sink, err
	}
	cfg := replays.Config{State: filepath.Join(t.TempDir(), "state")}
	_, err = run(1, cfg)
	require.ErrorIs(t, err, errCrash)
	require.NoError(t, client.Conn().Exec(ctx, "SYSTEM STOP MERGES "+client.Database()+".messages"))
	_, err = run(2, cfg)
	require.ErrorIs(t, err, errCrash)
	sink, err := run(0, cfg)
	require.NoError(t, err)
	require.EqualValues(t, 1, sink.Skipped())
	rows, different := count()
	require.EqualValues(t, messages-1, rows)
	require.Equal(t, rows, different)

	// Again, from the start and into the same table: there is nothing to do.
	sink, err = run(0, replays.Config{})
	require.NoError(t, err)
	require.Zero(t, sink.Inserted())
	rows, _ = count()
	require.EqualValues(t, messages-1, rows)
}
