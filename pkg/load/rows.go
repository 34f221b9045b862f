package load

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/go-faster/city"

	"github.com/sendhouse/sendhouse/pkg/message"
)

const (
	// rowBuckets is over how many sums the sends are spread: what differs is then narrowed down to a
	// thousandth of the sends.
	rowBuckets   = 1024
	rowsInterval = 250 * time.Millisecond
	rowsTimeout  = 5 * time.Minute
)

// Table says where the rows are.
type Table struct {
	Conn driver.Conn
	Name string // as it follows FROM, to read each message once
	// Patience is how long no row may arrive before the rows are looked at as they are.
	Patience time.Duration
}

// rowSums adds up what rows there must be: their number and the sum of their hashes.
type rowSums struct {
	counts, sums [rowBuckets]atomic.Uint64
}

// RowCheck is what comparing the rows with the answers came to.
type RowCheck struct {
	Wanted      uint64   `json:"wanted"`
	Rows        uint64   `json:"rows"`
	Differences []string `json:"differences,omitempty"` // buckets of send numbers whose rows differ
	Unknown     uint64   `json:"unknown,omitempty"`     // sends without an answer, left out
	CannotTell  string   `json:"cannot_tell,omitempty"`
}

// Clean reports whether the rows are those that were answered, each once.
func (c *RowCheck) Clean() bool {
	return c.CannotTell == "" && c.Wanted == c.Rows && len(c.Differences) == 0
}

// String is the check in a line or some.
func (c *RowCheck) String() string {
	switch {
	case c.CannotTell != "":
		return "Rows: cannot tell: " + c.CannotTell
	case c.Clean():
		return fmt.Sprintf("Rows: %d, each once, as sent and answered.", c.Rows)
	default:
		return fmt.Sprintf("Rows: DIFFERENT: %d wanted, %d there\n  %s", c.Wanted, c.Rows, strings.Join(c.Differences, "\n  "))
	}
}

// expect adds a row. Its text is what rowExpression makes of it in ClickHouse; no name holds a comma.
func (s *rowSums) expect(script *script, m send, id message.ID, seq uint64, scratch *[]byte) {
	b := strconv.AppendInt((*scratch)[:0], int64(id), 10)
	b = strconv.AppendUint(append(b, ','), seq, 10)
	b = script.appendChannel(append(b, ','), m)
	b = strconv.AppendUint(append(b, ','), uint64(script.kind), 10)
	b = script.appendFrom(append(b, ','), m)
	b = script.appendKey(append(b, ','), m)
	b = script.appendPayload(append(b, ','), m)
	*scratch = b
	bucket := m.n % rowBuckets
	s.counts[bucket].Add(1)
	s.sums[bucket].Add(city.CH64(b))
}

const rowExpression = "cityHash64(concat(toString(message_id), ',', toString(message_seq), ',', channel_id, ',', toString(channel_type), ',', from_uid, ',', client_msg_no, ',', payload))"

// Verify waits until the rows have arrived and compares them with what was answered: the number and
// a sum of hashes over all that was sent and answered, by send number modulo 1024. It adds to the
// report. An error means that ClickHouse could not be asked.
func (r *Run) Verify(ctx context.Context, table Table, report *Report) error {
	if r.rows == nil {
		return errors.New("the run was not made to be verified")
	}
	ctx, cancel := context.WithTimeout(ctx, rowsTimeout+table.Patience)
	defer cancel()
	check := &RowCheck{Unknown: r.checker.unknowns}
	for i := range r.rows.counts {
		check.Wanted += r.rows.counts[i].Load()
	}
	if r.checker.unknowns > uint64(len(r.checker.unknown)) {
		check.CannotTell = fmt.Sprintf("%d sends got no answer, so their rows cannot be judged", r.checker.unknowns)
		report.Rows = check
		return nil
	}
	from := r.from(table)
	if err := r.awaitRows(ctx, table, from, check.Wanted); err != nil {
		return err
	}
	rows, err := table.Conn.Query(ctx, fmt.Sprintf("SELECT toUInt64(toUInt64OrZero(substring(client_msg_no, %d)) %% %d) AS bucket, count(), sum(%s) %s GROUP BY bucket",
		len(r.name)+2, rowBuckets, rowExpression, from))
	if err != nil {
		return fmt.Errorf("sum the rows up: %w", err)
	}
	defer func() { _ = rows.Close() }() // its errors are those of Err
	var counts, sums [rowBuckets]uint64
	for rows.Next() {
		var bucket, count, sum uint64
		if err := rows.Scan(&bucket, &count, &sum); err != nil {
			return fmt.Errorf("sum the rows up: %w", err)
		}
		counts[bucket%rowBuckets], sums[bucket%rowBuckets] = count, sum
		check.Rows += count
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("sum the rows up: %w", err)
	}
	for i := range counts {
		want := r.rows.counts[i].Load()
		if (counts[i] != want || sums[i] != r.rows.sums[i].Load()) && len(check.Differences) < violationsKept {
			check.Differences = append(check.Differences, fmt.Sprintf("sends with a number of %d modulo %d: %d rows, wanted %d, hashes %x and %x",
				i, rowBuckets, counts[i], want, sums[i], r.rows.sums[i].Load()))
		}
	}
	report.Rows = check
	return nil
}

// from is the table with the rows of this run that were answered. The first column of its key is the
// channel, and all channels of the run begin with its name and a hyphen.
func (r *Run) from(table Table) string {
	var b strings.Builder
	fmt.Fprintf(&b, "FROM %s WHERE channel_id >= '%s-' AND channel_id < '%s.'", table.Name, r.name, r.name)
	if len(r.checker.unknown) > 0 {
		b.WriteString(" AND client_msg_no NOT IN (")
		for i, m := range r.checker.unknown {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "'%s'", r.script.appendKey(nil, m))
		}
		b.WriteString(")")
	}
	return b.String()
}

// awaitRows waits until there are enough rows, or none has come for a while.
func (r *Run) awaitRows(ctx context.Context, table Table, from string, wanted uint64) error {
	ticker := time.NewTicker(rowsInterval)
	defer ticker.Stop()
	var most uint64
	changed := time.Now()
	for {
		var n uint64
		if err := table.Conn.QueryRow(ctx, "SELECT count() "+from).Scan(&n); err != nil {
			return fmt.Errorf("count the rows: %w", err)
		}
		if n > most {
			most, changed = n, time.Now()
		}
		if n >= wanted || time.Since(changed) > table.Patience {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
