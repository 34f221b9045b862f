package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// made is a deployment of two partitions that has taken a send in each.
func made(t *testing.T) (jetstream.JetStream, topology.Deployment) {
	t.Helper()
	server := startEmbedded(t, t.TempDir())
	_, js := connect(t, server, server.InProcess())
	deployment, err := broker.EnsureDeployment(t.Context(), js, topology.Deployment{Partitions: 2}, options())
	require.NoError(t, err)
	for p := range deployment.Partitions {
		for _, subject := range []string{topology.WALSubject(p), topology.MessagesSubject(p)} {
			_, err := js.Publish(t.Context(), subject, []byte("x"))
			require.NoError(t, err)
		}
	}
	return js, deployment
}

// again starts the deployment, and returns what was logged.
func again(t *testing.T, js jetstream.JetStream) (topology.Deployment, string, error) {
	t.Helper()
	var log bytes.Buffer
	d, err := broker.Setup{JetStream: js, Options: options(), Logger: slog.New(slog.NewTextHandler(&log, nil))}.Ensure(t.Context())
	return d, log.String(), err
}

func recordOf(t *testing.T, js jetstream.JetStream) (jetstream.KeyValue, []byte) {
	t.Helper()
	kv, err := js.KeyValue(t.Context(), topology.DeploymentBucket)
	require.NoError(t, err)
	entry, err := kv.Get(t.Context(), "deployment")
	require.NoError(t, err)
	return kv, entry.Value()
}

func streamNames(t *testing.T, js jetstream.JetStream) (names []string) {
	t.Helper()
	lister := js.StreamNames(t.Context())
	for name := range lister.Name() {
		names = append(names, name)
	}
	require.NoError(t, lister.Err())
	return names
}

func TestEveryStreamCarriesTheIdentity(t *testing.T) {
	t.Parallel()
	js, deployment := made(t)
	require.Len(t, deployment.ID, 36)
	names := streamNames(t, js)
	require.Len(t, names, 10)
	for _, name := range names {
		stream, err := js.Stream(t.Context(), name)
		require.NoError(t, err)
		said, err := topology.ParseMetadata(stream.CachedInfo().Config.Metadata)
		require.NoError(t, err, name)
		require.Equal(t, deployment, said, name)
	}
	same, log, err := again(t, js)
	require.NoError(t, err)
	require.Equal(t, deployment, same)
	require.Empty(t, log, "a healthy start has nothing to report")
	awaited, err := broker.AwaitDeployment(t.Context(), js, topology.Deployment{})
	require.NoError(t, err)
	require.Equal(t, deployment, awaited)
}

func TestALostRecordIsNoFirstStart(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*testing.T, jetstream.JetStream){
		"bucket deleted": func(t *testing.T, js jetstream.JetStream) {
			require.NoError(t, js.DeleteKeyValue(t.Context(), topology.DeploymentBucket))
		},
		"key deleted": func(t *testing.T, js jetstream.JetStream) {
			kv, _ := recordOf(t, js)
			require.NoError(t, kv.Delete(t.Context(), "deployment"))
		},
		"bucket purged": func(t *testing.T, js jetstream.JetStream) {
			stream, err := js.Stream(t.Context(), "KV_"+topology.DeploymentBucket)
			require.NoError(t, err)
			require.NoError(t, stream.Purge(t.Context()))
		},
		"expired by a limit": func(t *testing.T, js jetstream.JetStream) {
			stream, err := js.Stream(t.Context(), "KV_"+topology.DeploymentBucket)
			require.NoError(t, err)
			cfg := stream.CachedInfo().Config
			cfg.MaxAge, cfg.Duplicates = 100*time.Millisecond, 100*time.Millisecond
			_, err = js.UpdateStream(t.Context(), cfg)
			require.NoError(t, err)
			testkit.WaitFor(t, patience, "the record to expire", func(ctx context.Context) error {
				info, err := stream.Info(ctx)
				if err == nil && info.State.Msgs > 0 {
					err = errors.New("it is there")
				}
				return err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js, deployment := made(t)
			lose(t, js)
			before := streamNames(t, js)
			_, _, err := again(t, js)
			require.ErrorIs(t, err, broker.ErrRecordLost)
			require.ErrorContains(t, err, "SENDS_0, SENDS_1")
			require.ErrorContains(t, err, "sendhouse repair deployment")
			require.Equal(t, before, streamNames(t, js), "a refused start leaves nothing behind")
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, err = broker.AwaitDeployment(ctx, js, topology.Deployment{})
			require.ErrorIs(t, err, broker.ErrRecordLost)

			requireRepaired(t, js, deployment)
		})
	}
}

