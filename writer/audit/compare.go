package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/writer"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const (
	// rangeSize is the number of partition_seqs that are summed up together, and compared one by one if the sums
	// differ.
	rangeSize = 16_384
	// windowRanges is the number of ranges per ClickHouse query, each of which reads the columns partition and
	// partition_seq of the whole table.
	windowRanges = 256
	// expiryMargin excludes messages that may expire during the audit.
	expiryMargin = time.Hour
)

// CheckRows is the name of the check that compares rows with messages.
const CheckRows = "rows"

// Compared is the coverage and result of comparing one partition.
type Compared struct {
	First    uint64 `json:"first"` // partition_seqs
	Last     uint64 `json:"last"`
	Rows     uint64 `json:"rows"`
	Expiring uint64 `json:"expiring"` // excluded messages
	// The following fields count differences, by kind.
	Missing uint64 `json:"missing"`
	Twice   uint64 `json:"twice"`
	Changed uint64 `json:"changed"`
	Foreign uint64 `json:"foreign"` // rows without a message in the message log
	// Explained counts missing rows whose messages are dead letters.
	Explained   uint64 `json:"dead_letters"`
	Undecodable uint64 `json:"undecodable"` // entries that are not messages
	OldRows     uint64 `json:"old_rows"`    // rows whose messages retention has removed
}

// Auditor compares the partitions of a deployment.
type Auditor struct {
	js         jetstream.JetStream
	client     *clickhouse.Client
	partitions int
	log        *slog.Logger
	expiresBy  uint64
	letters    map[writer.Letter]bool // read on first use
}

// New returns an auditor.
func New(js jetstream.JetStream, client *clickhouse.Client, partitions int, log *slog.Logger) *Auditor {
	return &Auditor{js: js, client: client, partitions: partitions, log: log, expiresBy: uint64(time.Now().Add(expiryMargin).Unix())}
}

// Audit compares all partitions.
func (a *Auditor) Audit(ctx context.Context, report *audit.Report) {
	for p := range a.partitions {
		part, err := a.Compare(ctx, p)
		report.Add(a.log, part, err)
	}
	part := &audit.Part{Check: "rows of no partition", Partition: audit.AllPartitions}
	report.Add(a.log, part, a.compareExtents(ctx, part))
}

// compareExtents finds rows of partitions that the deployment does not have.
func (a *Auditor) compareExtents(ctx context.Context, part *audit.Part) error {
	extents, err := a.client.Extents(ctx)
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	for _, e := range extents {
		part.Compared += e.Rows
		if int(e.Partition) >= a.partitions {
			part.Differ("%d rows belong to partition %d, but there are %d partitions", e.Rows, e.Partition, a.partitions)
		}
	}
	return nil
}

// Compare compares a partition. The returned part is never nil; its details are a [*Compared].
func (a *Auditor) Compare(ctx context.Context, partition int) (*audit.Part, error) {
	c := &comparison{
		Auditor: a, part: &audit.Part{Check: CheckRows, Partition: partition}, report: new(Compared),
		progress: audit.NewProgress(a.log, CheckRows, partition), digester: clickhouse.NewDigester(),
	}
	c.part.Details = c.report
	err := c.compare(ctx)
	return c.part, err
}

type comparison struct {
	*Auditor
	part     *audit.Part
	report   *Compared
	progress *audit.Progress
	log      *messagelog.Log
	digester *clickhouse.Digester
}

func (c *comparison) compare(ctx context.Context) error {
	recorded, err := writer.Done(ctx, c.js, c.part.Partition)
	if err != nil {
		return err //nolint:wrapcheck // says what was being done
	}
	done := recorded.Done
	if c.log, err = messagelog.Open(ctx, c.js, c.part.Partition); err != nil {
		return err
	}
	bounds, err := c.log.Bounds(ctx)
	if err != nil {
		return err
	}
	if bounds.Gone { // all messages are old
		bounds.First, bounds.Last = done+1, done
	}
	if err := behind(recorded, bounds); err != nil {
		return err
	}
	c.report.First, c.report.Last = bounds.First, min(done, bounds.Last)
	if waiting := bounds.Last - c.report.Last; waiting > 0 {
		c.part.Omit("%d messages from %d on that the writer has not recorded as done", waiting, c.report.Last+1)
	}
	for first := c.report.First; first <= c.report.Last; first += rangeSize * windowRanges {
		if err := c.window(ctx, first, min(first+rangeSize*windowRanges-1, c.report.Last)); err != nil {
			return err
		}
	}
	if c.report.Expiring > 0 {
		c.part.Omit("%d messages that have expired, or will within %s", c.report.Expiring, expiryMargin)
	}
	if err := c.compareOld(ctx, c.report.First); err != nil {
		return err
	}
	return c.compareBeyond(ctx)
}

