package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/topology"
)

const (
	// monitorInterval is how often the streams are looked at.
	monitorInterval = 5 * time.Second
	// lookKept is how long what was seen is shown when JetStream has stopped answering.
	lookKept = time.Minute
)

// Monitor shows a deployment's streams and JetStream's health as metrics, from what JetStream itself says. It asks
// for all streams at once, so it costs the same few requests however many there are. Several may run: they
// show the same.
//
// It also compares the streams with what they must be. A setting that was changed by hand and that no flag decides is set back;
// for everything else that is wrong it logs an error and shows sendhouse_jetstream_stream_wrong.
type Monitor struct {
	js      jetstream.JetStream
	wanted  []jetstream.StreamConfig
	log     *slog.Logger
	metrics *monitorMetrics
	// What follows belongs to Run.
	isDown bool              // the last look got no answer
	said   map[string]string // what was last logged of a stream that is wrong

	mu    sync.Mutex
	seen  look
	wrong map[string]bool // by stream, of those that are wanted
}

// look is what was seen at one time.
type look struct {
	at      time.Time
	streams []*jetstream.StreamInfo
	storage uint64
	max     int64 // of the account's storage; less than 0 if there is no limit
}

// NewMonitor registers the metrics. Run fills them. Wanted are the streams that must be there (topology.Options.StreamConfigs), and those of
// the leases, which need not; without them the streams are only shown.
func NewMonitor(js jetstream.JetStream, wanted []jetstream.StreamConfig, reg prometheus.Registerer, log *slog.Logger) (*Monitor, error) {
	m := &Monitor{js: js, wanted: wanted, log: log.With("component", "jetstream"), metrics: newMonitorMetrics(), said: make(map[string]string)}
	for _, c := range []prometheus.Collector{m.metrics.up, m.metrics.answer, m} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of JetStream: %w", err)
		}
	}
	return m, nil
}

// Run looks until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	ticker := time.NewTicker(monitorInterval)
	defer ticker.Stop()
	for {
		m.look(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// look asks once. A failure is shown, and logged when it is the first in a row.
func (m *Monitor) look(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	start := time.Now()
	seen, err := m.ask(asking)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		m.metrics.up.Set(0)
		if !m.isDown {
			m.log.Warn("JetStream does not say how its streams are", "error", Explain(err))
		}
		m.isDown = true
	default:
		m.metrics.up.Set(1)
		m.metrics.answer.Observe(time.Since(start).Seconds())
		m.isDown = false
		wrong := m.compare(asking, seen.streams)
		m.mu.Lock()
		m.seen, m.wrong = seen, wrong
		m.mu.Unlock()
	}
}

// compare finds the streams that are not as they must be, and reports each once as long as the same is wrong with it.
func (m *Monitor) compare(ctx context.Context, streams []*jetstream.StreamInfo) map[string]bool {
	there := make(map[string]*jetstream.StreamInfo, len(streams))
	for _, info := range streams {
		there[info.Config.Name] = info
	}
	wrong := make(map[string]bool, len(m.wanted))
	for _, want := range m.wanted {
		err := m.compareOne(ctx, there[want.Name], want)
		wrong[want.Name] = err != nil
		switch {
		case err == nil:
			delete(m.said, want.Name)
		case ctx.Err() != nil: // it may only be that there was no answer
		case m.said[want.Name] != err.Error():
			m.said[want.Name] = err.Error()
			m.log.Error("a stream is not as it must be", "stream", want.Name, "error", err)
		}
	}
	return wrong
}

// compareOne sets back what no flag decides, and returns what is wrong beside.
func (m *Monitor) compareOne(ctx context.Context, info *jetstream.StreamInfo, want jetstream.StreamConfig) error {
	if info == nil { // a list leaves out what does not answer
		stream, err := m.js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			if isLeases(want.Name) {
				return nil // its owners make it
			}
			return lost(want.Name)
		}
		if err != nil {
			return fmt.Errorf("look at the stream: %w", err)
		}
		info = stream.CachedInfo()
	}
	id := topology.MetadataID(want.Metadata)
	if err := foreign(info, topology.Deployment{ID: id}); err != nil {
		return err
	}
	if !info.Config.Sealed {
		if err := bring(ctx, m.js, m.log, info, want, settingOurs); err != nil {
			return err
		}
	}
	left := slices.DeleteFunc(settingsThatDiffer(info.Config, want), func(s setting) bool { return s.kind == settingOurs })
	if len(left) > 0 {
		return fmt.Errorf("%s (%s)", described(left), wayOut(want.Name, left))
	}
	if want.Name == deploymentStream {
		return compareRecord(ctx, m.js, want)
	}
	return nil
}

// compareRecord finds a record of the deployment that is lost or damaged before the next start is refused because of it.
func compareRecord(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) error {
	wanted, err := topology.ParseMetadata(want.Metadata)
	if errors.Is(err, topology.ErrNoIdentity) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the metadata of %s: %w", want.Name, err)
	}
	record, err := readDeployment(ctx, js)
	switch {
	case errors.Is(err, errNoRecordYet):
		return fmt.Errorf("%w (%s)", ErrRecordLost, repairRecord)
	case err == nil && record.Deployment != wanted:
		return fmt.Errorf("%w: it says %+v, and was %+v at the start (%s)", ErrRecordDamaged, record.Deployment, wanted, repairRecord)
	}
	return err
}

