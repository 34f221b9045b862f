package testkit

import (
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// What a deployment stores at most, and a partition of it.
const (
	deploymentStoreBytesMax = 8 << 30
	walBytesMax             = 64 << 20
	messagesBytesMax        = 256 << 20
)

// Deployment is a NATS server in the test's own process, with the streams and buckets of a deployment, and a
// connection to it. Both end with the test.
type Deployment struct {
	topology.Deployment
	Options   topology.Options
	Server    *broker.Embedded
	NATS      *nats.Conn
	JetStream jetstream.JetStream
}

// StartDeployment sets a deployment up, in a folder of the test's.
func StartDeployment(t testing.TB, partitions int) *Deployment {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	d := &Deployment{Deployment: topology.Deployment{Partitions: partitions}, Options: topology.DefaultOptions()}
	d.Options.WALBytesMax, d.Options.MessagesBytesMax = config.ByteSize(partitions)*walBytesMax, config.ByteSize(partitions)*messagesBytesMax
	d.Options.MessagesAsync = true // as 'sendhouse up' has it
	var err error
	d.Server, err = broker.StartEmbedded(broker.EmbeddedConfig{DataDir: t.TempDir(), Addr: loopback(0), StoreBytesMax: deploymentStoreBytesMax, Logger: log})
	require.NoError(t, err)
	t.Cleanup(d.Server.Shutdown)
	d.NATS, d.JetStream, err = broker.Connect(t.Context(), broker.Config{URL: d.Server.URL(), Options: []nats.Option{d.Server.Operator()}, Name: t.Name(), Logger: log})
	require.NoError(t, err)
	t.Cleanup(d.NATS.Close)
	d.Ensure(t)
	return d
}

// Ensure makes what the deployment lacks, such as a stream that a test has deleted: empty, whatever was lost with it.
func (d *Deployment) Ensure(t testing.TB) {
	t.Helper()
	wanted, err := d.Options.StreamConfigs(d.Deployment)
	for _, want := range wanted {
		if d.ID != "" && err == nil {
			err = broker.Recreate(t.Context(), d.JetStream, d.Deployment, d.Options, want.Name)
		}
	}
	require.NoError(t, err)
	d.Deployment, err = broker.EnsureDeployment(t.Context(), d.JetStream, d.Deployment, d.Options)
	require.NoError(t, err)
}

// MessageBatch is a record of the message log with messages that are encoded, or are meant to be, as the sequencer would make it: first is
// the partition_seq of the first of them.
func MessageBatch(first uint64, encoded ...[]byte) []byte {
	var newest message.ID
	for _, one := range encoded {
		if id, err := message.ViewID(one); err == nil {
			newest = max(newest, id)
		}
	}
	batch := message.AppendBatchHead(nil, first, newest)
	for _, one := range encoded {
		batch = protowire.AppendBytes(protowire.AppendTag(batch, 3, protowire.BytesType), one)
	}
	return batch
}

// EmptyMessageBatch is a record of the message log without a message, as a group commit of nothing but duplicates makes it: next is the
// partition_seq of the message that comes next, newest the last ID that was given.
func EmptyMessageBatch(next uint64, newest message.ID) []byte {
	return message.AppendBatchHead(nil, next, newest)
}
