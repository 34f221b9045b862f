package writer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// identityError says that the table is not the one that the position is of, or that it holds what the logs have not made.
// The partition is paused: only a person can tell which of the two is right.
type identityError struct{ text string }

func (e *identityError) Error() string { return e.text }

func refuseTable(format string, args ...any) error {
	return &identityError{text: fmt.Sprintf(format, args...)}
}

// repairTable is the way out where the table is another one.
const repairTable = "point --clickhouse-dsn to the right one, or say with `sendhouse repair table` that this one is right"

// known is the table that a guard looks at.
type known interface {
	Table(ctx context.Context) (clickhouse.TableID, error)
	Owners(ctx context.Context) ([]string, error)
	Claim(ctx context.Context, deployment string) error
	Rows(ctx context.Context) (uint64, error)
	LastRow(ctx context.Context, partition int, since time.Time) (clickhouse.LastRow, bool, error)
}

// guard keeps the partitions of this instance from being written into a table that is not theirs:
//
//   - A position is of one table. Where there is another one, the partition is paused.
//   - The database is claimed for one deployment, in its ledger. Another deployment is refused.
//   - The table has no row that lies behind the position but those that the message log has there, too. Otherwise the logs are
//     older than the table, or were lost: they give out again what was given out before.
//
// A session asks at its start; in between, look asks from time to time, and what it finds ends the sessions.
type guard struct {
	table      known
	deployment topology.Deployment
	target     string // for the errors
	log        *slog.Logger
	claiming   sync.Mutex  // so that partitions do not each enter it
	unclaimed  atomic.Bool // that the ledger cannot be used was logged

	confirmed atomic.Pointer[clickhouse.TableID]
	wrong     atomic.Pointer[error] // what look has found since
}

// err is what ends an insert before it begins.
func (g *guard) err() error {
	if err := g.wrong.Load(); err != nil {
		return *err
	}
	return nil
}

// look compares the table with the one that the sessions have confirmed. What cannot be asked now is not wrong.
func (g *guard) look(ctx context.Context) {
	confirmed := g.confirmed.Load()
	if confirmed == nil {
		return
	}
	table, err := g.table.Table(ctx)
	if err != nil {
		return
	}
	err = sameTable(*confirmed, table)
	if err == nil {
		var identity *identityError
		if err = g.mine(ctx); !errors.As(err, &identity) {
			return
		}
	}
	g.wrong.Store(&err)
}

// sameTable refuses another table than the one of a position.
func sameTable(of, have clickhouse.TableID) error {
	if of.Database == have.Database && (of.UUID == have.UUID || of.UUID == "" || have.UUID == "") {
		return nil
	}
	return refuseTable("the position is of table %s, and this writer has table %s (%s)", of, have, repairTable)
}

// madeAgain reports whether the table is one in the place of one that was dropped, and has no row of the partition: in the same
// database, which is this deployment's. Nothing of it can be written over.
func (g *guard) madeAgain(ctx context.Context, partition int, of, have clickhouse.TableID) (bool, error) {
	if of.Database != have.Database || g.deployment.ID == "" {
		return false, nil
	}
	if err := g.mine(ctx); err != nil {
		return false, nil //nolint:nilerr // the caller has a reason to refuse already
	}
	_, found, err := g.table.LastRow(ctx, partition, time.Time{})
	return err == nil && !found, err
}

// mine refuses a database that is another deployment's.
func (g *guard) mine(ctx context.Context) error {
	if g.deployment.ID == "" {
		return nil
	}
	owners, err := g.table.Owners(ctx)
	if err != nil {
		return g.ledgerError(err)
	}
	for _, owner := range owners {
		if owner != g.deployment.ID {
			return refuseTable("database %s belongs to deployment %s, and this one is deployment %s (%s)",
				g.target, strings.Join(owners, " and "), g.deployment.ID, repairTable)
		}
	}
	if len(owners) == 0 {
		return errUnclaimed
	}
	return nil
}

var errUnclaimed = errors.New("no deployment has claimed the database")

