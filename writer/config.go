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

// Config holds the settings of the writer. Embed it in the command line.
type Config struct {
	clickhouse.Config

	ClickHouseMigrate bool `name:"clickhouse-migrate" help:"At start, create the database and its tables, or bring them up to date." default:"true" negatable:""`

	FlushRowsMax      int           `help:"A batch is inserted when it has this many rows." default:"100000"`
	FlushBytesMax     int64         `help:"A batch is inserted when it has this many bytes." default:"33554432"`
	FlushInterval     time.Duration `help:"A batch is inserted at most this long after its first message, and after half of that once it has 5,000 rows. Each batch of each partition creates a part in ClickHouse, so raise this if there are many partitions." default:"1s"`
	WriterBytesMax    int64         `help:"Memory for the batches of all partitions together, in bytes. A partition waits if none is free." default:"268435456"`
	WriterInsertsMax  int           `help:"Concurrent inserts. Each needs about three times the size of its batch in additional memory." default:"2"`
	WriterLeaseTTL    time.Duration `help:"Time after which another writer takes over the partitions of one that has died, from 1s to 1h." default:"6s"`
	WriterStopTimeout time.Duration `help:"On shutdown, an insert in progress may take this long; after that the next start finishes it." default:"10s"`
}

// Limits of the settings.
const (
	flushBytesMaxLimit  = clickhouse.BlockBytesMax / 2 // a batch ends after the record that exceeds the limit
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

// Deps holds the dependencies of the writer. All fields but Instance and Tracer must be set.
type Deps struct {
	JetStream jetstream.JetStream
	// Partitions is the number of partitions of the deployment, as pkg/broker.EnsureDeployment returns it.
	Partitions int
	// Deployment is the one that the messages belong to; the writer claims the database for it. Without an ID, it claims nothing.
	Deployment topology.Deployment
	// Instance, if set, is a name that no other process can have, such as one tied to a locked folder. The writer
	// takes over at once the leases that an earlier run under the same name still holds.
	Instance   string
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Tracer traces sends; nil disables tracing.
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
