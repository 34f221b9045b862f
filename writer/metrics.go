package writer

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// state is the state of a partition's runner.
type state string

const (
	stateStarting state = "starting" // comparing the position with the stream
	stateRunning  state = "running"  // reading and inserting
	stateBehind   state = "behind"   // waiting for the stream, which ends before the position
	stateRetrying state = "retrying" // retrying: a neighbour is unreachable or refuses
	statePaused   state = "paused"   // waiting for a person
	stateStopped  state = "stopped"
)

func states() []state {
	return []state{stateStarting, stateRunning, stateBehind, stateRetrying, statePaused, stateStopped}
}

// metrics holds the metrics of the role.
type metrics struct {
	batchRows      prometheus.Histogram
	batchBytes     prometheus.Histogram
	insertDuration prometheus.Histogram
	visibleDelay   prometheus.Histogram
	retries        map[clickhouse.Class]prometheus.Counter
	splits         prometheus.Counter
	natsRetries    prometheus.Counter
	deadLetters    map[string]prometheus.Counter
	server         serverMetrics
	tableUnusable  prometheus.Gauge
	lag            *lagCollector

	partitions []*partitionMetrics // the counters of all partitions

	lagMessages, retained, missing, byState, epoch *prometheus.GaugeVec
}

// partitionMetrics holds the metrics of one partition. Its gauges exist only while the partition is held, so that no two
// writers export one for the same partition.
type partitionMetrics struct {
	inserted    prometheus.Counter
	lost        prometheus.Counter
	restored    prometheus.Counter
	missing     prometheus.Gauge
	restarts    prometheus.Counter
	fenced      prometheus.Counter
	lagMessages prometheus.Gauge
	retained    prometheus.Gauge
	oldest      *oldest
	states      map[state]prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, partitions int, shared *budget) *metrics {
	retries := counterVec("retries_total", "Failed attempts to insert a batch, by error class.", "class")
	letters := counterVec("dead_letters_total", "Records put into the dead letters, by reason.", "reason")
	m := &metrics{
		batchRows:      histogram("batch_rows", "Rows of an inserted batch.", prometheus.ExponentialBuckets(1, 4, 11)),
		batchBytes:     histogram("batch_bytes", "Bytes of an inserted batch, uncompressed.", prometheus.ExponentialBuckets(1<<10, 4, 10)),
		insertDuration: histogram("insert_duration_seconds", "Time of a successful insert.", prometheus.ExponentialBuckets(0.002, 2, 15)),
		visibleDelay:   histogram("visible_delay_seconds", "Time from the acceptance of a batch's oldest message until its row can be read.", []float64{.1, .25, .5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 21600}),
		splits:         counter("batch_splits_total", "Batches cut in two because ClickHouse refused them whole."),
		natsRetries:    counter("nats_retries_total", "Writes to NATS (positions, dead letters) that were retried."),
		tableUnusable:  gauge("table_unusable", "1 while this process writes nothing because at the start it cannot reach ClickHouse or create or use its table, and while the table lacks the required form after a later change; else 0."),
		retries:        make(map[clickhouse.Class]prometheus.Counter),
		deadLetters:    make(map[string]prometheus.Counter),
	}
	for _, class := range clickhouse.Classes() {
		m.retries[class] = retries.WithLabelValues(class.String())
	}
	m.server = newServerMetrics(reg)
	for _, reason := range []string{reasonUndecodable, reasonRefused, reasonLost} {
		m.deadLetters[reason] = letters.WithLabelValues(reason)
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "batch_memory_bytes", Help: "Memory reserved by batches, out of --writer-bytes-max.",
	}, func() float64 { return float64(shared.taken()) }))
	reg.MustRegister(retries, letters, m.batchRows, m.batchBytes, m.insertDuration, m.visibleDelay, m.splits, m.natsRetries, m.tableUnusable)
	m.registerPartitions(reg, partitions)
	return m
}

