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

// identityError reports that the table is not the one that the position belongs to, or that it holds rows that the logs
// did not produce. The partition is paused: only a person can tell which of the two is right.
type identityError struct{ text string }

func (e *identityError) Error() string { return e.text }

func refuseTable(format string, args ...any) error {
	return &identityError{text: fmt.Sprintf(format, args...)}
}

// repairTable is the way out if the table is another one.
const repairTable = "point --clickhouse-dsn to the right one, or run `sendhouse repair table` to adopt this one"

// known is the part of the ClickHouse client that identifies the table.
type known interface {
	Table(ctx context.Context) (clickhouse.TableID, error)
	Owners(ctx context.Context) ([]string, error)
	Claim(ctx context.Context, deployment string) error
	Rows(ctx context.Context) (uint64, error)
	LastRow(ctx context.Context, partition int, since time.Time) (clickhouse.LastRow, bool, error)
}

// guard keeps the partitions of this instance from being written into a table that is not theirs:
//
//   - A position belongs to one table. If the table is another one, the partition is paused.
//   - One deployment claims the database, in the ledger of the database. Another deployment is refused.
//   - Every row of the table after the position must match the message log. Otherwise the logs are older than the table,
//     or were lost, and the sequencer assigns the same sequence numbers again.
//
// A session checks this at its start. In between, look checks it periodically, and a finding ends the sessions.
type guard struct {
	table      known
	deployment topology.Deployment
	target     string // for the errors
	log        *slog.Logger
	claiming   sync.Mutex  // serialises the claims of the partitions
	unclaimed  atomic.Bool // the unusable ledger has been logged

	confirmed atomic.Pointer[clickhouse.TableID]
	wrong     atomic.Pointer[error] // the finding of look since
}

// err returns the error that forbids further inserts.
func (g *guard) err() error {
	if err := g.wrong.Load(); err != nil {
		return *err
	}
	return nil
}

// look compares the table with the one that the sessions have confirmed. A failed query is not a finding.
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

// sameTable refuses a table other than the one of a position.
func sameTable(of, have clickhouse.TableID) error {
	if of.Database == have.Database && (of.UUID == have.UUID || of.UUID == "" || have.UUID == "") {
		return nil
	}
	return refuseTable("the position belongs to table %s, but this writer has table %s (%s)", of, have, repairTable)
}

// recreated reports whether the table replaces one that was dropped, and has no row of the partition: it is in the same
// database, which belongs to this deployment. Writing into it overwrites nothing.
func (g *guard) recreated(ctx context.Context, partition int, of, have clickhouse.TableID) (bool, error) {
	if of.Database != have.Database || g.deployment.ID == "" {
		return false, nil
	}
	if err := g.mine(ctx); err != nil {
		return false, nil //nolint:nilerr // the caller already has a reason to refuse
	}
	_, found, err := g.table.LastRow(ctx, partition, time.Time{})
	return err == nil && !found, err
}

// mine refuses a database that belongs to another deployment.
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
			return refuseTable("database %s belongs to deployment %s, but this is deployment %s (%s)",
				g.target, strings.Join(owners, " and "), g.deployment.ID, repairTable)
		}
	}
	if len(owners) == 0 {
		return errUnclaimed
	}
	return nil
}

var errUnclaimed = errors.New("no deployment has claimed the database")

// ledgerError lets a writer work without the ledger if it has no right to use it, or if the tables were created by hand.
func (g *guard) ledgerError(err error) error {
	if clickhouse.ClassOf(err) != clickhouse.Configuration {
		return err
	}
	if !g.unclaimed.Swap(true) {
		g.log.Warn("cannot claim the database for the deployment, so another deployment that writes into it would not be detected (the writer needs SELECT and INSERT on schema_migrations)", "error", err)
	}
	return nil
}

// claim records the deployment in the ledger of an unclaimed database: one without rows, or one that a position of this
// deployment belongs to.
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
			return refuseTable("the table in database %s has %d rows, but this deployment, %s, has written none of them (%s)", g.target, rows, g.deployment.ID, repairTable)
		}
	}
	if err := g.table.Claim(ctx, g.deployment.ID); err != nil {
		return g.ledgerError(err)
	}
	if err := g.mine(ctx); !errors.Is(err, errUnclaimed) { // another deployment may have claimed it concurrently
		return err
	}
	return errors.New("the ledger does not show the claim on the database yet")
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

// confirm refuses to write a partition into a table that is not its own, and records which table is. The session owns it.
func (r *runner) confirm(ctx context.Context) error {
	if r.guard == nil {
		return nil
	}
	table, err := r.guard.table.Table(ctx)
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	recreated := false
	if of := r.position.Table; of != nil {
		if err := sameTable(*of, table); err != nil {
			if again, failed := r.guard.recreated(ctx, r.partition, *of, table); failed != nil || !again {
				return errors.Join(err, failed)
			}
			r.log.Error("table was recreated and is empty; inserting its rows again as far back as the message log reaches", "table", table.String(), "before", of.String())
			r.position.Table, recreated = &table, true
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
	if r.position.Table != nil && !recreated {
		return nil
	}
	r.position.Table = &table
	if r.position.revision == 0 {
		return nil // the caller records it
	}
	return r.positions.save(ctx, &r.position)
}

// notBehind refuses a position that is behind the table: newer logs, which may be lost, produced its rows.
// It does not check a position again that this runner has moved itself.
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
		return refuseTable("table %s has rows of partition %d up to partition_seq %d, but there is no position: it was lost, or another program filled the table (`sendhouse repair positions` recreates it from the table)",
			table, r.partition, last.PartitionSeq)
	case found && last.PartitionSeq > written:
		if err := r.sameHistory(ctx, last, written, table); err != nil {
			return err
		}
	}
	r.asked = true
	return nil
}

