package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

func startEmbedded(t *testing.T, dir string) *broker.Embedded {
	t.Helper()
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{DataDir: dir, Addr: "127.0.0.1:0", StoreBytesMax: 8 << 30, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(server.Shutdown)
	return server
}

func connect(t *testing.T, server *broker.Embedded, options ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, js, err := broker.Connect(t.Context(), broker.Config{URL: server.URL(), Name: "test", Options: append(options, server.Operator()), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc, js
}

func options() topology.Options {
	o := topology.DefaultOptions()
	o.WALBytesMax, o.MessagesBytesMax = 64<<20, 64<<20
	return o
}

func TestDeploymentIsFixedByTheFirst(t *testing.T) {
	t.Parallel()
	_, js := connect(t, startEmbedded(t, t.TempDir()))
	first, err := broker.EnsureDeployment(t.Context(), js, topology.Deployment{Partitions: 2}, options())
	require.NoError(t, err)
	require.Equal(t, 2, first.Partitions)

	again, err := broker.EnsureDeployment(t.Context(), js, topology.Deployment{}, options())
	require.NoError(t, err)
	require.Equal(t, first, again)

	_, err = broker.EnsureDeployment(t.Context(), js, topology.Deployment{Partitions: 3}, options())
	require.ErrorContains(t, err, "partitions: recorded 2, configured 3")
	_, err = js.Stream(t.Context(), topology.WALStream(2))
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound, "a refused start leaves nothing behind")
}

// TestStreamIsNotCut: what the streams hold is not dropped because they are given less room than before.
func TestStreamIsNotCut(t *testing.T) {
	t.Parallel()
	_, js := connect(t, startEmbedded(t, t.TempDir()))
	o := options()
	deployment, err := broker.EnsureDeployment(t.Context(), js, topology.Deployment{Partitions: 2}, o)
	require.NoError(t, err)
	subject := topology.MessagesSubject(1)
	for range 3 {
		_, err := js.Publish(t.Context(), subject, make([]byte, 400<<10))
		require.NoError(t, err)
	}

	o.MessagesBytesMax = 2 << 20
	_, err = broker.EnsureDeployment(t.Context(), js, topology.Deployment{}, o)
	require.ErrorIs(t, err, broker.ErrStreamDiffers)
	require.ErrorContains(t, err, "MESSAGES_1")
	require.ErrorContains(t, err, "--messages-bytes-max")
	stream, err := js.Stream(t.Context(), topology.MessagesStream(1))
	require.NoError(t, err)
	require.EqualValues(t, 3, stream.CachedInfo().State.Msgs)

	o.MessagesBytesMax = 4 << 20 // holds what there is
	again, err := broker.EnsureDeployment(t.Context(), js, topology.Deployment{}, o)
	require.NoError(t, err)
	require.Equal(t, deployment, again)
	stream, err = js.Stream(t.Context(), topology.MessagesStream(1))
	require.NoError(t, err)
	require.EqualValues(t, 2<<20, stream.CachedInfo().Config.MaxBytes)
}

// TestMessagesAreNotDroppedForTheirAge: nor for a flag that was left out.
func TestMessagesAreNotDroppedForTheirAge(t *testing.T) {
	t.Parallel()
	_, js := connect(t, startEmbedded(t, t.TempDir()))
	o := options()
	ensure := func(age time.Duration) error {
		want := o.MessagesConfig(0)
		want.MaxAge, want.Duplicates = age, 100*time.Millisecond
		_, err := broker.EnsureStream(t.Context(), js, want)
		return err
	}
	require.NoError(t, ensure(time.Hour))
	require.NoError(t, ensure(time.Second), "it is empty")
	require.NoError(t, ensure(time.Hour))
	_, err := js.Publish(t.Context(), topology.MessagesSubject(0), []byte("x"))
	require.NoError(t, err)
	require.NoError(t, ensure(time.Minute), "nothing is as old")
	testkit.WaitFor(t, time.Minute, "the message to be older than what is asked for", func(context.Context) error {
		if err := ensure(200 * time.Millisecond); !errors.Is(err, broker.ErrStreamDiffers) {
			require.NoError(t, ensure(time.Minute))
			return fmt.Errorf("not refused: %w", err)
		}
		return nil
	})
	stream, err := js.Stream(t.Context(), topology.MessagesStream(0))
	require.NoError(t, err)
	require.Equal(t, time.Minute, stream.CachedInfo().Config.MaxAge)
	require.EqualValues(t, 1, stream.CachedInfo().State.Msgs)
}

// TestCopiesAreNotTakenAway: a start without --replicas changes nothing of a deployment that has three of each.
func TestCopiesAreNotTakenAway(t *testing.T) {
	t.Parallel()
	servers := testkit.StartNATSCluster(t, testkit.NATSOptions{})
	nc, js, err := broker.Connect(t.Context(), broker.Config{URL: servers[0].URL, Name: "test", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	replicated := options()
	replicated.Replicas = 3
	_, err = broker.EnsureDeployment(t.Context(), js, topology.Deployment{Partitions: 1}, replicated)
	require.NoError(t, err)
	copies := func() map[string]int {
		all := make(map[string]int)
		lister := js.ListStreams(t.Context())
		for info := range lister.Info() {
			all[info.Config.Name] = info.Config.Replicas
		}
		require.NoError(t, lister.Err())
		return all
	}
	before := copies()
	require.Len(t, before, 8)
	_, err = broker.EnsureDeployment(t.Context(), js, topology.Deployment{}, options())
	require.ErrorIs(t, err, broker.ErrStreamDiffers)
	require.ErrorContains(t, err, "say --replicas 3")
	require.Equal(t, before, copies())

	// The logs alone are reason enough, and nothing is changed before all have been looked at.
	for name := range before {
		if kind, _, ok := topology.KindOf(name); !ok || kind != "messages" {
			stream, err := js.Stream(t.Context(), name)
			require.NoError(t, err)
			cfg := stream.CachedInfo().Config
			cfg.Replicas = 1
			_, err = js.UpdateStream(t.Context(), cfg)
			require.NoError(t, err)
		}
	}
	before = copies()
	_, err = broker.EnsureDeployment(t.Context(), js, topology.Deployment{}, options())
	require.ErrorIs(t, err, broker.ErrStreamDiffers)
	require.Equal(t, before, copies())
}

// TestRefusedLoginsAreNotTheEnd: NATS comes up with other users than it should for a while.
func TestRefusedLoginsAreNotTheEnd(t *testing.T) {
	t.Parallel()
	start := func(port int, password string) *server.Server {
		s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, Username: "u", Password: password, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
		require.NoError(t, err)
		s.Start()
		require.True(t, s.ReadyForConnections(30*time.Second))
		t.Cleanup(s.Shutdown)
		return s
	}
	s := start(server.RANDOM_PORT, "right")
	port := s.Addr().(*net.TCPAddr).Port
	nc, _, err := broker.Connect(t.Context(), broker.Config{URL: s.ClientURL(), Name: "test", Options: []nats.Option{nats.UserInfo("u", "right")}, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	s.Shutdown()
	s.WaitForShutdown()
	s = start(port, "wrong")
	testkit.WaitFor(t, time.Minute, "three logins to be refused", func(context.Context) error {
		if varz, err := s.Varz(nil); err != nil || varz.TotalConnections < 3 {
			return fmt.Errorf("not yet: %w", err)
		}
		return nil
	})
	s.Shutdown()
	s.WaitForShutdown()
	start(port, "right")
	testkit.WaitFor(t, time.Minute, "the connection to be there again", func(context.Context) error {
		if !nc.IsConnected() {
			return fmt.Errorf("it is %s", nc.Status())
		}
		return nil
	})
}

func TestAStreamThatDoesNotFitIsNamed(t *testing.T) {
	t.Parallel()
	_, js := connect(t, startEmbedded(t, t.TempDir()))
	o := options()
	_, err := broker.EnsureStream(t.Context(), js, o.MessagesConfig(0))
	require.NoError(t, err)
	o.MessagesBytesMax = 1 << 40
	for what, partition := range map[string]int{"made larger": 0, "made": 1} {
		_, err = broker.EnsureStream(t.Context(), js, o.MessagesConfig(partition))
		require.ErrorContains(t, err, topology.MessagesStream(partition)+" wants", what)
		require.ErrorContains(t, err, "--messages-bytes-max", what)
	}
}

func TestDamagedParametersAreRefused(t *testing.T) {
	t.Parallel()
	_, js := connect(t, startEmbedded(t, t.TempDir()))
	_, err := broker.EnsureDeployment(t.Context(), js, topology.Deployment{Partitions: 1}, options())
	require.NoError(t, err)
	kv, err := js.KeyValue(t.Context(), topology.DeploymentBucket)
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), "deployment", []byte(`{}`))
	require.NoError(t, err)
	_, err = broker.EnsureDeployment(t.Context(), js, topology.Deployment{}, options())
	require.ErrorContains(t, err, "damaged")
}

// TestLogsOfAnotherFormAreRefused: what is recorded says nothing of a form where each message had a record of its own.
func TestLogsOfAnotherFormAreRefused(t *testing.T) {
	t.Parallel()
	_, js := connect(t, startEmbedded(t, t.TempDir()))
	deployment, err := broker.EnsureDeployment(t.Context(), js, topology.Deployment{Partitions: 1}, options())
	require.NoError(t, err)
	kv, err := js.KeyValue(t.Context(), topology.DeploymentBucket)
	require.NoError(t, err)
	before, err := json.Marshal(deployment)
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), "deployment", before)
	require.NoError(t, err)
	_, err = broker.EnsureDeployment(t.Context(), js, topology.Deployment{}, options())
	require.ErrorIs(t, err, broker.ErrLogForm)
	require.ErrorContains(t, err, "form 0, and this program reads and writes form 2")
	_, err = broker.AwaitDeployment(t.Context(), js, topology.Deployment{})
	require.ErrorIs(t, err, broker.ErrLogForm)
}

func TestStreamIsBroughtToWhatIsWanted(t *testing.T) {
	t.Parallel()
	_, js := connect(t, startEmbedded(t, t.TempDir()))
	o := options()
	o.MessagesAsync = true
	_, err := broker.EnsureStream(t.Context(), js, o.MessagesConfig(0))
	require.NoError(t, err)

	o.MessagesAsync = false // it stays as it was made
	o.MessagesAgeMax = 2 * time.Hour
	stream, err := broker.EnsureStream(t.Context(), js, o.MessagesConfig(0))
	require.NoError(t, err)
	require.Equal(t, 2*time.Hour, stream.CachedInfo().Config.MaxAge)
	require.Equal(t, jetstream.AsyncPersistMode, stream.CachedInfo().Config.PersistMode)

	other := o.MessagesConfig(0)
	other.Storage = jetstream.MemoryStorage
	_, err = broker.EnsureStream(t.Context(), js, other)
	require.ErrorIs(t, err, broker.ErrStreamDiffers)
	require.ErrorContains(t, err, "storage is File, wanted Memory")
}

func TestStoredDataSurvivesAShutdown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := startEmbedded(t, dir)
	nc, js := connect(t, server, server.InProcess())
	_, err := broker.EnsureDeployment(t.Context(), js, topology.Deployment{Partitions: 1}, options())
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), topology.WALSubject(0), []byte("one"))
	require.NoError(t, err)
	require.NoError(t, broker.Drained(t.Context(), nc))
	server.Shutdown()
	server.Shutdown() // twice is harmless

	_, js = connect(t, startEmbedded(t, dir))
	stream, err := js.Stream(t.Context(), topology.WALStream(0))
	require.NoError(t, err)
	require.EqualValues(t, 1, stream.CachedInfo().State.LastSeq)
}

