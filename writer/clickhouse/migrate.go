package clickhouse

import (
	"context"
	"embed"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/message"
)

//go:embed migrations
var migrationFiles embed.FS

// Migration is one step of the tables' schema. It is idempotent: it may run twice, from two processes at once, or again
// after an interruption between two statements.
type Migration struct {
	Version  int
	Name     string // of the file, without the version and the extension
	Checksum uint32 // CRC32 of the file
	SQL      string // with the names of database and cluster filled in
}

// Layout is the database and the distribution of the tables.
type Layout struct {
	Database string
	// Cluster is the name of the cluster over which the tables are replicated and, by channel, sharded; empty for a
	// single server.
	Cluster string
}

// files returns the folder of the layout's migrations.
func (l Layout) files() string {
	if l.Cluster != "" {
		return path.Join("migrations", "cluster")
	}
	return path.Join("migrations", "single")
}

// statementEnd ends a statement in the file of a migration: a semicolon, and an empty line after it.
const statementEnd = ";\n\n"

// Statements splits a migration into its statements.
func (m Migration) Statements() []string { return strings.Split(m.SQL, statementEnd) }

// Migrations returns the migrations of a layout in order.
func Migrations(layout Layout) ([]Migration, error) {
	files, err := fs.Sub(migrationFiles, layout.files())
	if err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	return readMigrations(files, layout, message.StoredFields())
}

func readMigrations(files fs.FS, layout Layout, columns []message.Field) ([]Migration, error) {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	// Other names in braces remain: macros of the server ({shard}) and parameters of views.
	names := strings.NewReplacer("{database}", layout.Database, "{cluster}", layout.Cluster)
	var all []Migration
	var texts []string
	for i, entry := range entries { // sorted by name
		text, err := fs.ReadFile(files, entry.Name())
		if err != nil {
			return nil, fmt.Errorf("clickhouse: %w", err)
		}
		number, name, _ := strings.Cut(strings.TrimSuffix(entry.Name(), ".sql"), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("clickhouse: migration %s: the number must be %04d", entry.Name(), i+1)
		}
		all = append(all, Migration{Version: version, Name: name, Checksum: crc32.ChecksumIEEE(text)})
		texts = append(texts, strings.TrimSpace(string(text)))
	}
	for i, text := range texts {
		if strings.Contains(text, viewsMark) {
			texts[i] = strings.ReplaceAll(text, viewsMark, replaceViews(texts[:i], columnsBefore(columns, texts[i+1:])))
		}
		all[i].SQL = names.Replace(texts[i])
	}
	return all, nil
}

// viewsMark, in a migration that adds a column, stands for the statements that replace each view of whole messages by one
// with all current columns. ClickHouse expands * when it creates a view, so the views name the columns.
const viewsMark = "{views}"

var (
	addedColumn = regexp.MustCompile(`ADD COLUMN IF NOT EXISTS (\w+)`)
	// wholeView matches a view of whole messages: its name and the rest of the line, its columns, and the rest.
	wholeView = regexp.MustCompile(`(?s)^CREATE (?:VIEW IF NOT EXISTS|OR REPLACE VIEW) ([^\n]* AS\nSELECT\n)    message_id, message_seq,.*?(\nFROM .*)$`)
)

// columnsBefore returns the columns without those that later migrations add.
func columnsBefore(columns []message.Field, later []string) []string {
	added := make(map[string]bool)
	for _, text := range later {
		for _, found := range addedColumn.FindAllStringSubmatch(text, -1) {
			added[found[1]] = true
		}
	}
	var names []string
	for _, c := range columns {
		if !added[c.Name] {
			names = append(names, c.Name)
		}
	}
	return names
}

// replaceViews returns the statements that viewsMark stands for: the latest form of each view, with other columns.
func replaceViews(earlier, columns []string) string {
	var names []string
	latest := make(map[string]string)
	for _, text := range earlier {
		for statement := range strings.SplitSeq(text, statementEnd) {
			found := wholeView.FindStringSubmatch(statement)
			if found == nil {
				continue
			}
			name, _, _ := strings.Cut(found[1], " ")
			if latest[name] == "" {
				names = append(names, name)
			}
			latest[name] = "CREATE OR REPLACE VIEW " + found[1] + "    " + strings.Join(columns, ", ") + found[2]
		}
	}
	statements := make([]string, len(names))
	for i, name := range names {
		statements[i] = latest[name]
	}
	return strings.Join(statements, statementEnd)
}

