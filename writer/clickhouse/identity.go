package clickhouse

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// TableID identifies a table of messages. A writer's position belongs to one table.
type TableID struct {
	Database string `json:"database"`
	// UUID is the table's, which changes when the table is dropped and created again. It is empty for a cluster, whose servers may have different ones.
	UUID string `json:"uuid,omitempty"`
}

// String names the table for an operator.
func (t TableID) String() string {
	if t.UUID == "" {
		return t.Database + "." + tableMessages
	}
	return t.Database + "." + tableMessages + " (uuid " + t.UUID + ")"
}

const zeroUUID = "00000000-0000-0000-0000-000000000000"

// Table returns the identity of the table of messages. It fails if there is none.
func (c *Client) Table(ctx context.Context) (TableID, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	column := "toString(uuid)"
	if c.layout.Cluster != "" {
		column = "''"
	}
	id := TableID{Database: c.database}
	row := c.conn.QueryRow(ctx, fmt.Sprintf("SELECT %s FROM system.tables WHERE database = '%s' AND name = '%s'", column, c.database, tableMessages))
	if err := row.Scan(&id.UUID); err != nil {
		return TableID{}, newError("identify the table", c.target(tableMessages), err)
	}
	if id.UUID == zeroUUID { // the database's engine is Ordinary
		id.UUID = ""
	}
	return id, nil
}

// claimVersion is the version of ledger entries that name deployments. No migration has it, and program versions without
// deployments ignore it.
const claimVersion = 0

// claimName begins the name of such an entry; the deployment's ID follows.
const claimName = "deployment "

// Owners returns the IDs of the deployments that have claimed the database in the ledger: normally one, and none in a
// database that no writer with identities has written into.
func (c *Client) Owners(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	rows, err := c.conn.Query(ctx, fmt.Sprintf("SELECT DISTINCT name FROM %s.%s WHERE version = %d ORDER BY name", quoteName(c.database), tableLedger, claimVersion))
	if err != nil {
		return nil, newError("read the owner of the database", c.target(tableLedger), err)
	}
	defer rows.Close()
	var owners []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, newError("read the owner of the database", c.target(tableLedger), err)
		}
		owners = append(owners, strings.TrimPrefix(name, claimName))
	}
	if err := rows.Err(); err != nil {
		return nil, newError("read the owner of the database", c.target(tableLedger), err)
	}
	return owners, nil
}

// Claim records a deployment in the ledger. ClickHouse has no compare-and-set, so if two claim a database at once, both may
// be recorded until a merge keeps one of them: the caller reads the Owners after the claim, and from time to time.
func (c *Client) Claim(ctx context.Context, deployment string) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	claim := Migration{Version: claimVersion, Name: claimName + deployment}
	if err := c.conn.Exec(ctx, claim.ledgerEntry(c.database)); err != nil {
		return newError("record the deployment", c.target(tableLedger), err)
	}
	return nil
}

// Release removes all deployments from the ledger, so that the next writer claims the database. It is meant for a command.
func (c *Client) Release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	statement := fmt.Sprintf("ALTER TABLE %s.%s DELETE WHERE version = %d SETTINGS mutations_sync = 2", quoteName(c.database), tableLedger, claimVersion)
	if err := c.conn.Exec(ctx, statement); err != nil {
		return newError("release the database", c.target(tableLedger), err)
	}
	return nil
}

// LastRow is the row of a partition with the highest partition_seq.
type LastRow struct {
	PartitionSeq uint64
	MessageID    int64
	WALSeq       uint64
	AcceptedAt   time.Time // the row's timestamp
}

// AllPartitions selects every partition in LastRow.
const AllPartitions = -1

// LastRow finds the last row of a partition, or of AllPartitions, among rows from a time on; all rows for the zero time. It
// returns false if there is none. It skips parts in which every row is older and reads four columns of the rest, so a time
// close to the last row's makes the query cheap.
func (c *Client) LastRow(ctx context.Context, partition int, since time.Time) (LastRow, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	conditions := []string{"1"}
	if partition != AllPartitions {
		conditions = append(conditions, fmt.Sprintf("partition = %d", partition))
	}
	if !since.IsZero() {
		conditions = append(conditions, fmt.Sprintf("timestamp >= toDateTime(%d)", max(since.Unix(), 0)))
	}
	var count uint64
	var last LastRow
	row := c.conn.QueryRow(ctx, fmt.Sprintf("SELECT count(), max(partition_seq), argMax(message_id, partition_seq), argMax(wal_seq, partition_seq), argMax(timestamp, partition_seq) FROM %s WHERE %s",
		c.MessagesTable(), strings.Join(conditions, " AND ")))
	if err := row.Scan(&count, &last.PartitionSeq, &last.MessageID, &last.WALSeq, &last.AcceptedAt); err != nil {
		return LastRow{}, false, newError("find the last row", c.target(tableMessages), err)
	}
	return last, count > 0, nil
}

// Rows counts the rows of the table, including those that a merge will remove. It reads no column.
func (c *Client) Rows(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var rows uint64
	if err := c.conn.QueryRow(ctx, "SELECT count() FROM "+c.MessagesTable()).Scan(&rows); err != nil {
		return 0, newError("count rows", c.target(tableMessages), err)
	}
	return rows, nil
}

// Exists reports whether the table of messages exists.
func (c *Client) Exists(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	e, err := c.engine(ctx, tableMessages)
	if err != nil {
		return false, newError("find the table", c.target(tableMessages), err)
	}
	return e.name != "", nil
}