func TestEmbeddedRefusesClearly(t *testing.T) {
	t.Parallel()
	start := func(dir, addr string) error {
		server, err := broker.StartEmbedded(broker.EmbeddedConfig{DataDir: dir, Addr: addr, StoreBytesMax: 1 << 30, Logger: slog.New(slog.DiscardHandler)})
		if err == nil {
			server.Shutdown()
		}
		return err
	}

	used := t.TempDir()
	startEmbedded(t, used)
	require.ErrorContains(t, start(used, "127.0.0.1:0"), "is in use: process "+strconv.Itoa(os.Getpid()))

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	free := t.TempDir()
	require.ErrorContains(t, start(free, taken.Addr().String()), "--nats-addr")
	require.NoError(t, start(free, "127.0.0.1:0"), "the refusal let the folder go")

	file := free + "/file"
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.ErrorContains(t, start(file+"/below", "127.0.0.1:0"), "--data-dir")
	require.ErrorContains(t, start(free, "nonsense"), "nonsense")
}

func TestConnectSaysWhatToLookAt(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, _, err = broker.Connect(ctx, broker.Config{URL: "nats://" + addr, Name: "test", Logger: slog.New(slog.DiscardHandler)})
	require.ErrorContains(t, err, "--nats-url")
}

// The client library's own default would leave a network that is silently lost unnoticed for six minutes.
func TestConnectionAsksOftenWhetherNATSIsThere(t *testing.T) {
	t.Parallel()
	server := startEmbedded(t, t.TempDir())
	unset, _ := connect(t, server)
	require.Equal(t, 5*time.Second, unset.Opts.PingInterval)
	options, err := broker.ClientConfig{PingInterval: time.Second}.Options("ingest")
	require.NoError(t, err)
	set, _ := connect(t, server, options...)
	require.Equal(t, time.Second, set.Opts.PingInterval)
	_, err = broker.ClientConfig{PingInterval: -time.Second}.Options("ingest")
	require.ErrorContains(t, err, "nats-ping-interval")
}