// requireRepaired makes the record again from the streams, twice.
func requireRepaired(t *testing.T, js jetstream.JetStream, deployment topology.Deployment) {
	t.Helper()
	found, err := broker.FindDeployment(t.Context(), js, topology.Deployment{})
	require.NoError(t, err)
	require.Equal(t, deployment, found.Deployment)
	require.False(t, found.Recorded)
	require.NoError(t, found.Record(t.Context(), js))
	require.NoError(t, found.Record(t.Context(), js), "what was found is there now")
	found, err = broker.FindDeployment(t.Context(), js, topology.Deployment{})
	require.NoError(t, err)
	require.True(t, found.Recorded)
	require.NoError(t, found.Record(t.Context(), js))
	same, log, err := again(t, js)
	require.NoError(t, err)
	require.Equal(t, deployment, same)
	require.Empty(t, log)
}

// TestEachBitOfTheRecordCounts: whatever bit flips, the start refuses, and the record is made again as it was.
func TestEachBitOfTheRecordCounts(t *testing.T) {
	t.Parallel()
	js, deployment := made(t)
	kv, right := recordOf(t, js)
	for bit := range len(right) * 8 {
		wrong := bytes.Clone(right)
		wrong[bit/8] ^= 1 << (bit % 8)
		_, err := kv.Put(t.Context(), "deployment", wrong)
		require.NoError(t, err)
		_, err = broker.AwaitDeployment(t.Context(), js, topology.Deployment{})
		require.ErrorIs(t, err, broker.ErrRecordDamaged, "bit %d of %s", bit, wrong)
	}
	_, _, err := again(t, js)
	require.ErrorIs(t, err, broker.ErrRecordDamaged)
	require.ErrorContains(t, err, "sendhouse repair deployment")
	requireRepaired(t, js, deployment)
}

// TestARecordThatContradictsTheStreams: one that is whole, and yet not this deployment's.
func TestARecordThatContradictsTheStreams(t *testing.T) {
	t.Parallel()
	js, deployment := made(t)
	kv, _ := recordOf(t, js)
	other := deployment
	other.DedupEntriesMax++
	value, err := json.Marshal(struct {
		topology.Deployment
		LogForm  int  `json:"log_form"`
		Complete bool `json:"complete"`
	}{other, topology.LogForm, true})
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), "deployment", broker.WithChecksum(value))
	require.NoError(t, err)
	_, _, err = again(t, js)
	require.ErrorIs(t, err, broker.ErrRecordDamaged)
	require.ErrorContains(t, err, "dedup entries")
	requireRepaired(t, js, deployment)
}