func (m *metrics) registerPartitions(reg prometheus.Registerer, partitions int) {
	inserted := counterVec("messages_inserted_total", "Messages inserted.", "partition")
	lost := counterVec("messages_lost_total", "Messages that disappeared from the message log before they could be inserted.", "partition")
	restored := counterVec("rows_restored_total", "Rows that the table had lost and that the writer inserted again from the message log.", "partition")
	restarts := counterVec("reader_restarts_total", "Times that the writer restarted reading a partition from its recorded position, after an error.", "partition")
	fenced := counterVec("fenced_total", "Writes of the position that were refused because another writer had moved it.", "partition")
	m.lagMessages = gaugeVec("lag_messages", "Messages in the message log that are not in ClickHouse yet.", "partition")
	m.retained = gaugeVec("retained_messages", "Messages that are in ClickHouse and still in the message log: the margin before retention overtakes the writer.", "partition")
	m.missing = gaugeVec("rows_missing", "Rows that the table has lost and that cannot be inserted again.", "partition")
	m.lag = newLagCollector()
	m.epoch = gaugeVec("lease_epoch", "Epoch of the lease of each partition that this instance owns.", "partition")
	m.byState = gaugeVec("partition_state", "1 for the current state of a partition.", "partition", "state")
	for p := range partitions {
		label := strconv.Itoa(p)
		m.partitions = append(m.partitions, &partitionMetrics{
			inserted: inserted.WithLabelValues(label),
			lost:     lost.WithLabelValues(label),
			restored: restored.WithLabelValues(label),
			restarts: restarts.WithLabelValues(label),
			fenced:   fenced.WithLabelValues(label),
		})
	}
	reg.MustRegister(inserted, lost, restored, restarts, fenced, m.lagMessages, m.retained, m.missing, m.byState, m.epoch, m.lag)
}

// take creates the gauges of a partition that this instance now holds.
func (m *metrics) take(partition int, epoch uint64) *partitionMetrics {
	label := strconv.Itoa(partition)
	pm := *m.partitions[partition]
	pm.lagMessages, pm.retained, pm.oldest = m.lagMessages.WithLabelValues(label), m.retained.WithLabelValues(label), m.lag.take(partition)
	pm.missing = m.missing.WithLabelValues(label)
	pm.states = make(map[state]prometheus.Gauge)
	for _, s := range states() {
		pm.states[s] = m.byState.WithLabelValues(label, string(s))
	}
	m.epoch.WithLabelValues(label).Set(float64(epoch))
	return &pm
}

// forget deletes the gauges of a partition that this instance no longer holds.
func (m *metrics) forget(partition int) {
	m.lag.forget(partition)
	label := prometheus.Labels{"partition": strconv.Itoa(partition)}
	for _, gauge := range []*prometheus.GaugeVec{m.lagMessages, m.retained, m.missing, m.byState, m.epoch} {
		gauge.DeletePartialMatch(label)
	}
}

func (m *partitionMetrics) setState(now state) {
	for s, gauge := range m.states {
		if s == now {
			gauge.Set(1)
		} else {
			gauge.Set(0)
		}
	}
}

// observeInsert records a successful insert of rows whose oldest and newest messages have these times.
func (m *metrics) observeInsert(p *partitionMetrics, rows int, bytes int, took time.Duration, oldest, newest, now time.Time) {
	m.batchRows.Observe(float64(rows))
	m.batchBytes.Observe(float64(bytes))
	m.insertDuration.Observe(took.Seconds())
	m.visibleDelay.Observe(max(now.Sub(oldest).Seconds(), 0)) // the broker's clock may be ahead; a sum must not shrink
	p.inserted.Add(float64(rows))
	p.oldest.insertedUpTo(newest)
}

const (
	namespace = "sendhouse"
	subsystem = "writer"
)

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
}

func histogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Subsystem: subsystem, Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
	})
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
}

func gaugeVec(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
}