func (m *Monitor) ask(ctx context.Context) (look, error) {
	account, err := m.js.AccountInfo(ctx)
	if err != nil {
		return look{}, fmt.Errorf("ask for the account: %w", err)
	}
	seen := look{at: time.Now(), storage: account.Store, max: account.Limits.MaxStore}
	lister := m.js.ListStreams(ctx)
	for info := range lister.Info() {
		if _, _, ok := topology.KindOf(info.Config.Name); ok {
			seen.streams = append(seen.streams, info)
		}
	}
	if err := lister.Err(); err != nil {
		return look{}, fmt.Errorf("list the streams: %w", err)
	}
	return seen, nil
}

// Describe implements prometheus.Collector.
func (m *Monitor) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.metrics.descs() {
		ch <- d
	}
}

// Collect implements prometheus.Collector: it shows what was seen last, unless that is too old to be of use.
func (m *Monitor) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	seen, wrong := m.seen, m.wrong
	m.mu.Unlock()
	if time.Since(seen.at) > lookKept {
		return
	}
	d := m.metrics
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	gauge(d.storage, float64(seen.storage))
	if seen.max > 0 {
		gauge(d.storageMax, float64(seen.max))
	}
	for _, info := range seen.streams {
		d.collectStream(gauge, info)
	}
	for stream, isWrong := range wrong {
		value := 0.0
		if isWrong {
			value = 1
		}
		gauge(d.wrong, value, labelsOf(stream)...)
	}
}

// monitorMetrics are those of Monitor.
type monitorMetrics struct {
	up     prometheus.Gauge
	answer prometheus.Histogram

	storage, storageMax                                            *prometheus.Desc
	bytes, bytesMax, messages, first, last, age, ageMax, consumers *prometheus.Desc
	replicas, replicasCurrent, wrong                               *prometheus.Desc
}

func newMonitorMetrics() *monitorMetrics {
	const prefix = "sendhouse_jetstream_"
	whole := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(prefix+name, help, nil, nil) }
	stream := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(prefix+"stream_"+name, help, []string{"stream", "kind", "partition"}, nil)
	}
	return &monitorMetrics{
		up: prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "up", Help: "1 if JetStream answered when it was last asked for its streams, else 0."}),
		answer: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "answer_duration_seconds", Help: "How long JetStream took to say how the account and all streams are.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}, NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
		}),
		storage:         whole("storage_bytes", "File storage that the account uses."),
		storageMax:      whole("storage_bytes_max", "File storage that the account may use; absent if it has no limit of its own."),
		bytes:           stream("bytes", "Size of a stream."),
		bytesMax:        stream("bytes_max", "Limit of a stream's size; absent if there is none."),
		messages:        stream("messages", "Records in a stream."),
		first:           stream("first_seq", "Sequence of a stream's first record; of an empty one, of the next."),
		last:            stream("last_seq", "Sequence of a stream's last record."),
		age:             stream("age_seconds", "Age of a stream's first record; 0 where it is empty."),
		ageMax:          stream("age_max_seconds", "Age at which a stream drops its records; absent where it keeps them."),
		consumers:       stream("consumers", "Consumers of a stream."),
		replicas:        stream("replicas", "Copies that a stream is to have."),
		replicasCurrent: stream("replicas_current", "Copies that are there and up to date; less than replicas means that a server is away or behind, 0 that it has no leader."),
		wrong:           stream("wrong", "1 if a stream is missing, belongs to another deployment, or has a setting that it must not have, else 0; the log says which."),
	}
}

func (d *monitorMetrics) descs() []*prometheus.Desc {
	return []*prometheus.Desc{
		d.storage, d.storageMax, d.bytes, d.bytesMax, d.messages, d.first, d.last, d.age, d.ageMax, d.consumers, d.replicas, d.replicasCurrent, d.wrong,
	}
}

func labelsOf(stream string) []string {
	kind, number, _ := topology.KindOf(stream)
	partition := ""
	if number >= 0 {
		partition = strconv.Itoa(number)
	}
	return []string{stream, string(kind), partition}
}

func (d *monitorMetrics) collectStream(gauge func(*prometheus.Desc, float64, ...string), info *jetstream.StreamInfo) {
	labels := labelsOf(info.Config.Name)
	state := info.State
	age := 0.0
	if state.Msgs > 0 {
		age = max(info.TimeStamp.Sub(state.FirstTime).Seconds(), 0) // both by the server's clock
	}
	gauge(d.bytes, float64(state.Bytes), labels...)
	gauge(d.messages, float64(state.Msgs), labels...)
	gauge(d.first, float64(state.FirstSeq), labels...)
	gauge(d.last, float64(state.LastSeq), labels...)
	gauge(d.age, age, labels...)
	gauge(d.consumers, float64(state.Consumers), labels...)
	gauge(d.replicas, float64(info.Config.Replicas), labels...)
	gauge(d.replicasCurrent, float64(currentReplicas(info.Cluster)), labels...)
	if info.Config.MaxBytes > 0 {
		gauge(d.bytesMax, float64(info.Config.MaxBytes), labels...)
	}
	if info.Config.MaxAge > 0 {
		gauge(d.ageMax, info.Config.MaxAge.Seconds(), labels...)
	}
}

// currentReplicas counts the leader and the followers that are up to date. A server that is no cluster is its
// streams' only copy.
func currentReplicas(cluster *jetstream.ClusterInfo) int {
	if cluster == nil || cluster.Name == "" {
		return 1
	}
	if cluster.Leader == "" {
		return 0
	}
	n := 1
	for _, peer := range cluster.Replicas {
		if peer.Current && !peer.Offline {
			n++
		}
	}
	return n
}
