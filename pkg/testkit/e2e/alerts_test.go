package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// notSeen are the alerts that TestEndToEndAlerts does not wait for, and why. The unit tests of the rules let them fire.
var notSeen = map[string]string{
	"SendhouseBrokerClockOff":     "a server's clock has to be moved (TestEndToEndClock)",
	"SendhouseBrokerClockStepped": "a server's clock has to be moved (TestEndToEndClock)",
	"SendhouseIDClockAhead":       "a server's clock has to be moved (TestEndToEndClock)",
	"SendhouseCheckpointOld":      "ten minutes without a checkpoint",
	"SendhouseStorageNearLimit":   "a server's whole storage has to be full",
	"SendhouseClickHouseDiskFull": "the disk of the ClickHouse there would have to be full",
	"SendhouseTableUnusable":      "a writer has to start beside a table that it cannot use, and to wait for two minutes",
	"SendhouseRowsMissing":        "rows have to be lost that the message log no longer has (TestRowsThatCannotBeRestored of writer)",
	"SendhouseRowsRestored":       "rows of the table have to be lost (TestLostRowsAreRestoredWhileRunning of writer)",
	"SendhouseNATSCannotWrite":    "NATS is not embedded there",
}

const (
	// alertTimeout is enough for the conditions that look back for a minute.
	alertTimeout = 2 * time.Minute
	// quietSeconds is for how long no alert may fire while all is well.
	quietSeconds = 5
	// partsCrowd is more parts than SendhouseTooManyParts lets pass.
	partsCrowd = 950

	// What each partition is there for. Only the first has messages while all is well.
	usedPartition, filledPartition, blockedPartition, lostPartition = 0, 1, 2, 3
	// restarts are more than SendhouseSequencerRestarts lets pass.
	restarts = 5
	// crowd is more clients than may have a send waiting (--ingest-queue-sends-max).
	crowd = 128
)

// faulty is a deployment with a Prometheus that looks at it: three NATS servers, and each role once.
type faulty struct {
	*apart
	servers    []*testkit.NATSServer
	js         jetstream.JetStream
	prometheus *prometheusServer
}

func startFaulty(t *testing.T) *faulty {
	t.Helper()
	f := &faulty{servers: testkit.StartNATSCluster(t, testkit.NATSOptions{}), apart: &apart{clickHouse: enginetest.StartServer(t)}}
	f.natsURL = urlOf(f.servers)
	natsFlags := []string{"--nats-url=" + f.natsURL, "--nats-ping-interval=2s"}
	f.ingest = newRole(t, "ingest", slices.Concat(natsFlags, []string{
		"--ingest-ack-timeout=4s", "--ingest-answer-timeout=4s", "--ingest-queue-sends-max=64", "--ingest-permissions-stale-max=2s",
	})...)
	f.sequencer = newRole(t, "sequencer", slices.Concat(natsFlags, []string{
		"--replicas=3", "--wal-bytes-max=64MiB", "--messages-bytes-max=48MiB", "--outbox-messages-max=512",
	})...)
	// What the writer has in memory is not lost with the message log, so it has little.
	f.writer = newRole(t, "writer", slices.Concat(natsFlags, []string{into(f.clickHouse), "--flush-bytes-max=1048576", "--writer-bytes-max=16777216"})...)
	f.startInOrder()
	nc, err := nats.Connect(f.natsURL, nats.MaxReconnects(-1))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	f.js, err = jetstream.New(nc)
	require.NoError(t, err)
	f.prometheus = startPrometheus(t, atOnce, f.admins()...)
	return f
}

func (f *faulty) admins() (all []string) {
	for _, role := range f.roles() {
		all = append(all, role.admin)
	}
	return all
}

// pouring says how to pour.
type pouring struct {
	clients, bytes int
	pause          time.Duration // between an answer and the next send
}