// TestWhatIsLostIsNotMadeAgain: a stream without which numbers could be given out twice is left out, and refuses its partition.
func TestWhatIsLostIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		lost    []string
		trimmed bool   // the write-ahead logs
		err     error  // of the start
		said    string // by the log of a start that continues
		made    bool
		refused []int // partitions
	}{
		"a write-ahead log":               {lost: []string{"SENDS_1"}, said: "sendhouse repair wal --partition 1", refused: []int{1}},
		"a message log that can be made":  {lost: []string{"MESSAGES_1"}, said: "derived from it again", made: true},
		"a message log that cannot":       {lost: []string{"MESSAGES_1"}, trimmed: true, said: "sendhouse repair message-log --partition 1", refused: []int{1}},
		"all logs":                        {lost: []string{"SENDS_0", "SENDS_1", "MESSAGES_0", "MESSAGES_1"}, err: broker.ErrLost, refused: []int{0, 1}},
		"the dead letters":                {lost: []string{"DEAD_LETTERS"}, said: "the dead letters", made: true},
		"the positions":                   {lost: []string{"KV_SENDHOUSE_WRITER"}, said: "the writer's positions", made: true},
		"the checkpoints":                 {lost: []string{"OBJ_CHECKPOINTS", "KV_SENDHOUSE_CHECKPOINTS"}, said: "the checkpoints", made: true},
		"the permissions":                 {lost: []string{"KV_SENDHOUSE_PERMISSIONS"}, said: "sendhouse repair permissions"},
		"everything but the record":       {lost: []string{"SENDS_0", "SENDS_1", "MESSAGES_0", "MESSAGES_1", "KV_SENDHOUSE_WRITER", "KV_SENDHOUSE_CHECKPOINTS", "OBJ_CHECKPOINTS", "DEAD_LETTERS", "KV_SENDHOUSE_PERMISSIONS"}, err: broker.ErrLost, refused: []int{0, 1}},
		"everything but the dead letters": {lost: []string{"SENDS_0", "SENDS_1", "MESSAGES_0", "MESSAGES_1", "KV_SENDHOUSE", "KV_SENDHOUSE_WRITER", "KV_SENDHOUSE_CHECKPOINTS", "OBJ_CHECKPOINTS", "KV_SENDHOUSE_PERMISSIONS"}, err: broker.ErrRecordLost, refused: []int{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js, deployment := made(t)
			_, err := js.Publish(t.Context(), "deadletters.writer.data", []byte("x"))
			require.NoError(t, err)
			if row.trimmed {
				for p := range deployment.Partitions {
					_, err := js.Publish(t.Context(), topology.WALSubject(p), []byte("x"))
					require.NoError(t, err)
					stream, err := js.Stream(t.Context(), topology.WALStream(p))
					require.NoError(t, err)
					require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeSequence(2)))
				}
			}
			for _, stream := range row.lost {
				require.NoError(t, js.DeleteStream(t.Context(), stream))
			}
			_, log, err := again(t, js)
			require.ErrorIs(t, err, row.err)
			require.Contains(t, log, row.said)
			names := streamNames(t, js)
			for _, stream := range row.lost {
				require.Equal(t, row.made, slices.Contains(names, stream), stream)
			}
			for p := range deployment.Partitions {
				err := broker.CheckPartition(t.Context(), js, deployment, p)
				require.Equal(t, slices.Contains(row.refused, p), errors.Is(err, broker.ErrLost), "partition %d: %v", p, err)
			}
			if row.err != nil || row.made {
				return
			}
			for _, stream := range row.lost { // whatever is lost with it
				require.NoError(t, broker.Recreate(t.Context(), js, deployment, options(), stream))
			}
			_, log, err = again(t, js)
			require.NoError(t, err)
			require.Empty(t, log)
		})
	}
}

// TestStreamsOfAnotherDeployment: a stream whose metadata name another deployment is refused, and both are named.
func TestStreamsOfAnotherDeployment(t *testing.T) {
	t.Parallel()
	js, deployment := made(t)
	other := deployment
	other.ID = "00000000-0000-4000-8000-000000000000"
	swap := func(name string, to topology.Deployment) {
		stream, err := js.Stream(t.Context(), name)
		require.NoError(t, err)
		cfg := stream.CachedInfo().Config
		cfg.Metadata = to.Metadata()
		_, err = js.UpdateStream(t.Context(), cfg)
		require.NoError(t, err)
	}
	swap("MESSAGES_1", other)
	_, log, err := again(t, js)
	require.NoError(t, err)
	require.Contains(t, log, "MESSAGES_1")
	require.Contains(t, log, "another deployment")
	require.NoError(t, broker.CheckPartition(t.Context(), js, deployment, 0))
	err = broker.CheckPartition(t.Context(), js, deployment, 1)
	require.ErrorIs(t, err, broker.ErrForeign)
	require.ErrorContains(t, err, deployment.ID)
	require.ErrorContains(t, err, other.ID)
	_, err = broker.FindDeployment(t.Context(), js, topology.Deployment{})
	require.ErrorIs(t, err, broker.ErrForeign)

	swap("SENDS_0", other)
	_, _, err = again(t, js)
	require.ErrorIs(t, err, broker.ErrForeign, "no partition is left")

	swap("SENDS_0", deployment)
	swap("MESSAGES_1", deployment)
	swap("KV_SENDHOUSE_WRITER", other)
	_, _, err = again(t, js)
	require.ErrorIs(t, err, broker.ErrForeign)
	require.ErrorContains(t, err, "KV_SENDHOUSE_WRITER")
}

