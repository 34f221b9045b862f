package runner

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// Metrics are the role's, by partition.
type Metrics struct {
	sends              *prometheus.CounterVec
	foldSeconds        *prometheus.HistogramVec
	malformed          *prometheus.CounterVec
	answersFailed      *prometheus.CounterVec
	liveFailed         *prometheus.CounterVec
	resumed            *prometheus.CounterVec
	walLag             *prometheus.GaugeVec
	walAge             *prometheus.GaugeVec
	walDelay           *prometheus.HistogramVec
	recovery           *prometheus.HistogramVec
	outputLag          *prometheus.GaugeVec
	channels           *prometheus.GaugeVec
	dedupEntries       *prometheus.GaugeVec
	restarts           *prometheus.CounterVec
	epoch              *prometheus.GaugeVec
	refused            *prometheus.GaugeVec
	checkpointAge      *prometheus.GaugeVec
	checkpointBytes    *prometheus.GaugeVec
	checkpointSeconds  *prometheus.HistogramVec
	snapshotSeconds    *prometheus.HistogramVec
	checkpointsDamaged *prometheus.CounterVec
	pointersDamaged    *prometheus.CounterVec
	checkpointsFailed  *prometheus.CounterVec
	cuts               *prometheus.CounterVec
	outputMissing      *prometheus.GaugeVec
	brokerClockOffset  *prometheus.GaugeVec
	idClockAhead       *prometheus.GaugeVec
	clockSteps         *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	partition := []string{"partition"}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "sendhouse", Subsystem: "sequencer", Name: name, Help: help}, append(labels, partition...))
		reg.MustRegister(v)
		return v
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "sendhouse", Subsystem: "sequencer", Name: name, Help: help}, partition)
		reg.MustRegister(v)
		return v
	}
	histogram := func(name, help string, start float64) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "sendhouse", Subsystem: "sequencer", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(start, 4, 10), NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		}, partition)
		reg.MustRegister(v)
		return v
	}
	return &Metrics{
		sends:              counter("sends_total", "Sends folded, by outcome.", "outcome"),
		foldSeconds:        histogram("fold_record_seconds", "Time to fold and answer one record of the write-ahead log.", 1e-6),
		malformed:          counter("malformed_records_total", "Records of the write-ahead log that were no batch of sends and were skipped."),
		answersFailed:      counter("answers_failed_total", "Answers that could not be published."),
		liveFailed:         counter("live_failed_total", "no_persist messages that could not be published."),
		resumed:            counter("output_resumes_total", "Times that writing the message log resumed from its tail after a refusal, a time-out or a lost connection."),
		walLag:             gauge("wal_lag_records", "Records of the write-ahead log not yet folded."),
		walAge:             gauge("wal_lag_seconds", "Age of the oldest record not yet folded, to the few seconds between two looks; 0 if all are."),
		walDelay:           histogram("wal_delay_seconds", "Time from when the broker stored a record of the write-ahead log until it is folded.", 1e-4),
		recovery:           histogram("recovery_seconds", "Time to recover a partition's state, before what the log has since is folded.", 1e-3),
		outputLag:          gauge("output_lag_messages", "Messages derived and not yet acknowledged by the message log."),
		channels:           gauge("channels", "Channels that have a sequence."),
		dedupEntries:       gauge("dedup_entries", "Sends in the deduplication window."),
		restarts:           counter("restarts_total", "Times that the partition recovered after an error."),
		epoch:              gauge("lease_epoch", "Epoch of the lease of each partition that this instance owns."),
		refused:            gauge("partition_refused", "1 while the partition is not served because its logs or checkpoints are damaged or incomplete, else 0."),
		checkpointAge:      gauge("checkpoint_age_seconds", "Age of the newest checkpoint."),
		checkpointBytes:    gauge("checkpoint_bytes", "Size of the newest checkpoint."),
		checkpointSeconds:  histogram("checkpoint_seconds", "Time from taking a checkpoint until it is stored.", 1e-3),
		snapshotSeconds:    histogram("snapshot_pause_seconds", "Time that folding stood still for a checkpoint.", 1e-5),
		checkpointsDamaged: counter("checkpoints_damaged_total", "Checkpoints that could not be read back."),
		pointersDamaged:    counter("checkpoint_pointers_damaged_total", "Checkpoint pointers that were damaged or gone, so that the checkpoints were found from what is stored."),
		checkpointsFailed:  counter("checkpoints_failed_total", "Checkpoints that could not be stored."),
		cuts:               counter("message_log_cuts_total", "Times that records were missing from the middle of the message log, which was cut there and derived again."),
		outputMissing:      gauge("message_log_missing_records", "Records missing from the middle of the message log that the write-ahead log no longer has, so that they cannot be derived again."),
		brokerClockOffset:  gauge("broker_clock_offset_seconds", "The broker's time less this process's own, which runs on evenly when the machine's clock steps, and follows a step after ten minutes."),
		idClockAhead:       gauge("id_clock_ahead_seconds", "How far the time in the last message_id is ahead of the broker's clock; 0 if it is not."),
		clockSteps:         counter("clock_steps_total", "Steps of the broker's clock by more than a second back, or five forward, between two records.", "direction"),
	}
}