// The first migrations create the database and the ledger. Before they have run, the ledger cannot list them, so they run
// whenever there is no ledger.
const (
	databaseVersion = 1
	ledgerVersion   = 2
)

// Pending returns the migrations that the ledger lacks, and those that it has although their table or view does not exist.
// An applied migration whose text differs, or that this program does not know, is an error of class Configuration.
func (c *Client) Pending(ctx context.Context) ([]Migration, error) {
	pending, _, err := c.pending(ctx)
	return pending, err
}

// pending also returns the ledger that it has compared: the checksums of the applied migrations by version.
func (c *Client) pending(ctx context.Context) (pending []Migration, applied map[int]uint32, err error) {
	all, err := Migrations(c.layout)
	if err != nil {
		return nil, nil, err
	}
	if applied, err = c.ledger(ctx); err != nil {
		return nil, nil, newError("read the ledger of migrations", c.target(tableLedger), err)
	}
	if err := compareLedger(applied, all); err != nil {
		return nil, nil, &Error{Op: "read the ledger of migrations", Target: c.target(tableLedger), Class: Configuration, Err: err}
	}
	undone, err := c.undone(ctx, all, applied)
	if err != nil {
		return nil, nil, newError("list the tables", c.target(tableMessages), err)
	}
	return slices.DeleteFunc(all, func(m Migration) bool {
		_, done := applied[m.Version]
		return done && !undone[m.Version]
	}), applied, nil
}

// object matches the table or view that a statement creates or changes.
var object = regexp.MustCompile("^(CREATE|ALTER)(?: OR REPLACE)? (TABLE|VIEW|MATERIALIZED VIEW) (?:IF NOT EXISTS )?`[^`]+`\\.`?(\\w+)")

// objectOf returns the verb of a statement and the kind and name of its object; all are empty if that is not a table or view.
func objectOf(statement string) (verb, kind, name string) {
	if found := object.FindStringSubmatch(statement); len(found) == 4 {
		return found[1], found[2], found[3]
	}
	return "", "", ""
}

// undone returns the applied migrations whose effect is gone: those that created a table or view that does not exist, and
// the later ones that changed it.
func (c *Client) undone(ctx context.Context, all []Migration, applied map[int]uint32) (map[int]bool, error) {
	if len(applied) == 0 {
		return nil, nil
	}
	there, err := c.tables(ctx)
	if err != nil {
		return nil, err
	}
	undone, missing := make(map[int]bool), make(map[string]bool)
	for _, m := range all {
		if _, done := applied[m.Version]; !done {
			continue
		}
		for _, statement := range m.Statements() {
			verb, _, name := objectOf(statement)
			if verb == "CREATE" && !there[name] {
				missing[name] = true
			}
			undone[m.Version] = undone[m.Version] || missing[name]
		}
	}
	return undone, nil
}

// tables returns the names of the tables and views of the database.
func (c *Client) tables(ctx context.Context) (map[string]bool, error) {
	rows, err := c.conn.Query(ctx, fmt.Sprintf("SELECT name FROM system.tables WHERE database = '%s'", c.database))
	if err != nil {
		return nil, fmt.Errorf("query system.tables: %w", err)
	}
	defer rows.Close()
	there := make(map[string]bool)
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("scan system.tables: %w", err)
		}
		there[name] = true
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query system.tables: %w", err)
	}
	return there, nil
}

// sayLost logs that a migration in the ledger was applied again.
func (c *Client) sayLost(m Migration) {
	switch verb, kind, name := objectOf(m.Statements()[0]); {
	case verb != "CREATE":
	case kind == "TABLE":
		c.log.Error("table was missing although the ledger has it; created it again, empty: restore its rows with `sendhouse replay clickhouse`",
			"database", c.database, "table", name)
	default:
		c.log.Warn("view was missing although the ledger has it; created it again", "database", c.database, "view", name)
	}
}