// oldDeployment is what a version without identities has made: the same streams without metadata, and a record without an ID.
func oldDeployment(t *testing.T) (jetstream.JetStream, topology.Deployment) {
	t.Helper()
	server := startEmbedded(t, t.TempDir())
	_, js := connect(t, server, server.InProcess())
	old, err := options().First(topology.Deployment{Partitions: 2})
	require.NoError(t, err)
	o := options()
	for _, bucket := range o.BucketConfigs() {
		_, err := js.CreateOrUpdateKeyValue(t.Context(), bucket)
		require.NoError(t, err)
	}
	kv, err := js.KeyValue(t.Context(), topology.DeploymentBucket)
	require.NoError(t, err)
	_, err = kv.Create(t.Context(), "deployment", fmt.Appendf(nil, `{"partitions":2,"dedup_window_ns":%d,"dedup_entries_max":%d,"log_form":2}`, old.DedupWindow, old.DedupEntriesMax))
	require.NoError(t, err)
	_, err = js.CreateOrUpdateObjectStore(t.Context(), o.CheckpointConfig())
	require.NoError(t, err)
	share, err := o.Share(old)
	require.NoError(t, err)
	streams := []jetstream.StreamConfig{o.DeadLettersConfig()}
	for p := range old.Partitions {
		streams = append(streams, share.WALConfig(p), share.MessagesConfig(p))
	}
	for _, want := range streams {
		_, err := js.CreateStream(t.Context(), want)
		require.NoError(t, err)
	}
	_, err = js.Publish(t.Context(), topology.WALSubject(0), []byte("x"))
	require.NoError(t, err)
	return js, old
}