// pour sends to one partition, whatever is answered, until it is stopped.
func (f *faulty) pour(t *testing.T, partition int, how pouring) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: how.clients}, Timeout: requestTimeout}
	body := fmt.Sprintf(`{"from_uid":"u","channel_id":%q,"channel_type":2,"payload":%q}`, channelIn(t, partition), strings.Repeat("aaaa", (how.bytes+2)/3))
	var clients sync.WaitGroup
	for range how.clients {
		clients.Go(func() {
			for ctx.Err() == nil {
				pause := max(how.pause, time.Millisecond)
				if status, err := statusOf(ctx, client, "http://"+f.ingest.api+"/message/send", body); err != nil || status != http.StatusOK {
					pause = time.Second // as Retry-After asks for
				}
				timer := time.NewTimer(pause)
				select {
				case <-timer.C:
				case <-ctx.Done():
					timer.Stop()
				}
			}
		})
	}
	stop = func() {
		cancel()
		clients.Wait()
		client.CloseIdleConnections()
	}
	t.Cleanup(stop)
	return stop
}

// statusOf posts and returns the status of the answer.
func statusOf(ctx context.Context, client *http.Client, url, body string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// channelIn is a group channel of a partition.
func channelIn(t *testing.T, partition int) string {
	t.Helper()
	partitions, err := topology.NewPartitions(topology.DefaultDeployment().Partitions)
	require.NoError(t, err)
	for n := 0; ; n++ {
		if name := fmt.Sprint("alerts-", n); partitions.Of(name, message.ChannelGroup) == partition {
			return name
		}
	}
}

// TestEndToEndAlerts looks at a deployment with the shipped rules: no alert fires while all is well, and each fires when what it
// is there for is brought about, except those that take too long.
//
// It takes two or three minutes of a whole machine, so it is run by itself: make alerts.
func TestEndToEndAlerts(t *testing.T) {
	t.Parallel()
	if os.Getenv("ALERTS") == "" {
		t.Skip("make alerts runs it")
	}
	f := startFaulty(t)
	p := f.prometheus
	f.pour(t, usedPartition, pouring{clients: 1, bytes: 100, pause: 50 * time.Millisecond})
	p.requireQuiet(t, len(f.roles()))

	f.takesNothing(t, topology.MessagesStream(blockedPartition))
	f.takesNothing(t, "OBJ_"+topology.CheckpointBucket)
	endBlocked := f.pour(t, blockedPartition, pouring{clients: crowd, bytes: 100})
	f.loseMessageLog(t)
	f.crowdParts(t)
	f.sendPoison(t)
	_, err := f.js.Publish(t.Context(), topology.WALSubject(usedPartition), []byte("no batch of sends"))
	require.NoError(t, err)
	p.scrape(t, append(f.admins(), f.startWithShortCertificate(t))...)
	p.awaitFiring(t, "SendhouseTooManyParts", "SendhouseDeadLetters", "SendhouseForeignRecords", "SendhouseCertificateExpires", "SendhouseSequencerRestarts")
	f.exec(t, "RENAME TABLE sendhouse.messages TO sendhouse.elsewhere")
	p.awaitFiring(t, "SendhouseWriterPaused")
	f.exec(t, "RENAME TABLE sendhouse.elsewhere TO sendhouse.messages")

	f.clickHouse.Stop()
	endFilled := f.pour(t, filledPartition, pouring{clients: 8, bytes: 40 << 10})
	p.awaitFiring(t, "SendhouseClickHouseDown", "SendhouseWriterStalled", "SendhouseRetentionNearWriter", "SendhouseWALNearLimit",
		"SendhouseCheckpointsFail", "SendhouseFoldBehind", "SendhouseErrorBudgetBurnsFast", "SendhouseErrorBudgetBurnsSlowly",
		"SendhouseLatencyBudgetBurnsFast", "SendhouseLatencyBudgetBurnsSlowly", "SendhouseRowsLate", "SendhouseFoldStalled")
	endBlocked()
	endFilled()
	f.clickHouse.Start()
	f.servers[2].Kill9()
	p.awaitFiring(t, "SendhouseMessagesLost", "SendhouseReplicaMissing")
	f.damage(t)
	p.awaitFiring(t, "SendhousePartitionRefused", "SendhousePartitionNotReady", "SendhouseCheckpointDamaged")

	// From this not all comes back in time, so it comes last. First connections stay, and nothing is answered on them.
	f.pour(t, usedPartition, pouring{clients: crowd, bytes: 100})
	f.servers[0].Pause()
	f.servers[1].Pause()
	p.awaitFiring(t, "SendhouseQueueNearLimit", "SendhousePermissionsStale", "SendhousePermissionsUnusable")
	f.servers[0].Kill9()
	f.servers[1].Kill9()
	p.awaitFiring(t, "SendhouseJetStreamAway", "SendhouseNATSDisconnected")

	f.sequencer.Kill9()
	f.writer.Kill9()
	p.awaitFiring(t, "SendhouseTargetDown", "SendhousePartitionWithoutOwner", "SendhousePartitionWithoutWriter")
	p.requireAllSeen(t)
}

// damage spoils the pointer to a partition's checkpoints, and has something else publish to its message log.
func (f *faulty) damage(t *testing.T) {
	t.Helper()
	pointers, err := f.js.KeyValue(t.Context(), topology.CheckpointPointerBucket)
	require.NoError(t, err)
	_, err = pointers.Put(t.Context(), fmt.Sprint("p", lostPartition), []byte("no JSON"))
	require.NoError(t, err)
	_, err = f.js.Publish(t.Context(), topology.MessagesSubject(lostPartition), []byte("hello"))
	require.NoError(t, err)
}

// takesNothing makes a stream refuse whatever is written to it.
func (f *faulty) takesNothing(t *testing.T, name string) {
	t.Helper()
	stream, err := f.js.Stream(t.Context(), name)
	require.NoError(t, err)
	config := stream.CachedInfo().Config
	config.MaxMsgSize = 1
	_, err = f.js.UpdateStream(t.Context(), config)
	require.NoError(t, err)
}

// loseMessageLog makes the message log of a partition lose all that it has, again and again. Each time the sequencer has to recover, and
// makes it again.
func (f *faulty) loseMessageLog(t *testing.T) {
	t.Helper()
	body := fmt.Sprintf(`{"from_uid":"u","channel_id":%q,"channel_type":2,"payload":"aGk="}`, channelIn(t, lostPartition))
	for sent := uint64(1); sent <= restarts+1; sent++ {
		status, err := statusOf(t.Context(), http.DefaultClient, "http://"+f.ingest.api+"/message/send", body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status)
		var config jetstream.StreamConfig
		testkit.WaitFor(t, arriveTimeout, "all messages in the log", func(ctx context.Context) error {
			stream, err := f.js.Stream(ctx, topology.MessagesStream(lostPartition))
			if err != nil {
				return err
			}
			info := stream.CachedInfo()
			if config = info.Config; info.State.LastSeq < sent {
				return fmt.Errorf("it has %d of %d", info.State.LastSeq, sent)
			}
			return nil
		})
		if sent <= restarts {
			require.NoError(t, f.js.DeleteStream(t.Context(), config.Name))
			_, err = f.js.CreateStream(t.Context(), config)
			require.NoError(t, err)
		}
	}
}

func (f *faulty) exec(t *testing.T, sql string) {
	t.Helper()
	require.NoError(t, open(t, f.clickHouse.DSN("default")).Exec(t.Context(), sql), sql)
}

// crowdParts makes a table of many parts beside that of the messages.
func (f *faulty) crowdParts(t *testing.T) {
	t.Helper()
	conn := open(t, f.clickHouse.DSN("default"))
	require.NoError(t, conn.Exec(t.Context(), "CREATE TABLE sendhouse.crowd (n UInt64) ENGINE = MergeTree ORDER BY n SETTINGS "+
		"parts_to_delay_insert = 100000, parts_to_throw_insert = 100000, max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1"))
	for range partsCrowd {
		require.NoError(t, conn.Exec(t.Context(), "INSERT INTO sendhouse.crowd SELECT 1"))
	}
}

// sendPoison sends a message that the table does not take.
func (f *faulty) sendPoison(t *testing.T) {
	t.Helper()
	f.exec(t, "ALTER TABLE sendhouse.messages ADD COLUMN poison UInt64 MATERIALIZED toUInt64(if(client_msg_no = 'poison', 'x', '0'))")
	body := fmt.Sprintf(`{"from_uid":"u","channel_id":%q,"channel_type":2,"client_msg_no":"poison","payload":"aGk="}`, channelIn(t, usedPartition))
	status, err := statusOf(t.Context(), http.DefaultClient, "http://"+f.ingest.api+"/message/send", body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
}

// startWithShortCertificate starts another ingest, whose certificate is about to expire, and returns the address of its admin listener.
func (f *faulty) startWithShortCertificate(t *testing.T) (admin string) {
	t.Helper()
	certificate := testkit.NewAuthority(t).Issue("localhost")
	h := newRole(t, "ingest", "--nats-url="+f.natsURL, "--api-tls-cert-file="+certificate.CertFile, "--api-tls-key-file="+certificate.KeyFile)
	h.Start()
	return h.admin
}

// firing are the alerts that fire now.
func (s *prometheusServer) firing(ctx context.Context) (names []string, err error) {
	var data struct {
		Alerts []struct {
			Labels map[string]string `json:"labels"`
			State  string            `json:"state"`
		} `json:"alerts"`
	}
	if err := s.get(ctx, "alerts", nil, &data); err != nil {
		return nil, err
	}
	for _, alert := range data.Alerts {
		if alert.State == "firing" {
			names = append(names, alert.Labels["alertname"])
		}
	}
	return names, nil
}

// awaitFiring waits until each of the alerts has been seen to fire, now or before.
func (s *prometheusServer) awaitFiring(t *testing.T, names ...string) {
	t.Helper()
	begun := time.Now()
	testkit.WaitFor(t, alertTimeout, "alerts", func(ctx context.Context) error {
		firing, err := s.firing(ctx)
		if err != nil {
			return err
		}
		for _, name := range firing {
			if s.seen[name].IsZero() {
				s.seen[name] = time.Now()
				t.Logf("%s fires, after %s of waiting for %q", name, time.Since(begun).Round(100*time.Millisecond), names)
			}
		}
		missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !s.seen[name].IsZero() })
		if len(missing) > 0 {
			return fmt.Errorf("%q do not fire", missing)
		}
		return nil
	})
}