// ledgerError lets a writer do without the ledger that may not use it, or that has none because the tables were made by hand.
func (g *guard) ledgerError(err error) error {
	if clickhouse.ClassOf(err) != clickhouse.Configuration {
		return err
	}
	if !g.unclaimed.Swap(true) {
		g.log.Warn("the database cannot be claimed for the deployment; another one that writes into it would not be noticed (the writer needs SELECT and INSERT on schema_migrations)", "error", err)
	}
	return nil
}

// claim enters the deployment in the ledger of a database that is nobody's: one without rows, or one that a position of this
// deployment is of.
func (g *guard) claim(ctx context.Context, p position, positions *positions) error {
	g.claiming.Lock()
	defer g.claiming.Unlock()
	if err := g.mine(ctx); !errors.Is(err, errUnclaimed) {
		return err
	}
	rows, err := g.table.Rows(ctx)
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	if rows > 0 && p.Done == 0 {
		has, err := hasWritten(ctx, positions.kv, g.deployment.Partitions)
		if err != nil {
			return err
		}
		if !has {
			return refuseTable("the table in database %s has %d rows, and this deployment, %s, has written none of them (%s)", g.target, rows, g.deployment.ID, repairTable)
		}
	}
	if err := g.table.Claim(ctx, g.deployment.ID); err != nil {
		return g.ledgerError(err)
	}
	if err := g.mine(ctx); !errors.Is(err, errUnclaimed) { // another one may have claimed it at the same time
		return err
	}
	return errors.New("the claim on the database is not in its ledger yet")
}

// hasWritten reports whether any partition of the deployment has a message in the table.
func hasWritten(ctx context.Context, kv bucket, partitions int) (bool, error) {
	for p := range partitions {
		at, err := (&positions{kv: kv, key: positionKey(p), timeout: progressTimeout}).load(ctx)
		if err != nil {
			return false, err
		}
		if at.Done > 0 {
			return true, nil
		}
	}
	return false, nil
}

// confirm refuses to write a partition into a table that is not its own, and records which is. It belongs to the session.
func (r *runner) confirm(ctx context.Context) error {
	if r.guard == nil {
		return nil
	}
	table, err := r.guard.table.Table(ctx)
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	madeAgain := false
	if of := r.position.Table; of != nil {
		if err := sameTable(*of, table); err != nil {
			if again, failed := r.guard.madeAgain(ctx, r.partition, *of, table); failed != nil || !again {
				return errors.Join(err, failed)
			}
			r.log.Error("table was made again, and is empty; rows are filled in as far back as the message log reaches", "table", table.String(), "before", of.String())
			r.position.Table, madeAgain = &table, true
		}
	}
	if err := r.guard.mine(ctx); errors.Is(err, errUnclaimed) {
		err = r.guard.claim(ctx, r.position, r.positions)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := r.notBehind(ctx, table); err != nil {
		return err
	}
	r.guard.confirmed.Store(&table)
	r.guard.wrong.Store(nil)
	if r.position.Table != nil && !madeAgain {
		return nil
	}
	r.position.Table = &table
	if r.position.revision == 0 {
		return nil // what follows records it
	}
	return r.positions.save(ctx, &r.position)
}

// notBehind refuses a position that is behind the table: its rows were written by logs that are newer than these, or that are lost.
// A position that this runner has moved itself is not asked about again.
func (r *runner) notBehind(ctx context.Context, table clickhouse.TableID) error {
	if r.asked {
		return nil
	}
	if err := r.noneMissing(ctx, table); err != nil {
		return err
	}
	written := r.position.Done
	if r.position.Pending != nil {
		written = r.position.Pending.Last
	}
	since, err := r.doneAt(ctx)
	if err != nil {
		return err
	}
	last, found, err := r.guard.table.LastRow(ctx, r.partition, since)
	switch {
	case err != nil:
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	case found && r.position.revision == 0:
		return refuseTable("table %s has rows of partition %d up to place %d, and there is no position: it was lost, or the table was filled by something else (`sendhouse repair positions` makes it again from the table)",
			table, r.partition, last.PartitionSeq)
	case found && last.PartitionSeq > written:
		if err := r.sameHistory(ctx, last, written, table); err != nil {
			return err
		}
	}
	r.asked = true
	return nil
}

// noneMissing refuses an empty table that a position says to be written: one of a version that recorded no table.
func (r *runner) noneMissing(ctx context.Context, table clickhouse.TableID) error {
	if r.position.Done == 0 || r.position.Table != nil {
		return nil
	}
	rows, err := r.guard.table.Rows(ctx)
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	if rows == 0 {
		return refuseTable("the position says that %d messages are in the table, and table %s is empty (%s)", r.position.Done, table, repairTable)
	}
	return nil
}

// doneAt is when the message at the position was accepted, the zero time if that is not known: rows behind it are no older.
func (r *runner) doneAt(ctx context.Context) (time.Time, error) {
	if r.position.Done == 0 {
		return time.Time{}, nil
	}
	entry, err := r.at(ctx, r.position.Done, r.position.DoneRecord)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("look for message %d of %s: %w", r.position.Done, r.stream, err)
	}
	return rowsSince(entry.Data), nil
}