// TestADeploymentOfBeforeGetsAnIdentity: several processes start at once, and agree.
func TestADeploymentOfBeforeGetsAnIdentity(t *testing.T) {
	t.Parallel()
	js, old := oldDeployment(t)
	awaited, err := broker.AwaitDeployment(t.Context(), js, topology.Deployment{})
	require.NoError(t, err, "its ingest may be updated first")
	require.Equal(t, old, awaited)
	const processes = 5
	got := make([]topology.Deployment, processes)
	var all sync.WaitGroup
	for i := range processes {
		all.Go(func() {
			var err error
			if got[i], err = broker.EnsureDeployment(t.Context(), js, topology.Deployment{}, options()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.NotEmpty(t, got[0].ID)
	for _, d := range got {
		require.Equal(t, got[0], d)
	}
	old.ID = got[0].ID
	require.Equal(t, old, got[0])
	found, err := broker.FindDeployment(t.Context(), js, topology.Deployment{})
	require.NoError(t, err)
	require.True(t, found.Recorded)
	require.Empty(t, found.Silent)
	_, log, err := again(t, js)
	require.NoError(t, err)
	require.Empty(t, log)

	// The record of before, restored alone, is one of this deployment all the same.
	kv, _ := recordOf(t, js)
	_, err = kv.Put(t.Context(), "deployment", fmt.Appendf(nil, `{"partitions":2,"dedup_window_ns":%d,"dedup_entries_max":%d,"log_form":2}`, old.DedupWindow, old.DedupEntriesMax))
	require.NoError(t, err)
	same, log, err := again(t, js)
	require.NoError(t, err)
	require.Equal(t, old, same)
	require.Contains(t, log, "taking that of the streams")
}

// TestTheRecordOfBeforeIsLost: nothing says the parameters, so an operator must.
func TestTheRecordOfBeforeIsLost(t *testing.T) {
	t.Parallel()
	js, old := oldDeployment(t)
	require.NoError(t, js.DeleteKeyValue(t.Context(), topology.DeploymentBucket))
	_, _, err := again(t, js)
	require.ErrorIs(t, err, broker.ErrRecordLost)
	_, err = broker.FindDeployment(t.Context(), js, topology.Deployment{})
	require.ErrorContains(t, err, "--dedup-window")
	_, err = broker.FindDeployment(t.Context(), js, topology.Deployment{Partitions: 1, DedupWindow: old.DedupWindow, DedupEntriesMax: old.DedupEntriesMax})
	require.ErrorContains(t, err, "logs of 2 partitions")
	found, err := broker.FindDeployment(t.Context(), js, topology.Deployment{DedupWindow: old.DedupWindow, DedupEntriesMax: old.DedupEntriesMax})
	require.NoError(t, err)
	require.NoError(t, found.Record(t.Context(), js))
	d, _, err := again(t, js)
	require.NoError(t, err)
	require.Equal(t, found.Deployment, d)
}

// TestAFirstStartThatWasCutShort continues where it was.
func TestAFirstStartThatWasCutShort(t *testing.T) {
	t.Parallel()
	server := startEmbedded(t, t.TempDir())
	_, js := connect(t, server, server.InProcess())
	o := options()
	refused := errors.New("there are rows")
	setup := broker.Setup{JetStream: js, Options: o, BeforeFirst: func(context.Context) error { return refused }}
	_, err := setup.Ensure(t.Context())
	require.ErrorIs(t, err, refused)
	require.Empty(t, streamNames(t, js))

	// Behind the record, before the streams.
	for _, bucket := range o.BucketConfigs() {
		_, err := js.CreateStream(t.Context(), topology.BucketStream(bucket))
		require.NoError(t, err)
	}
	kv, err := js.KeyValue(t.Context(), topology.DeploymentBucket)
	require.NoError(t, err)
	_, err = kv.Create(t.Context(), "deployment", broker.WithChecksum([]byte(`{"id":"00000000-0000-4000-8000-000000000000","partitions":1,"dedup_window_ns":600000000000,"dedup_entries_max":1000,"log_form":2}`)))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = broker.AwaitDeployment(ctx, js, topology.Deployment{})
	require.ErrorContains(t, err, "still setting the deployment up")
	awaited := make(chan error, 1)
	go func() { // a role that starts beside it waits until it is done
		_, err := broker.AwaitDeployment(t.Context(), js, topology.Deployment{})
		awaited <- err
	}()
	d, err := setup.Ensure(t.Context())
	require.NoError(t, err)
	require.NoError(t, <-awaited)
	require.Equal(t, 1, d.Partitions)
	require.Len(t, streamNames(t, js), 8)
}

// TestSettingsChangedByHand are set back, at a start and while a sequencer runs, or are reported with what to do.
func TestSettingsChangedByHand(t *testing.T) {
	t.Parallel()
	change := func(t *testing.T, js jetstream.JetStream, name string, edit func(*jetstream.StreamConfig)) {
		stream, err := js.Stream(t.Context(), name)
		require.NoError(t, err)
		cfg := stream.CachedInfo().Config
		edit(&cfg)
		_, err = js.UpdateStream(t.Context(), cfg)
		require.NoError(t, err)
	}
	for name, row := range map[string]struct {
		stream string
		edit   func(*jetstream.StreamConfig)
		said   string
		lasts  bool // it cannot be set back
		flag   bool // a flag decides it: a start sets it back
	}{
		"max_msgs":             {stream: "SENDS_0", edit: func(c *jetstream.StreamConfig) { c.MaxMsgs = 10 }, said: "max_msgs is 10, wanted -1"},
		"max_msgs_per_subject": {stream: "MESSAGES_1", edit: func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 10 }, said: "max_msgs_per_subject is 10"},
		"history of a bucket":  {stream: "KV_SENDHOUSE_PERMISSIONS", edit: func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 }, said: "max_msgs_per_subject is 5, wanted 1"},
		"max_msg_size":         {stream: "SENDS_1", edit: func(c *jetstream.StreamConfig) { c.MaxMsgSize = 100 }, said: "max_msg_size is 100"},
		"discard":              {stream: "SENDS_0", edit: func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }, said: "discard is DiscardOld, wanted DiscardNew"},
		"retention":            {stream: "MESSAGES_0", edit: func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }, said: "retention is Interest"},
		"subjects":             {stream: "SENDS_0", edit: func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "other") }, said: "subjects is sends.0,other"},
		"a checkpoint's":       {stream: "OBJ_CHECKPOINTS", edit: func(c *jetstream.StreamConfig) { c.MaxMsgs = 1000 }, said: "max_msgs is 1000"},
		"metadata":             {stream: "SENDS_0", edit: func(c *jetstream.StreamConfig) { c.Metadata = nil }},
		"max_age":              {stream: "MESSAGES_0", edit: func(c *jetstream.StreamConfig) { c.MaxAge = 1 << 40 }, said: "max_age", flag: true},
		"max_age of a WAL":     {stream: "SENDS_0", edit: func(c *jetstream.StreamConfig) { c.MaxAge = 1 << 40 }, said: "max_age"},
		"max_age of a bucket":  {stream: "KV_SENDHOUSE", edit: func(c *jetstream.StreamConfig) { c.MaxAge = 1 << 40 }, said: "max_age"},
		"max_bytes of objects": {stream: "OBJ_CHECKPOINTS", edit: func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 }, said: "max_bytes"},
		"max_bytes":            {stream: "SENDS_1", edit: func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 }, said: "nats stream edit SENDS_1 --max-bytes=33554432", flag: true},
		"deny_purge":           {stream: "SENDS_0", edit: func(c *jetstream.StreamConfig) { c.DenyPurge = true }, said: "nats stream backup SENDS_0", lasts: true},
		"sealed":               {stream: "SENDS_1", edit: func(c *jetstream.StreamConfig) { c.Sealed = true }, said: "nats stream restore", lasts: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js, deployment := made(t)
			wanted, err := options().StreamConfigs(deployment)
			require.NoError(t, err)
			reg := prometheus.NewPedanticRegistry()
			log := &lockedBuffer{}
			monitor, err := broker.NewMonitor(js, wanted, reg, slog.New(slog.NewTextHandler(log, nil)))
			require.NoError(t, err)
			change(t, js, row.stream, row.edit)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- monitor.Run(ctx) }()
			bad := 0.0
			if row.lasts || row.flag {
				bad = 1
			}
			testkit.WaitFor(t, patience, "the monitor to have looked", func(context.Context) error {
				value, found := gathered(t, reg, "sendhouse_jetstream_stream_wrong", "stream", row.stream)
				switch {
				case !found:
					return errors.New("not yet")
				case value != bad:
					return fmt.Errorf("it shows %v", value)
				}
				return nil
			})
			cancel()
			require.NoError(t, <-ended)
			require.Contains(t, log.String(), row.said)
			if !row.lasts && !row.flag {
				requireAsWanted(t, js, wanted, row.stream)
				change(t, js, row.stream, row.edit)
			}
			_, said, err := again(t, js)
			require.NoError(t, err)
			if !row.flag {
				require.Contains(t, said, row.said)
			}
			if !row.lasts {
				requireAsWanted(t, js, wanted, row.stream)
			}
		})
	}
}