// late is JetStream whose server does not have yet what the deployment bucket holds, for some questions.
type late struct {
	jetstream.JetStream
	questions int
}

func (l *late) KeyValue(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	kv, err := l.JetStream.KeyValue(ctx, bucket)
	return lateBucket{kv, l}, err
}

type lateBucket struct {
	jetstream.KeyValue
	late *late
}

func (b lateBucket) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	if b.late.questions--; b.late.questions >= 0 {
		return nil, jetstream.ErrKeyNotFound
	}
	return b.KeyValue.Get(ctx, key)
}

// A role that starts beside the sequencer may hear from a server that lags that the parameters are not there.
func TestParametersThatAServerDoesNotHaveYet(t *testing.T) {
	t.Parallel()
	_, js := connect(t, startEmbedded(t, t.TempDir()))
	first, err := broker.EnsureDeployment(t.Context(), js, topology.Deployment{Partitions: 2}, options())
	require.NoError(t, err)
	second, err := broker.AwaitDeployment(t.Context(), &late{js, 2}, topology.Deployment{})
	require.NoError(t, err)
	require.Equal(t, first, second)
}

// silent is JetStream that does not answer within its timeout.
type silent struct{ jetstream.JetStream }

func (silent) KeyValue(context.Context, string) (jetstream.KeyValue, error) {
	return nil, context.DeadlineExceeded
}