// noneMissing refuses an empty table if the position has messages in it, from a version that recorded no table.
func (r *runner) noneMissing(ctx context.Context, table clickhouse.TableID) error {
	if r.position.Done == 0 || r.position.Table != nil {
		return nil
	}
	rows, err := r.guard.table.Rows(ctx)
	if err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	if rows == 0 {
		return refuseTable("according to the position, %d messages are in the table, but table %s is empty (%s)", r.position.Done, table, repairTable)
	}
	return nil
}

// doneAt returns when the message at the position was accepted, the zero time if unknown: rows after it are no older.
func (r *runner) doneAt(ctx context.Context) (time.Time, error) {
	if r.position.Done == 0 {
		return time.Time{}, nil
	}
	entry, err := r.at(ctx, r.position.Done, r.position.DoneRecord)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read message %d of %s: %w", r.position.Done, r.stream, err)
	}
	return rowsSince(entry.Data), nil
}

const (
	// stepBackMax is how far the broker's clock may step back without making the search for later rows expensive.
	stepBackMax = 24 * time.Hour
	// leadMax is how far an ID may be ahead of its message's timestamp without a clock step, by borrowing.
	leadMax = time.Second
)

// rowsSince returns a time before the timestamps of all messages that follow one in the message log, so that LastRow can
// skip older rows. It returns zero, for all rows, if the message is invalid or shows that the broker's clock was ahead:
// the following messages may then have any time.
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

// sameHistory judges a row after the position: if the message log has the same message there, someone has inserted it
// from the log, and the writer inserts it once more along with those before it.
func (r *runner) sameHistory(ctx context.Context, last clickhouse.LastRow, written uint64, table clickhouse.TableID) error {
	entry, err := r.at(ctx, last.PartitionSeq, 0)
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("read message %d of %s: %w", last.PartitionSeq, r.stream, err)
	}
	if err == nil {
		if id, wrong := message.ViewID(entry.Data); wrong == nil && int64(id) == last.MessageID {
			return nil
		}
		err = fmt.Errorf("the log holds another message at partition_seq %d", last.PartitionSeq)
	}
	return refuseTable("table %s has rows of partition %d up to partition_seq %d, but the position is at %d: the streams or the position are older than the table, or were lost (%v). "+
		"Restore NATS as it was. To give up those rows instead, delete them, and the partition is written again: "+
		"ALTER TABLE %s.messages DELETE WHERE partition = %d AND partition_seq > %d SETTINGS mutations_sync = 2",
		table, r.partition, last.PartitionSeq, written, err, table.Database, r.partition, written)
}

// AdoptTable records that the deployment's positions belong to the table of this ClickHouse, and that its database
// belongs to the deployment. Use it in a command that has shown a person both, while no writer runs. It does not insert
// messages that the table lacks: `sendhouse replay clickhouse` does.
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

// RestorePosition recreates the position of a partition that has none: after the last row that the table has of it, whose
// message the message log must hold too. It does not insert earlier messages that the table lacks: `sendhouse audit`
// finds them, and `sendhouse replay clickhouse` inserts them. It returns the partition_seq, or 0 if the table has no row
// and nothing is recorded.
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
		return 0, fmt.Errorf("read message %d of partition %d, the last one that has a row: %w", last.PartitionSeq, partition, err)
	}
	if id, err := message.ViewID(entry.Data); err != nil || int64(id) != last.MessageID {
		return 0, refuseTable("the message log of partition %d and table %[3]s hold different messages at partition_seq %[2]d: they are not of one history", partition, last.PartitionSeq, table)
	}
	at.Table, at.StreamCreated = &table, bounds.Created
	at.moved(last.PartitionSeq, xxhash.Sum64(entry.Data), entry.StreamSeq)
	return at.Done, records.save(ctx, &at)
}

// commandPositions returns positions for a command, which does not wait while NATS is unreachable.
func commandPositions(kv bucket, partition int) *positions {
	return &positions{
		kv: kv, key: positionKey(partition), writer: "repair", timeout: progressTimeout,
		wait: func(_ context.Context, _ int, err error) error { return err },
	}
}

// isRefusal reports whether an error of aheadOfLog or NotFirst is a refusal rather than a failed query.
func isRefusal(err error) bool {
	var identity *identityError
	return errors.As(err, &identity)
}

// NotFirst refuses to begin a deployment beside a table that has rows: the new deployment would assign their sequence
// numbers a second time. The table may be missing.
func NotFirst(ctx context.Context, client *clickhouse.Client) error {
	if err := reach(ctx, client.Ping); err != nil {
		return fmt.Errorf("cannot verify before the first start of a deployment that no table has rows: %w", err)
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
	return refuseTable("NATS holds nothing of a deployment, but database %s has %d rows %s, whose sequence numbers a new deployment would assign again (restore NATS as it was, or begin with an empty database: another one in --clickhouse-dsn, or this one after its tables were dropped or renamed)",
		client.Database(), rows, of)
}

// On its first start, a deployment waits this long for a ClickHouse that is started at the same time.
const (
	reachTimeout = 7 * time.Second
	reachRetry   = 250 * time.Millisecond
)

// reach retries ping for at most reachTimeout. An attempt that this limit interrupts reveals nothing about ClickHouse, so
// reach returns the error of the attempt before it.
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