// TestLeasesAreWatched: so are the settings of the buckets of leases, which need not be there.
func TestLeasesAreWatched(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		edit  func(*jetstream.StreamConfig)
		lasts bool
	}{
		"max_age":      {edit: func(c *jetstream.StreamConfig) { c.MaxAge, c.Duplicates = 100*time.Millisecond, 100*time.Millisecond }},
		"max_bytes":    {edit: func(c *jetstream.StreamConfig) { c.MaxBytes = 600 }},
		"max_msgs":     {edit: func(c *jetstream.StreamConfig) { c.MaxMsgs = 3 }},
		"max_msg_size": {edit: func(c *jetstream.StreamConfig) { c.MaxMsgSize = 10 }},
		"sealed":       {edit: func(c *jetstream.StreamConfig) { c.Sealed = true }, lasts: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js, deployment := made(t)
			wanted := lease.Streams(1, deployment.Metadata())
			_, err := lease.OpenBucket(t.Context(), js, topology.WriterLeaseBucket, 1, deployment.Metadata())
			require.NoError(t, err)
			stream, err := js.Stream(t.Context(), "KV_"+topology.WriterLeaseBucket)
			require.NoError(t, err)
			config := stream.CachedInfo().Config
			row.edit(&config)
			_, err = js.UpdateStream(t.Context(), config)
			require.NoError(t, err)
			reg, log := prometheus.NewPedanticRegistry(), &lockedBuffer{}
			monitor, err := broker.NewMonitor(js, wanted, reg, slog.New(slog.NewTextHandler(log, nil)))
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- monitor.Run(ctx) }()
			testkit.WaitFor(t, patience, "the monitor to have looked", func(context.Context) error {
				value, found := gathered(t, reg, "sendhouse_jetstream_stream_wrong", "stream", "KV_"+topology.WriterLeaseBucket)
				if !found || (value == 1) != row.lasts {
					return fmt.Errorf("it shows %v", value)
				}
				return nil
			})
			cancel()
			require.NoError(t, <-ended)
			require.Contains(t, log.String(), name+" is")
			if row.lasts {
				require.Contains(t, log.String(), "nats stream rm KV_"+topology.WriterLeaseBucket)
			} else {
				requireAsWanted(t, js, wanted, "KV_"+topology.WriterLeaseBucket)
			}
			value, found := gathered(t, reg, "sendhouse_jetstream_stream_wrong", "stream", "KV_"+topology.LeaseBucket)
			require.True(t, found)
			require.Zero(t, value, "the other is not there yet, and is made by its owner")
		})
	}
}

