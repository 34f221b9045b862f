package messagelog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

var channel = messagelog.Channel{ID: "c", Type: 2}

// trio is a message log on three servers. They are asked through the last of them, which does not lead it.
type trio struct {
	t       *testing.T
	servers []*testkit.NATSServer
	writes  jetstream.JetStream
	asks    jetstream.JetStream
	log     *messagelog.Log
	written uint64
}

func newTrio(t *testing.T) *trio {
	t.Helper()
	o := &trio{t: t, servers: testkit.StartNATSCluster(t, testkit.NATSOptions{})}
	connect := func(s *testkit.NATSServer) jetstream.JetStream {
		nc, js, err := broker.Connect(t.Context(), broker.Config{URL: s.URL, Name: t.Name(), Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		return js
	}
	o.writes = connect(o.servers[0])
	options := topology.DefaultOptions()
	options.Replicas, options.MessagesBytesMax = 3, 1<<20
	stream, err := o.writes.CreateStream(t.Context(), options.MessagesConfig(0))
	require.NoError(t, err)
	if stream.CachedInfo().Cluster.Leader == o.servers[2].Name {
		slices.Reverse(o.servers)
		o.writes = connect(o.servers[0])
	}
	o.asks = connect(o.servers[2])
	o.log, err = messagelog.Open(t.Context(), o.asks, 0)
	require.NoError(t, err)
	return o
}

// askFollower makes sure that the server that is asked does not lead the stream, as it may after servers were slow.
func (o *trio) askFollower() {
	o.t.Helper()
	testkit.WaitFor(o.t, time.Minute, "another server to lead the stream", func(ctx context.Context) error {
		once, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		stream, err := o.asks.Stream(once, topology.MessagesStream(0))
		if err != nil {
			return err
		}
		switch leader := stream.CachedInfo().Cluster.Leader; leader {
		case o.servers[2].Name:
			_, err := o.asks.Conn().RequestWithContext(once, "$JS.API.STREAM.LEADER.STEPDOWN."+topology.MessagesStream(0), nil)
			return fmt.Errorf("%s leads it: %w", leader, err)
		case "":
			return errors.New("it has no leader")
		}
		return nil
	})
}

// write writes the next message, again where the leader is lost on the way.
func (o *trio) write() {
	o.t.Helper()
	encoded, err := (&message.Message{ChannelId: "c", ChannelType: 2, MessageSeq: o.written + 1}).MarshalVT()
	require.NoError(o.t, err)
	testkit.WaitFor(o.t, time.Minute, "a message to be stored", func(ctx context.Context) error {
		once, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := o.writes.Publish(once, topology.MessagesSubject(0), testkit.MessageBatch(o.written+1, encoded))
		return err
	})
	o.written++
}

// TestAServerThatIsBehind asks a server that has missed the newest messages, as it begins to catch up. What it has itself is
// old then; what comes is the leader's answer.
func TestAServerThatIsBehind(t *testing.T) {
	t.Parallel()
	o := newTrio(t)
	behind, nc, answered := o.servers[2], o.asks.Conn(), 0
	// A server that does not lead takes part in direct gets from two seconds on.
	for begun := time.Now(); time.Since(begun) < 4*time.Second || answered == 0; {
		o.askFollower()
		behind.Pause()
		for range 10 {
			o.write()
		}
		sent, asked := nc.Stats().OutMsgs, make(chan struct{})
		var last uint64
		var err error
		go func() {
			defer close(asked)
			last, err = o.log.LastMessageSeq(t.Context(), channel)
		}()
		testkit.WaitFor(t, time.Minute, "the question to wait for the server", func(context.Context) error {
			if buffered, err := nc.Buffered(); err != nil || buffered > 0 || nc.Stats().OutMsgs == sent {
				return fmt.Errorf("%d bytes are buffered: %w", buffered, err)
			}
			return nil
		})
		behind.Resume()
		<-asked
		if err != nil {
			t.Log("the leader was lost:", err)
			continue
		}
		require.Equal(t, o.written, last)
		answered++
	}
}

// TestLogWithoutLeader: a server that is left alone keeps reporting of the stream what it has itself, which may be old. It
// is not passed off for what the log holds.
func TestLogWithoutLeader(t *testing.T) {
	t.Parallel()
	o := newTrio(t)
	o.write()
	bounds, err := o.log.Bounds(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(1), bounds.Last)
	o.askFollower()
	for _, s := range o.servers[:2] {
		s.Kill9()
	}
	testkit.WaitFor(t, time.Minute, "the last server to notice that there is no leader", func(ctx context.Context) error {
		once, cancel := context.WithTimeout(ctx, time.Second) // before it does, it says nothing
		defer cancel()
		bounds, err := o.log.Bounds(once)
		require.Error(t, err, "%+v", bounds)
		if !strings.Contains(err.Error(), "none of its servers leads it") {
			return err
		}
		return nil
	})
	_, err = o.log.LastMessageSeq(t.Context(), channel)
	require.ErrorContains(t, err, "none of its servers leads it")
}
