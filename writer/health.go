package writer

import (
	"context"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const (
	// healthInterval is the interval of ClickHouse's health check, healthTimeout its timeout.
	healthInterval = 10 * time.Second
	healthTimeout  = 5 * time.Second
	// fewerRowsInterval is the shortest interval between counts that a smaller table triggers.
	fewerRowsInterval = time.Minute
)

// watchHealth exports ClickHouse's health as metrics until ctx ends. Operations that need ClickHouse log its failures.
func (s *Service) watchHealth(ctx context.Context) {
	var before clickhouse.Signs
	for {
		start := time.Now()
		asking, cancel := context.WithTimeout(ctx, healthTimeout)
		h, err := s.client.Health(asking)
		took := time.Since(start)
		var signs clickhouse.Signs
		if err == nil {
			signs, err = s.client.Signs(asking)
		}
		cancel()
		if ctx.Err() != nil {
			return
		}
		s.metrics.server.show(h, signs, err, took)
		if err == nil {
			before = s.noticeLoss(before, signs)
			s.guard.look(ctx)
			s.recheckTable(ctx)
		}
		if lifecycle.Pause(ctx, s.timing.health) != nil {
			return
		}
	}
}

// recheckTable detects changes made by hand to a table that the writer has checked before, also while it inserts nothing.
func (s *Service) recheckTable(ctx context.Context) {
	if !s.tableOpen.Load() {
		return // openTable is still checking it, and reports
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	err := s.client.Recheck(ctx)
	before := s.tableWrong.Load()
	switch {
	case err == nil && before != nil:
		s.tableWrong.Store(nil)
		s.metrics.tableUnusable.Set(0)
		s.log.Info("ClickHouse's table has the required form again", "database", s.client.Database())
	case err == nil, clickhouse.ClassOf(err) != clickhouse.Configuration: // the query failed for another reason
	default:
		s.tableWrong.Store(&err)
		s.metrics.tableUnusable.Set(1)
		if before == nil || (*before).Error() != err.Error() {
			s.log.Error("ClickHouse's table was changed and lacks the required form", "error", err)
		}
	}
}

// noticeLoss starts a count of the rows of all held partitions if ClickHouse shows a sign that some are lost. It returns
// the signs to compare the next ones with.
func (s *Service) noticeLoss(before, now clickhouse.Signs) clickhouse.Signs {
	same := now.Table == before.Table && now.Detached == before.Detached
	switch {
	case before.Table == "" || now.Table == "": // the table was just created, or does not exist yet
		return now
	case same && now.Rows >= before.Rows:
		return now
	case same && time.Since(s.fewerAt) < fewerRowsInterval: // expiring rows reduce the number all the time
		return before
	case now.Table != before.Table:
		s.log.Warn("the table of messages was replaced; counting its rows", "before", before.Table, "now", now.Table)
	case now.Detached != before.Detached:
		s.log.Warn("parts of the table were detached or attached; counting its rows", "broken", now.Broken, "rows_before", before.Rows, "rows", now.Rows)
	default:
		s.fewerAt = time.Now()
		s.log.Debug("the table has fewer rows than before; counting them", "rows_before", before.Rows, "rows", now.Rows)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runners {
		r.alarm.Signal()
	}
	return now
}

// serverMetrics show ClickHouse's state at the last health check.
type serverMetrics struct {
	up                    prometheus.Gauge
	answer                prometheus.Histogram
	rows, bytes, partsMax prometheus.Gauge
	broken                prometheus.Gauge
	diskFree, disk        prometheus.Gauge
}

func newServerMetrics(reg prometheus.Registerer) serverMetrics {
	m := serverMetrics{
		up:       gauge("clickhouse_up", "1 if ClickHouse answered the last health check, else 0."),
		answer:   histogram("clickhouse_answer_duration_seconds", "Duration of ClickHouse's answers to health checks.", prometheus.ExponentialBuckets(0.001, 2, 13)),
		rows:     gauge("clickhouse_table_rows", "Rows of the table of messages."),
		bytes:    gauge("clickhouse_table_bytes", "Size of the table of messages on disk, compressed."),
		partsMax: gauge("clickhouse_parts_max", "Active parts of the table partition with the most; by default, ClickHouse slows inserts down from 1,000 and refuses them from 3,000."),
		broken:   gauge("clickhouse_parts_broken", "Parts of the table of messages that ClickHouse set aside because it could not read them."),
		diskFree: gauge("clickhouse_disk_free_bytes", "Free space of the disk with the smallest share of free space; 0 if unknown."),
		disk:     gauge("clickhouse_disk_bytes", "Size of that disk; 0 if unknown."),
	}
	reg.MustRegister(m.up, m.answer, m.rows, m.bytes, m.partsMax, m.broken, m.diskFree, m.disk)
	return m
}

func (m *serverMetrics) show(h clickhouse.Health, signs clickhouse.Signs, err error, took time.Duration) {
	if err != nil {
		m.up.Set(0)
		return // keep the last known values
	}
	m.up.Set(1)
	m.answer.Observe(took.Seconds())
	m.rows.Set(float64(h.Rows))
	m.bytes.Set(float64(h.Bytes))
	m.partsMax.Set(float64(h.PartsMax))
	m.broken.Set(float64(signs.Broken))
	m.diskFree.Set(float64(h.DiskFreeBytes))
	m.disk.Set(float64(h.DiskBytes))
}