// requireQuiet wants no alert to fire for some seconds, when all targets have been scraped for so long. How fast a machine is that
// runs tests is not the test's business: budgets may be burnt, and a follower be behind for a moment.
func (s *prometheusServer) requireQuiet(t *testing.T, targets int) {
	t.Helper()
	s.requireData(t, map[string]string{fmt.Sprintf(`count(count_over_time(up{job="sendhouse"}[%ds]) >= %[1]d) == %d`, 2*quietSeconds, targets): "targets"})
	fired, err := s.query(t.Context(), fmt.Sprintf(`max_over_time(ALERTS{alertstate="firing",alertname!~".*Budget.*|SendhouseReplicaMissing"}[%ds])`, quietSeconds))
	require.NoError(t, err)
	require.Empty(t, fired)
}

// requireAllSeen wants every alert of the rules to have been seen to fire, or to be named as one that is not.
func (s *prometheusServer) requireAllSeen(t *testing.T) {
	t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Type string } `json:"rules"`
		} `json:"groups"`
	}
	require.NoError(t, s.get(t.Context(), "rules", nil, &data))
	alerts := 0
	for _, group := range data.Groups {
		for _, rule := range group.Rules {
			if rule.Type != "alerting" {
				continue
			}
			alerts++
			if _, ok := notSeen[rule.Name]; !ok {
				require.Contains(t, s.seen, rule.Name)
			}
		}
	}
	require.Positive(t, alerts)
	t.Logf("%d of %d alerts were seen to fire", len(s.seen), alerts)
}
