package frontpage

import (
	"fmt"
	"math"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// stage is a station on the way of a message.
type stage struct {
	Name string `json:"name"`
	// Here says that this process can tell about it.
	Here    bool     `json:"here"`
	Figures []figure `json:"figures"`
}

// figure is a number of a stage.
type figure struct {
	Label string `json:"label"`
	// Kind says what the page makes of Value: "rate" (per second, of a counter), "growth" (per second, of a gauge), "mean" (of what was
	// added to Value by what was added to Count), or "value".
	Kind  string   `json:"kind"`
	Unit  string   `json:"unit"`            // "s", "bytes", "yes" (1, or else 0 for no), or "" for things that are counted
	Value *float64 `json:"value"`           // null if there is no such metric (yet)
	Count *float64 `json:"count,omitempty"` // of a mean
	Of    *float64 `json:"of,omitempty"`    // the limit of a value
	// Alert is the value from which on a person should look; 0 means never.
	Alert float64 `json:"alert,omitempty"`
}

// The kinds of figures.
const (
	rate   = "rate"
	growth = "growth"
	mean   = "mean"
	value  = "value"
)

// some is the least rate that is not none: one in a quarter of an hour.
const some = 0.001

// metrics are those of the process, by name.
type metrics map[string]*dto.MetricFamily

// stages lays out the way of a message, from left to right. What it uses of the metrics is listed in docs/reference/metrics.md.
func (p *Page) stages() ([]stage, error) {
	families, err := p.deps.Registry.Gather() // with an error it returns what it could gather
	m := make(metrics, len(families))
	for _, f := range families {
		m[f.GetName()] = f
	}
	all := []stage{m.ingest(), m.log("WAL", "wal"), m.sequencer(), m.log("MESSAGES", "messages"), m.writer(), m.clickHouse()}
	for i, here := range []bool{p.api != nil, p.sequencers != nil, p.sequencers != nil, p.sequencers != nil, p.writers != nil, p.writers != nil} {
		all[i].Here = here
		if !here {
			all[i].Figures = []figure{}
		}
	}
	if err != nil {
		err = fmt.Errorf("gather the metrics: %w", err)
	}
	return all, err
}

func (m metrics) ingest() stage {
	return stage{Name: "ingest", Figures: []figure{
		{Label: "sends", Kind: rate, Value: m.sum("sendhouse_ingest_batch_sends")},
		{Label: "group commits", Kind: rate, Value: m.count("sendhouse_ingest_batch_sends")},
		{Label: "time to answer", Kind: mean, Unit: "s", Value: m.sum("sendhouse_ingest_request_duration_seconds"), Count: m.count("sendhouse_ingest_request_duration_seconds")},
		{Label: "waiting", Kind: value, Value: m.sum("sendhouse_ingest_queue_sends")},
		{Label: "refused (4xx)", Kind: rate, Value: m.sum("sendhouse_ingest_requests_total", "code", "4")},
		{Label: "failed (5xx)", Kind: rate, Value: m.sum("sendhouse_ingest_requests_total", "code", "5"), Alert: some},
	}}
}

// log is the write-ahead log or the message log, by the kind of its streams.
func (m metrics) log(name, kind string) stage {
	return stage{Name: name, Figures: []figure{
		{Label: "records", Kind: growth, Value: m.sum("sendhouse_jetstream_stream_last_seq", "kind", kind)},
		{Label: "kept", Kind: value, Value: m.sum("sendhouse_jetstream_stream_messages", "kind", kind)},
		{Label: "size", Kind: value, Unit: "bytes", Value: m.sum("sendhouse_jetstream_stream_bytes", "kind", kind), Of: m.sum("sendhouse_jetstream_stream_bytes_max", "kind", kind)},
	}}
}

func (m metrics) sequencer() stage {
	return stage{Name: "sequencer", Figures: []figure{
		{Label: "sends folded", Kind: rate, Value: m.sum("sendhouse_sequencer_sends_total")},
		{Label: "duplicates", Kind: rate, Value: m.sum("sendhouse_sequencer_sends_total", "outcome", "duplicate")},
		{Label: "conflicts", Kind: rate, Value: m.sum("sendhouse_sequencer_sends_total", "outcome", "conflict")},
		{Label: "lag, records", Kind: value, Value: m.sum("sendhouse_sequencer_wal_lag_records")},
		{Label: "lag, oldest", Kind: value, Unit: "s", Value: m.max("sendhouse_sequencer_wal_lag_seconds"), Alert: 5},
		{Label: "output lag", Kind: value, Value: m.sum("sendhouse_sequencer_output_lag_messages")},
		{Label: "partitions here", Kind: value, Value: m.number("sendhouse_sequencer_lease_epoch"), Of: m.sum("sendhouse_deployment_partitions")},
	}}
}

func (m metrics) writer() stage {
	return stage{Name: "writer", Figures: []figure{
		{Label: "rows inserted", Kind: rate, Value: m.sum("sendhouse_writer_messages_inserted_total")},
		{Label: "rows a batch", Kind: mean, Value: m.sum("sendhouse_writer_batch_rows"), Count: m.count("sendhouse_writer_batch_rows")},
		{Label: "lag, messages", Kind: value, Value: m.sum("sendhouse_writer_lag_messages")},
		{Label: "lag, oldest", Kind: value, Unit: "s", Value: m.max("sendhouse_writer_lag_seconds"), Alert: 60},
		{Label: "failed inserts", Kind: rate, Value: m.sum("sendhouse_writer_retries_total"), Alert: some},
		{Label: "partitions here", Kind: value, Value: m.number("sendhouse_writer_lease_epoch"), Of: m.sum("sendhouse_deployment_partitions")},
	}}
}

func (m metrics) clickHouse() stage {
	return stage{Name: "ClickHouse", Figures: []figure{
		{Label: "rows", Kind: value, Value: m.sum("sendhouse_writer_clickhouse_table_rows")},
		{Label: "answers", Kind: value, Unit: "yes", Value: m.sum("sendhouse_writer_clickhouse_up")},
		{Label: "time of an insert", Kind: mean, Unit: "s", Value: m.sum("sendhouse_writer_insert_duration_seconds"), Count: m.count("sendhouse_writer_insert_duration_seconds")},
		{Label: "size", Kind: value, Unit: "bytes", Value: m.sum("sendhouse_writer_clickhouse_table_bytes")},
		{Label: "parts", Kind: value, Value: m.sum("sendhouse_writer_clickhouse_parts_max"), Alert: 1000},
	}}
}

// sum adds up the values of a metric, of a histogram its sums. With a label: of those whose value begins so. It is nil if the process has no such
// metric; a counter that nothing has been counted in yet, so that it has no series with that label, is 0.
func (m metrics) sum(name string, where ...string) *float64 {
	return m.fold(name, where, func(total float64, one *dto.Metric) float64 { return total + read(one) })
}

func (m metrics) max(name string) *float64 {
	return m.fold(name, nil, func(most float64, one *dto.Metric) float64 { return math.Max(most, read(one)) })
}

// count is the observations of a histogram.
func (m metrics) count(name string) *float64 {
	return m.fold(name, nil, func(total float64, one *dto.Metric) float64 {
		return total + float64(one.GetHistogram().GetSampleCount())
	})
}

// number is how many series a metric has.
func (m metrics) number(name string) *float64 {
	n := 0.0
	if f := m[name]; f != nil {
		n = float64(len(f.GetMetric()))
	}
	return &n
}

func (m metrics) fold(name string, where []string, add func(float64, *dto.Metric) float64) *float64 {
	f := m[name]
	if f == nil {
		return nil
	}
	total := 0.0
	for _, one := range f.GetMetric() {
		if len(where) == 0 || hasLabel(one, where[0], where[1]) {
			total = add(total, one)
		}
	}
	if math.IsNaN(total) || math.IsInf(total, 0) {
		return nil // JSON has no such numbers
	}
	return &total
}

func hasLabel(one *dto.Metric, name, prefix string) bool {
	for _, l := range one.GetLabel() {
		if l.GetName() == name {
			return strings.HasPrefix(l.GetValue(), prefix)
		}
	}
	return false
}

// read returns the value of a counter or a gauge, or the sum of a histogram.
func read(one *dto.Metric) float64 {
	switch {
	case one.GetCounter() != nil:
		return one.GetCounter().GetValue()
	case one.GetGauge() != nil:
		return one.GetGauge().GetValue()
	default:
		return one.GetHistogram().GetSampleSum()
	}
}