// behind returns an error if the message log ends before what the writer has read from it.
func behind(recorded writer.Recorded, bounds messagelog.Bounds) error {
	if bounds.Gone || recorded.Begun <= bounds.Last {
		return nil
	}
	return fmt.Errorf("the writer has read up to message %d, but the message log ends at %d: its tail is being derived again; try again later", recorded.Begun, bounds.Last)
}

// window compares several ranges. It sums up the messages first, so that their rows are in ClickHouse when it sums up those.
func (c *comparison) window(ctx context.Context, first, last uint64) error {
	var want [windowRanges]clickhouse.RangeSum
	expiring := uint64(0)
	err := c.log.Range(ctx, first, last, nil, func(r messagelog.Entry) error {
		c.progress.At(r.PartitionSeq, c.report.Last)
		d, err := c.digester.Digest(r.PartitionSeq, r.Data)
		switch {
		case errors.Is(err, clickhouse.ErrUndecodable):
			c.report.Undecodable++ // a dead letter; the check of the chain reports it
		case err != nil:
			return err //nolint:wrapcheck // says which record
		case c.expired(d):
			expiring++
		default:
			sum := &want[(r.PartitionSeq-first)/rangeSize]
			sum.Rows++
			sum.Sum += d.Hash
		}
		return nil
	})
	if err != nil {
		return err
	}
	have, err := c.client.SumRanges(ctx, c.selected(first, last), rangeSize)
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	for i, sum := range &want {
		from := first + uint64(i)*rangeSize
		if from > last {
			break
		}
		got := have[uint64(i)]
		c.report.Rows += got.Rows
		c.part.Compared += sum.Rows
		if got != sum {
			if err := c.rows(ctx, from, min(from+rangeSize-1, last)); err != nil {
				return err
			}
		}
	}
	c.report.Expiring += expiring
	return nil
}

func (c *comparison) selected(first, last uint64) clickhouse.Selection {
	return clickhouse.Selection{Partition: c.part.Partition, First: first, Last: last, ExpiresBy: c.expiresBy}
}

func (c *comparison) expired(d clickhouse.Digested) bool {
	return d.Expires > 0 && d.Expires <= c.expiresBy
}

// compareOld checks the rows before the message log's first message: there is nothing to compare them with, but none of
// them may be stored twice.
func (c *comparison) compareOld(ctx context.Context, before uint64) error {
	if before <= 1 {
		return nil
	}
	var absent uint64
	for first := uint64(1); first < before; first += rangeSize * windowRanges {
		last := min(first+rangeSize*windowRanges-1, before-1)
		counts, err := c.client.Count(ctx, c.selected(first, last))
		if err != nil {
			return err //nolint:wrapcheck // a clickhouse.Error says it all
		}
		c.report.OldRows += counts.Rows
		if twice := counts.Rows - counts.Different; twice > 0 {
			c.report.Twice += twice
			c.part.Differ("%d rows of messages %d to %d are stored more than once", twice, first, last)
		}
		absent += last - first + 1 - counts.Different
	}
	c.part.Omit("%d rows of messages 1 to %d, which retention has removed from the message log; %d more of these messages have no row: expired, or dead letters, or lost",
		c.report.OldRows, before-1, absent)
	return nil
}

// compareBeyond finds rows of messages that the log does not have yet. It reads the writer's position and the log after the
// rows, because messages keep arriving.
func (c *comparison) compareBeyond(ctx context.Context) error {
	extents, err := c.client.Extents(ctx)
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	recorded, err := writer.Done(ctx, c.js, c.part.Partition)
	if err != nil {
		return err //nolint:wrapcheck // says what was being done
	}
	bounds, err := c.log.Bounds(ctx)
	if err != nil {
		return err
	}
	if err := behind(recorded, bounds); err != nil {
		return err
	}
	for _, e := range extents {
		if int(e.Partition) == c.part.Partition && e.Last > bounds.Last && !bounds.Gone {
			c.report.Foreign++
			c.part.Differ("there is a row of message %d, but the message log ends at %d", e.Last, bounds.Last)
		}
	}
	return nil
}
