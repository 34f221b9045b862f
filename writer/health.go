package writer

import (
	"context"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const (
	// healthInterval is how often ClickHouse is asked how it is, and healthTimeout how long it may take to say it.
	healthInterval = 10 * time.Second
	healthTimeout  = 5 * time.Second
	// fewerRowsInterval is how often rows are counted because there are fewer.
	fewerRowsInterval = time.Minute
)

// watchHealth shows ClickHouse's health until ctx ends. What is wrong with it is logged by those who need it for more
// than a look.
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

// recheckTable notices that the table was changed by hand since the writer has found it as it must be, also while nothing is inserted.
func (s *Service) recheckTable(ctx context.Context) {
	if !s.tableOpen.Load() {
		return // openTable is at it, and reports
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	err := s.client.Recheck(ctx)
	before := s.tableWrong.Load()
	switch {
	case err == nil && before != nil:
		s.tableWrong.Store(nil)
		s.metrics.tableUnusable.Set(0)
		s.log.Info("ClickHouse's table is as it must be again", "database", s.client.Database())
	case err == nil, clickhouse.ClassOf(err) != clickhouse.Configuration: // or it cannot be asked now
	default:
		s.tableWrong.Store(&err)
		s.metrics.tableUnusable.Set(1)
		if before == nil || (*before).Error() != err.Error() {
			s.log.Error("ClickHouse's table was changed and is not as it must be", "error", err)
		}
	}
}

// noticeLoss has the rows of all partitions that are held counted if there is a sign that some are lost. It returns what the next signs are to be
// compared with.
func (s *Service) noticeLoss(before, now clickhouse.Signs) clickhouse.Signs {
	same := now.Table == before.Table && now.Detached == before.Detached
	switch {
	case before.Table == "" || now.Table == "": // the table has just been found, or is not there yet
		return now
	case same && now.Rows >= before.Rows:
		return now
	case same && time.Since(s.fewerAt) < fewerRowsInterval: // rows that expire make it fewer all the time
		return before
	case now.Table != before.Table:
		s.log.Warn("the table of messages is another one than before; counting its rows", "before", before.Table, "now", now.Table)
	case now.Detached != before.Detached:
		s.log.Warn("parts of the table were detached or attached; counting its rows", "broken", now.Broken, "rows_before", before.Rows, "rows", now.Rows)
	default:
		s.fewerAt = time.Now()
		s.log.Debug("the table has fewer rows than before; counting them", "rows_before", before.Rows, "rows", now.Rows)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runners {
		wake(r.alarm)
	}
	return now
}

// serverMetrics show ClickHouse as it was when it was last asked.
type serverMetrics struct {
	up                    prometheus.Gauge
	answer                prometheus.Histogram
	rows, bytes, partsMax prometheus.Gauge
	broken                prometheus.Gauge
	diskFree, disk        prometheus.Gauge
}

func newServerMetrics(reg prometheus.Registerer) serverMetrics {
	m := serverMetrics{
		up:       gauge("clickhouse_up", "1 if ClickHouse answered when it was last asked how it is, else 0."),
		answer:   histogram("clickhouse_answer_duration_seconds", "How long ClickHouse took to say how it is.", prometheus.ExponentialBuckets(0.001, 2, 13)),
		rows:     gauge("clickhouse_table_rows", "Rows of the table of messages."),
		bytes:    gauge("clickhouse_table_bytes", "Size of the table of messages on disk, compressed."),
		partsMax: gauge("clickhouse_parts_max", "Active parts of the partition of a table that has the most; from 1,000 on ClickHouse slows inserts down, from 3,000 on it refuses them, by its defaults."),
		broken:   gauge("clickhouse_parts_broken", "Parts of the table of messages that ClickHouse set aside because it could not read them."),
		diskFree: gauge("clickhouse_disk_free_bytes", "Free space of the disk that has the smallest share of it free; 0 if unknown."),
		disk:     gauge("clickhouse_disk_bytes", "Size of that disk; 0 if unknown."),
	}
	reg.MustRegister(m.up, m.answer, m.rows, m.bytes, m.partsMax, m.broken, m.diskFree, m.disk)
	return m
}

func (m *serverMetrics) show(h clickhouse.Health, signs clickhouse.Signs, err error, took time.Duration) {
	if err != nil {
		m.up.Set(0)
		return // of what is not known now, the last word stands
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