// Migrate runs the pending migrations and records each in the ledger. It creates a missing table again that the ledger
// has, empty, and logs an error. It does not create a database that exists, so that it does not need the right to.
func (c *Client) Migrate(ctx context.Context) error {
	pending, applied, err := c.pending(ctx)
	if err != nil {
		return err
	}
	var unrecorded []Migration
	for _, m := range pending {
		if err := c.apply(ctx, m); err != nil {
			return newError(fmt.Sprintf("migration %04d_%s", m.Version, m.Name), c.target(tableMessages), err)
		}
		if err := c.made(ctx, m); err != nil {
			return err
		}
		c.log.Info("migration applied", "version", m.Version, "name", m.Name, "database", c.database)
		if _, again := applied[m.Version]; again {
			c.sayLost(m)
		}
		unrecorded = append(unrecorded, m)
		if m.Version < ledgerVersion {
			continue
		}
		if err := c.record(ctx, unrecorded); err != nil {
			return newError("record migrations", c.target(tableLedger), err)
		}
		unrecorded = nil
	}
	return nil
}

// made refuses a table or view that does not appear although it was just created: ClickHouse has it and does not show it.
func (c *Client) made(ctx context.Context, m Migration) error {
	var there map[string]bool
	for _, statement := range m.Statements() {
		verb, _, name := objectOf(statement)
		if verb != "CREATE" {
			continue
		}
		if there == nil {
			var err error
			if there, err = c.tables(ctx); err != nil {
				return newError("list the tables", c.target(name), err)
			}
		}
		if !there[name] {
			return &Error{
				Op: fmt.Sprintf("migration %04d_%s", m.Version, m.Name), Target: c.target(name), Class: Configuration,
				Err: fmt.Errorf("it was created but does not appear, as if it had been detached permanently (run: ATTACH TABLE %s.%s)", quoteName(c.database), name),
			}
		}
	}
	return nil
}

func (c *Client) apply(ctx context.Context, m Migration) error {
	if m.Version == databaseVersion && c.layout.Cluster == "" {
		var databases uint64
		row := c.conn.QueryRow(ctx, fmt.Sprintf("SELECT count() FROM system.databases WHERE name = '%s'", c.database))
		if err := row.Scan(&databases); err != nil {
			return fmt.Errorf("find the database: %w", err)
		}
		if databases > 0 {
			return nil
		}
	}
	for _, statement := range m.Statements() {
		if err := c.conn.Exec(ctx, statement); err != nil {
			return err //nolint:wrapcheck // the caller says what was being done
		}
	}
	return nil
}

// ledger returns the checksums of the applied migrations by version. It is empty if there is no ledger.
func (c *Client) ledger(ctx context.Context) (map[int]uint32, error) {
	var tables uint64
	row := c.conn.QueryRow(ctx, fmt.Sprintf("SELECT count() FROM system.tables WHERE database = '%s' AND name = '%s'", c.database, tableLedger))
	if err := row.Scan(&tables); err != nil {
		return nil, fmt.Errorf("find the ledger: %w", err)
	}
	applied := make(map[int]uint32)
	if tables == 0 {
		return applied, nil
	}
	rows, err := c.conn.Query(ctx, fmt.Sprintf("SELECT version, checksum FROM %s.%s", quoteName(c.database), tableLedger))
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var version, checksum uint32
		if err := rows.Scan(&version, &checksum); err != nil {
			return nil, fmt.Errorf("scan: %w", err)
		}
		applied[int(version)] = checksum
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	return applied, nil
}

// record adds migrations to the ledger.
func (c *Client) record(ctx context.Context, migrations []Migration) error {
	for _, m := range migrations {
		if err := c.conn.Exec(ctx, m.ledgerEntry(c.database)); err != nil {
			return fmt.Errorf("insert: %w", err)
		}
	}
	return nil
}

// ledgerEntry returns the statement that records the migration as applied.
func (m Migration) ledgerEntry(database string) string {
	return fmt.Sprintf("INSERT INTO %s.%s (version, name, checksum, applied_at) SELECT %d, '%s', %d, now()",
		quoteName(database), tableLedger, m.Version, m.Name, m.Checksum)
}

func compareLedger(applied map[int]uint32, all []Migration) error {
	for _, m := range all {
		if checksum, done := applied[m.Version]; done && checksum != m.Checksum {
			return fmt.Errorf("migration %04d_%s was applied with another text (checksum %08x, this program has %08x): "+
				"the database belongs to another layout or version", m.Version, m.Name, checksum, m.Checksum)
		}
	}
	for version := range applied {
		if version > len(all) {
			return fmt.Errorf("migration %04d was applied, but this program knows only %d: it is too old for the database", version, len(all))
		}
	}
	return nil
}