// Where JetStream is silent to the end, that is said, and not that there is no deployment.
func TestAwaitingTellsSilenceFromNoDeployment(t *testing.T) {
	t.Parallel()
	_, js := connect(t, startEmbedded(t, t.TempDir()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := broker.AwaitDeployment(ctx, js, topology.Deployment{})
	require.ErrorIs(t, err, broker.ErrNoDeployment)

	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = broker.AwaitDeployment(ctx, silent{js}, topology.Deployment{})
	require.NotErrorIs(t, err, broker.ErrNoDeployment)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "deployment parameters")
}

// TestAServerThatIsNotThereYet: when all is started at once, the cluster may not have heard from one of its servers yet when the
// streams are to be made.
func TestAServerThatIsNotThereYet(t *testing.T) {
	t.Parallel()
	servers := testkit.StartNATSCluster(t, testkit.NATSOptions{})
	for _, s := range servers {
		s.Stop()
	}
	for _, s := range servers[:2] {
		s.Launch() // they know the third as a member only
	}
	for _, s := range servers[:2] {
		s.WaitReady()
	}
	nc, js, err := broker.Connect(t.Context(), broker.Config{URL: servers[0].URL, Name: "test", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	refusals := make(chan *nats.Msg, 1000) // whom JetStream answers what
	_, err = nc.ChanSubscribe("$JS.EVENT.ADVISORY.API", refusals)
	require.NoError(t, err)

	replicated := options()
	replicated.Replicas = 3
	ended := make(chan error, 1)
	go func() {
		_, err := broker.EnsureDeployment(t.Context(), js, topology.Deployment{Partitions: 1}, replicated)
		ended <- err
	}()
	for refused := false; !refused; {
		select {
		case m := <-refusals:
			refused = bytes.Contains(m.Data, []byte("no suitable peers for placement"))
		case err := <-ended:
			t.Fatal("ended without the third server: ", err)
		}
	}
	servers[2].Start()
	require.NoError(t, <-ended)
}

// TestAConnectionIsToldOfWhileItIsMadeAnew: the client itself does not answer while it dials, for five seconds at a time over a network
// that swallows everything.
func TestAConnectionIsToldOfWhileItIsMadeAnew(t *testing.T) {
	t.Parallel()
	dialer := &heldDialer{dialing: make(chan struct{}), goOn: make(chan struct{})}
	nc, _ := connect(t, startEmbedded(t, t.TempDir()), nats.SetCustomDialer(dialer))
	goOn := sync.OnceFunc(func() { close(dialer.goOn) })
	t.Cleanup(goOn) // or the connection could not be closed
	connection := broker.Watch(nc)
	require.True(t, connection.Connected())
	collector := only{broker.ConnectionCollector("test", connection), "sendhouse_nats_connected"}
	require.InDelta(t, 1, testutil.ToFloat64(collector), 0)

	dialer.held.Store(true)
	require.NoError(t, nc.ForceReconnect())
	<-dialer.dialing
	answered := make(chan bool)
	go func() {
		standing := connection.Connected()
		answered <- standing || testutil.ToFloat64(collector) != 0
	}()
	select {
	case standing := <-answered:
		require.False(t, standing)
	case <-time.After(30 * time.Second):
		require.Fail(t, "no answer while the client dials")
	}
	dialer.held.Store(false)
	goOn()
	testkit.WaitFor(t, time.Minute, "the connection to be there again", func(context.Context) error {
		if !connection.Connected() || testutil.ToFloat64(collector) != 1 {
			return errors.New("it does not stand")
		}
		return nil
	})
}

// heldDialer waits before it dials, while it is held.
type heldDialer struct {
	held    atomic.Bool
	dialing chan struct{}
	goOn    chan struct{}
}

func (d *heldDialer) Dial(network, address string) (net.Conn, error) {
	if d.held.Load() {
		d.dialing <- struct{}{}
		<-d.goOn
	}
	return (&net.Dialer{}).DialContext(context.Background(), network, address)
}

// only is one metric of a collector.
type only struct {
	prometheus.Collector
	name string
}

func (o only) Collect(ch chan<- prometheus.Metric) {
	all := make(chan prometheus.Metric, 100)
	o.Collector.Collect(all)
	close(all)
	for m := range all {
		if strings.Contains(m.Desc().String(), `"`+o.name+`"`) {
			ch <- m
		}
	}
}

// TestExplain: what the client says without a connection names the connection, and nothing else is changed.
func TestExplain(t *testing.T) {
	t.Parallel()
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{DataDir: t.TempDir(), Addr: "127.0.0.1:0", StoreBytesMax: 1 << 30, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(server.Shutdown)
	nc, _, err := broker.Connect(t.Context(), broker.Config{URL: server.URL(), Name: "test", Options: []nats.Option{server.Operator()}, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	away := nc.StatusChanged(nats.RECONNECTING)
	server.Shutdown()
	<-away
	err = fmt.Errorf("take the lease: %w", nc.Publish("x", nil))
	require.EqualError(t, broker.Explain(err), "take the lease: not connected to NATS")
	require.ErrorIs(t, broker.Explain(err), nats.ErrReconnectBufExceeded)
	require.NoError(t, broker.Explain(nil))
	require.Equal(t, io.EOF, broker.Explain(io.EOF))
}