// TestCreatedStreamIsThereAtTheNextStart: nats-server keeps the damaged file that describes a stream when the stream is made again.
func TestCreatedStreamIsThereAtTheNextStart(t *testing.T) {
	t.Parallel()
	o := options()
	first := o.WALConfig(0)
	first.FirstSeq = 21
	mirror := jetstream.StreamConfig{Name: "MESSAGES_0", Storage: jetstream.FileStorage, Replicas: 1, Mirror: &jetstream.StreamSource{Name: "SOURCE"}}
	for name, c := range map[string]struct {
		config jetstream.StreamConfig
		create func(js jetstream.JetStream, config jetstream.StreamConfig) error
	}{
		"with a first sequence": {first, func(js jetstream.JetStream, config jetstream.StreamConfig) error {
			_, err := broker.CreateStream(t.Context(), js, config)
			return err
		}},
		"a mirror": {mirror, func(js jetstream.JetStream, config jetstream.StreamConfig) error {
			_, err := broker.CreateStream(t.Context(), js, config)
			return err
		}},
		"a bucket of leases": {lease.Streams(1, nil)[0], func(js jetstream.JetStream, _ jetstream.StreamConfig) error {
			_, err := lease.OpenBucket(t.Context(), js, topology.LeaseBucket, 1, nil)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			server := startEmbedded(t, dir)
			_, js := connect(t, server)
			_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "SOURCE", Subjects: []string{"source"}})
			require.NoError(t, err)
			_, err = js.CreateStream(t.Context(), c.config)
			require.NoError(t, err)
			server.Shutdown()
			require.NoError(t, os.Truncate(filepath.Join(dir, "jetstream", "$G", "streams", c.config.Name, "meta.inf"), 5))
			server = startEmbedded(t, dir)
			_, js = connect(t, server)
			_, err = js.Stream(t.Context(), c.config.Name)
			require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
			require.NoError(t, c.create(js, c.config))
			server.Shutdown()
			server = startEmbedded(t, dir)
			_, js = connect(t, server)
			stream, err := js.Stream(t.Context(), c.config.Name)
			require.NoError(t, err)
			if c.config.FirstSeq > 0 {
				require.Equal(t, c.config.FirstSeq-1, stream.CachedInfo().State.LastSeq)
			}
		})
	}
}

// TestTheRecordIsWatched: a running sequencer reports a record that the next start would refuse.
func TestTheRecordIsWatched(t *testing.T) {
	t.Parallel()
	js, deployment := made(t)
	wanted, err := options().StreamConfigs(deployment)
	require.NoError(t, err)
	reg := prometheus.NewPedanticRegistry()
	log := &lockedBuffer{}
	monitor, err := broker.NewMonitor(js, wanted, reg, slog.New(slog.NewTextHandler(log, nil)))
	require.NoError(t, err)
	kv, right := recordOf(t, js)
	wrong := bytes.Clone(right)
	wrong[len(wrong)/2] ^= 1
	_, err = kv.Put(t.Context(), "deployment", wrong)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- monitor.Run(ctx) }()
	testkit.WaitFor(t, patience, "the monitor to have looked", func(context.Context) error {
		if value, found := gathered(t, reg, "sendhouse_jetstream_stream_wrong", "stream", "KV_SENDHOUSE"); !found || value != 1 {
			return fmt.Errorf("it shows %v", value)
		}
		return nil
	})
	cancel()
	require.NoError(t, <-ended)
	require.Contains(t, log.String(), "sendhouse repair deployment")
}

func requireAsWanted(t *testing.T, js jetstream.JetStream, wanted []jetstream.StreamConfig, name string) {
	t.Helper()
	stream, err := js.Stream(t.Context(), name)
	require.NoError(t, err)
	have := stream.CachedInfo().Config
	for _, want := range wanted {
		if want.Name != name {
			continue
		}
		require.Equal(t, max(want.MaxMsgsPerSubject, 0), max(have.MaxMsgsPerSubject, 0))
		require.EqualValues(t, -1, have.MaxMsgs)
		require.EqualValues(t, -1, have.MaxMsgSize)
		require.Equal(t, want.MaxAge, have.MaxAge)
		require.Equal(t, want.MaxBytes, have.MaxBytes)
		require.Equal(t, want.Discard, have.Discard)
		require.Equal(t, want.Retention, have.Retention)
		require.Equal(t, want.Subjects, have.Subjects)
		require.Equal(t, topology.MetadataID(want.Metadata), topology.MetadataID(have.Metadata))
	}
}

// lockedBuffer takes a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