const (
	// stepBackMax is how far the broker's clock may step back so that rows of later messages are still found cheaply.
	stepBackMax = 24 * time.Hour
	// leadMax is how far an ID may be ahead of its message's timestamp without a step, by borrowing.
	leadMax = time.Second
)

// rowsSince is a time before the timestamps of all messages that follow one in the message log, so that LastRow need not read
// the older rows. It is zero, for all rows, if the message is none or shows that the broker's clock was ahead: what follows may be
// of any time then.
func rowsSince(encoded []byte) time.Time {
	id, err := message.ViewID(encoded)
	if err != nil {
		return time.Time{}
	}
	at, err := message.ViewTime(encoded)
	if err != nil || id.Time().Sub(at) > leadMax || at.After(time.Now().Add(leadMax)) {
		return time.Time{}
	}
	return at.Add(-stepBackMax)
}

// sameHistory decides about a row behind the position: if the message log has the same message there, somebody has inserted it
// from the log, and the writer inserts it once more with what is before it.
func (r *runner) sameHistory(ctx context.Context, last clickhouse.LastRow, written uint64, table clickhouse.TableID) error {
	entry, err := r.at(ctx, last.PartitionSeq, 0)
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("look for message %d of %s: %w", last.PartitionSeq, r.stream, err)
	}
	if err == nil {
		if id, wrong := message.ViewID(entry.Data); wrong == nil && int64(id) == last.MessageID {
			return nil
		}
		err = fmt.Errorf("the log holds another message at place %d", last.PartitionSeq)
	}
	return refuseTable("table %s has rows of partition %d up to place %d, and the position is at place %d: the streams or the position are older than the table, or were lost (%v). "+
		"Restore NATS as it was. If those rows are to be given up, delete them, and the partition is written again: "+
		"ALTER TABLE %s.messages DELETE WHERE partition = %d AND partition_seq > %d SETTINGS mutations_sync = 2",
		table, r.partition, last.PartitionSeq, written, err, table.Database, r.partition, written)
}