// PartitionMetrics are the children of one partition, looked up once.
type PartitionMetrics struct {
	accepted, duplicate, conflict                    prometheus.Counter
	malformed, answersFailed, liveFailed, resumed    prometheus.Counter
	Restarts, checkpointsDamaged, checkpointsFailed  prometheus.Counter
	cuts                                             prometheus.Counter
	outputMissing                                    prometheus.Gauge
	pointersDamaged                                  prometheus.Counter
	walLag, outputLag, channels, dedupEntries, Epoch prometheus.Gauge
	walAge, Refused                                  prometheus.Gauge
	walDelay, recovery                               prometheus.Observer
	checkpointAge, checkpointBytes                   prometheus.Gauge
	foldSeconds, checkpointSeconds, snapshotSeconds  prometheus.Observer
	brokerClockOffset, idClockAhead                  prometheus.Gauge
	stepsForward, stepsBack                          prometheus.Counter
}

// Partition returns the children of one partition.
func (m *Metrics) Partition(partition int) *PartitionMetrics {
	p := strconv.Itoa(partition)
	return &PartitionMetrics{
		accepted:           m.sends.WithLabelValues("accepted", p),
		duplicate:          m.sends.WithLabelValues("duplicate", p),
		conflict:           m.sends.WithLabelValues("conflict", p),
		malformed:          m.malformed.WithLabelValues(p),
		answersFailed:      m.answersFailed.WithLabelValues(p),
		liveFailed:         m.liveFailed.WithLabelValues(p),
		resumed:            m.resumed.WithLabelValues(p),
		Restarts:           m.restarts.WithLabelValues(p),
		checkpointsDamaged: m.checkpointsDamaged.WithLabelValues(p),
		pointersDamaged:    m.pointersDamaged.WithLabelValues(p),
		checkpointsFailed:  m.checkpointsFailed.WithLabelValues(p),
		cuts:               m.cuts.WithLabelValues(p),
		outputMissing:      m.outputMissing.WithLabelValues(p),
		walLag:             m.walLag.WithLabelValues(p),
		walAge:             m.walAge.WithLabelValues(p),
		walDelay:           m.walDelay.WithLabelValues(p),
		recovery:           m.recovery.WithLabelValues(p),
		outputLag:          m.outputLag.WithLabelValues(p),
		channels:           m.channels.WithLabelValues(p),
		dedupEntries:       m.dedupEntries.WithLabelValues(p),
		Epoch:              m.epoch.WithLabelValues(p),
		Refused:            m.refused.WithLabelValues(p),
		checkpointAge:      m.checkpointAge.WithLabelValues(p),
		checkpointBytes:    m.checkpointBytes.WithLabelValues(p),
		foldSeconds:        m.foldSeconds.WithLabelValues(p),
		checkpointSeconds:  m.checkpointSeconds.WithLabelValues(p),
		snapshotSeconds:    m.snapshotSeconds.WithLabelValues(p),
		brokerClockOffset:  m.brokerClockOffset.WithLabelValues(p),
		idClockAhead:       m.idClockAhead.WithLabelValues(p),
		stepsForward:       m.clockSteps.WithLabelValues("forward", p),
		stepsBack:          m.clockSteps.WithLabelValues("back", p),
	}
}

// Forget drops the gauges of a partition that is another's now, which would tell
// its past as the present.
func (m *Metrics) Forget(partition int) {
	p := strconv.Itoa(partition)
	for _, gauge := range []*prometheus.GaugeVec{m.walLag, m.walAge, m.outputLag, m.channels, m.dedupEntries, m.epoch, m.refused, m.checkpointAge, m.checkpointBytes, m.brokerClockOffset, m.idClockAhead} {
		gauge.DeleteLabelValues(p)
	}
}

// folded counts the effects of one record, which the broker stored so long ago by its own clock.
func (m *PartitionMetrics) folded(effects []fold.Effect, took, stored time.Duration) {
	var accepted, duplicate, conflict int
	for i := range effects {
		switch effects[i].Outcome {
		case message.Outcome_OUTCOME_DUPLICATE:
			duplicate++
		case message.Outcome_OUTCOME_CONFLICT:
			conflict++
		default:
			accepted++
		}
	}
	m.accepted.Add(float64(accepted))
	m.duplicate.Add(float64(duplicate))
	m.conflict.Add(float64(conflict))
	m.foldSeconds.Observe(took.Seconds())
	m.walDelay.Observe(max(stored.Seconds(), 0)) // until the next look at the broker's clock, it may have stepped
}
