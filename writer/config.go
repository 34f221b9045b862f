package writer

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// Config is how the writer is set up. Embed it in the command line.
type Config struct {
	clickhouse.Config

	ClickHouseMigrate bool `name:"clickhouse-migrate" help:"Create the database and its tables at start, or bring them up to date." default:"true" negatable:""`

	FlushRowsMax      int           `help:"A batch is inserted when it has this many rows." default:"100000"`
	FlushBytesMax     int64         `help:"A batch is inserted when it has this many bytes." default:"33554432"`
	FlushInterval     time.Duration `help:"A batch is inserted this long after its first message at the latest, and after half of that if it has 5,000 rows. Each batch of each partition makes a part in ClickHouse: with many partitions, wait longer." default:"1s"`
	WriterBytesMax    int64         `help:"Memory for batches of all partitions together, in bytes; a partition that finds none waits." default:"268435456"`
	WriterInsertsMax  int           `help:"Inserts at the same time. Each needs about three times the size of its batch besides." default:"2"`
	WriterLeaseTTL    time.Duration `help:"Time after which the partitions of a writer that has died go to another, from 1s to 1h." default:"6s"`
	WriterStopTimeout time.Duration `help:"When told to stop, an insert that is under way may take this long; after that it is left to the next start." default:"10s"`
}

// Limits of the settings.
const (
	flushBytesMaxLimit  = clickhouse.BlockBytesMax / 2 // a batch ends behind the record that passes the limit
	flushIntervalLimit  = time.Minute
	writerBytesMaxFloor = 16 << 20
	insertsMaxLimit     = 64
)

// Check reports everything that is wrong with the settings.
func (c Config) Check() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	if err := c.Config.Check(); err != nil {
		errs = append(errs, err)
	}
	check(c.FlushRowsMax >= 1 && c.FlushRowsMax <= clickhouse.BlockRowsMax,
		"--flush-rows-max %d: must be 1 to %d", c.FlushRowsMax, clickhouse.BlockRowsMax)
	check(c.FlushBytesMax >= 1 && c.FlushBytesMax <= flushBytesMaxLimit,
		"--flush-bytes-max %d: must be 1 to %d", c.FlushBytesMax, flushBytesMaxLimit)
	check(c.FlushInterval > 0 && c.FlushInterval <= flushIntervalLimit,
		"--flush-interval %s: must be above 0 and at most %s", c.FlushInterval, flushIntervalLimit)
	check(c.WriterBytesMax >= writerBytesMaxFloor, "--writer-bytes-max %d: must be at least %d", c.WriterBytesMax, writerBytesMaxFloor)
	check(c.WriterInsertsMax >= 1 && c.WriterInsertsMax <= insertsMaxLimit, "--writer-inserts-max %d: must be 1 to %d", c.WriterInsertsMax, insertsMaxLimit)
	check(lease.TTLMin <= c.WriterLeaseTTL && c.WriterLeaseTTL <= lease.TTLMax, "--writer-lease-ttl %s: must be between %s and %s", c.WriterLeaseTTL, lease.TTLMin, lease.TTLMax)
	check(c.WriterStopTimeout > 0, "--writer-stop-timeout %s: must be above 0", c.WriterStopTimeout)
	return errors.Join(errs...)
}

// Deps is what the writer works with. All fields but Instance and Tracer must be set.
type Deps struct {
	JetStream jetstream.JetStream
	// Partitions is the number of partitions of the deployment, as pkg/broker.EnsureDeployment gives it.
	Partitions int
	// Deployment is the one that the messages are of; the database is claimed for it. Without an ID, nothing is claimed.
	Deployment topology.Deployment
	// Instance, if given, is a name that no other process can have, such as one tied to a locked folder. What
	// an earlier run under it still held is taken at once.
	Instance   string
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Tracer follows sends; nil if nothing is traced.
	Tracer *tracing.Tracer
}

func (d Deps) validate() error {
	var errs []error
	require := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("writer: %s is missing", what))
		}
	}
	require(d.JetStream != nil, "JetStream")
	require(d.Logger != nil, "the logger")
	require(d.Registerer != nil, "the metrics registerer")
	if _, err := topology.NewPartitions(d.Partitions); err != nil {
		errs = append(errs, fmt.Errorf("writer: %w", err))
	}
	return errors.Join(errs...)
}