// AdoptTable records that the table of a ClickHouse is the one that the deployment's positions are of, and that its database is the
// deployment's. It is meant for a command that has shown a person both; no writer should run. Messages that the table lacks are not
// inserted by it: `sendhouse replay clickhouse` does that.
func AdoptTable(ctx context.Context, js jetstream.JetStream, client *clickhouse.Client, deployment topology.Deployment) error {
	table, err := client.Table(ctx)
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	kv, err := openBucket(ctx, js)
	if err != nil {
		return err
	}
	for p := range deployment.Partitions {
		records := commandPositions(kv, p)
		at, err := records.load(ctx)
		if err != nil {
			return err
		}
		if at.revision == 0 || at.Table != nil && *at.Table == table {
			continue
		}
		at.Table = &table
		if err := records.save(ctx, &at); err != nil {
			return err
		}
	}
	owners, err := client.Owners(ctx)
	if err != nil || deployment.ID == "" || len(owners) == 1 && owners[0] == deployment.ID {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	if err := client.Release(ctx); err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	return client.Claim(ctx, deployment.ID) //nolint:wrapcheck // a clickhouse.Error says it all
}

// RestorePosition makes the position of a partition that has none again: behind the last row that the table has of it, which the
// message log must hold, too. Messages before that one which the table lacks are not inserted by it: `sendhouse audit`
// finds them, and `sendhouse replay clickhouse` inserts them. It returns the place, 0 where the table has no row and nothing is recorded.
func RestorePosition(ctx context.Context, js jetstream.JetStream, client *clickhouse.Client, partition int) (uint64, error) {
	kv, err := openBucket(ctx, js)
	if err != nil {
		return 0, err
	}
	records := commandPositions(kv, partition)
	at, err := records.load(ctx)
	if err != nil || at.revision != 0 {
		return at.Done, err
	}
	table, err := client.Table(ctx)
	if err != nil {
		return 0, err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	last, found, err := client.LastRow(ctx, partition, time.Time{})
	if err != nil || !found {
		return 0, err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	log, err := messagelog.Open(ctx, js, partition)
	if err != nil {
		return 0, err //nolint:wrapcheck // it says what was being done
	}
	bounds, err := log.Bounds(ctx)
	if err != nil {
		return 0, err //nolint:wrapcheck // it says what was being done
	}
	entry, err := log.At(ctx, last.PartitionSeq, 0)
	if err != nil {
		return 0, fmt.Errorf("look for message %d of partition %d, the last one that has a row: %w", last.PartitionSeq, partition, err)
	}
	if id, err := message.ViewID(entry.Data); err != nil || int64(id) != last.MessageID {
		return 0, refuseTable("the message log of partition %d holds another message at place %d than table %s: they are not of one history", partition, last.PartitionSeq, table)
	}
	at.Table, at.StreamCreated = &table, bounds.Created
	at.moved(last.PartitionSeq, xxhash.Sum64(entry.Data), entry.Record)
	return at.Done, records.save(ctx, &at)
}

// commandPositions is for a command, which does not wait for a NATS that is away.
func commandPositions(kv bucket, partition int) *positions {
	return &positions{
		kv: kv, key: positionKey(partition), writer: "repair", timeout: progressTimeout,
		wait: func(_ context.Context, _ int, err error) error { return err },
	}
}

// IsRefusal reports whether an error is one of AheadOfLog or NotFirst that refuses, rather than one of the question.
func IsRefusal(err error) bool {
	var identity *identityError
	return errors.As(err, &identity)
}

// NotFirst refuses to begin a deployment beside a table that has rows: its numbers would be given out a second time. The table
// may be missing.
func NotFirst(ctx context.Context, client *clickhouse.Client) error {
	if err := reach(ctx, client.Ping); err != nil {
		return fmt.Errorf("the first start of a deployment must know that there is no table with rows: %w", err)
	}
	there, err := client.Exists(ctx)
	if err != nil || !there {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	rows, err := client.Rows(ctx)
	if err != nil || rows == 0 {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	of := "of an unknown deployment"
	if owners, err := client.Owners(ctx); err == nil && len(owners) > 0 {
		of = "of deployment " + strings.Join(owners, " and ")
	}
	return refuseTable("NATS holds nothing of a deployment, and database %s has %d rows %s, whose numbers a new deployment would give out again (restore NATS as it was, or begin with an empty database: another one in --clickhouse-dsn, or this one after its tables were dropped or renamed)",
		client.Database(), rows, of)
}

// A first start waits so long for a ClickHouse that is started at the same time.
const (
	reachTimeout = 7 * time.Second
	reachRetry   = 250 * time.Millisecond
)

// reach waits until ping has an answer, for reachTimeout at most. An attempt that this limit cuts off says nothing of
// ClickHouse, so the error is that of the attempt before it.
func reach(ctx context.Context, ping func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	var last error
	for {
		err := ping(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if clickhouse.ClassOf(err) == clickhouse.Configuration || lifecycle.Pause(ctx, reachRetry) != nil {
			return last //nolint:wrapcheck // a clickhouse.Error says it all
		}
	}
}
