package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

const (
	damagePartitions = 2
	// damageSends is how many sends are answered in each of the template's two lives.
	damageSends = 120
)

// What the permissions of the template say.
const (
	closedChannel = "closed" // deniedUID is on its denylist
	deniedUID     = "denied"
	listedChannel = "listed" // has so many subscribers that they are stored in pages; deniedUID is none of them
)

// damageFlags are those of the sequencer, or of the whole. The window is longer than a campaign takes.
func damageFlags() []string {
	return []string{
		fmt.Sprintf("--partitions=%d", damagePartitions), "--dedup-window=24h", "--wal-bytes-max=64MiB", "--messages-bytes-max=64MiB",
		"--sequencer-lease-ttl=2s",
	}
}

func damageIngestFlags() []string {
	return []string{"--ingest-ack-timeout=1s", "--ingest-answer-timeout=3s"}
}

// damageTemplate is the data folder of a deployment that is whole and stopped. Each case works on a copy.
type damageTemplate struct {
	dir     string // as --data-dir has it
	older   string // the same, when only the first half had been sent
	other   string // that of another deployment
	records []*record
	streams map[string]jetstream.StreamConfig
}

// newDamageTemplate makes the template. If aged, the write-ahead logs have been trimmed, which takes a minute.
func newDamageTemplate(t *testing.T, aged bool) *damageTemplate {
	t.Helper()
	root := t.TempDir()
	tp := &damageTemplate{dir: filepath.Join(root, "data"), older: filepath.Join(root, "older"), other: filepath.Join(root, "other")}
	flags := append(damageFlags(), "--writer-lease-ttl=2s", "--checkpoint-interval=30s")
	if !aged {
		flags = append(flags, "--checkpoint-interval=1h") // the write-ahead logs have everything
	}
	other := newUpOn(t, tp.other, flags...)
	other.Launch()
	up := newUpOn(t, tp.dir, flags...)
	up.Start()
	tp.send(t, up, "first-")
	other.WaitReady()
	(&damageTemplate{}).send(t, other, "other-")
	up.awaitCheckpoints(t)
	other.awaitCheckpoints(t)
	require.Equal(t, 0, other.Stop())
	require.Equal(t, 0, up.Stop())
	copyTree(t, tp.dir, tp.older)

	up.Start()
	tp.send(t, up, "second-")
	tp.setPermissions(t, up.api)
	js := jetStreamAt(t, "nats://"+up.nats)
	if aged {
		tp.age(t, up, js)
	}
	tp.putDeadLetter(t, js)
	tp.streams = streamConfigs(t, js)
	require.Equal(t, 0, up.Stop())
	return tp
}

// send sends half of the messages and waits for their rows.
func (tp *damageTemplate) send(t *testing.T, up *node, name string) {
	t.Helper()
	load := startLoad(t, up.api, loadConfig{seed: 1, name: name, clients: 8, payloadBytesMax: 60})
	load.await(damageSends)
	tp.records = append(tp.records, load.finish()...)
	embeddedTable(t, up).await(t, max(len(tp.records), damageSends))
}

func (tp *damageTemplate) setPermissions(t *testing.T, api string) {
	t.Helper()
	uids := make([]string, 3000)
	for i := range uids {
		uids[i] = fmt.Sprint("member-", i)
	}
	members, err := json.Marshal(uids)
	require.NoError(t, err)
	for _, request := range [][2]string{
		{"/channel", fmt.Sprintf(`{"channel_id":%q,"channel_type":3,"subscribers":[]}`, closedChannel)},
		{"/channel/blacklist_add", fmt.Sprintf(`{"channel_id":%q,"channel_type":3,"uids":[%q]}`, closedChannel, deniedUID)},
		{"/channel", fmt.Sprintf(`{"channel_id":%q,"channel_type":2,"subscribers":%s}`, listedChannel, members)},
	} {
		status, answer, err := change(api, request[0], request[1])
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, answer)
	}
}

// age sends now and then until the write-ahead logs have been trimmed.
func (tp *damageTemplate) age(t *testing.T, up *node, js jetstream.JetStream) {
	t.Helper()
	looks := 0
	testkit.WaitFor(t, 3*time.Minute, "the write-ahead logs to be trimmed", func(ctx context.Context) error {
		if looks++; looks%25 == 0 { // a checkpoint is taken when there is something new
			for partition := range damagePartitions {
				s := damageProbe(partition, fmt.Sprintf("aging-%d-%d", partition, looks))
				if r, outcome := sendOnce(up.api, &s); outcome == "" {
					tp.records = append(tp.records, r)
				}
			}
		}
		for partition := range damagePartitions {
			stream, err := js.Stream(ctx, topology.WALStream(partition))
			if err == nil && stream.CachedInfo().State.FirstSeq == 1 {
				err = fmt.Errorf("that of partition %d is not", partition)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	embeddedTable(t, up).await(t, len(tp.records))
}

func (tp *damageTemplate) putDeadLetter(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	_, err := js.PublishMsg(t.Context(), &nats.Msg{
		Subject: topology.DeadLetterSubject("writer", "refused"), Data: []byte("not a message"),
		Header: nats.Header{deadletter.HeaderError: {"a test"}, deadletter.HeaderStream: {topology.MessagesStream(0)}, deadletter.HeaderPartitionSeq: {"1000000"}},
	})
	require.NoError(t, err)
}

// copyTree copies a folder of regular files.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.CopyFS(to, os.DirFS(from)))
}

func jetStreamAt(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc := connectNATS(t, url, nats.Timeout(askTimeout), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true))
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

func streamConfigs(t *testing.T, js jetstream.JetStream) map[string]jetstream.StreamConfig {
	t.Helper()
	configs := make(map[string]jetstream.StreamConfig)
	lister := js.ListStreams(t.Context())
	for info := range lister.Info() {
		configs[info.Config.Name] = info.Config
	}
	require.NoError(t, lister.Err())
	return configs
}

// withNATS runs the embedded NATS server on a data folder that no process uses.
func withNATS(t *testing.T, dataDir, addr string, do func(js jetstream.JetStream)) {
	t.Helper()
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{
		DataDir: filepath.Join(dataDir, "nats"), Addr: addr, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	defer server.Shutdown()
	nc, err := nats.Connect(server.URL(), server.Operator())
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	do(js)
}
