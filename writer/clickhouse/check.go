package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// Check verifies that the table of messages has what the writer needs, and reports all problems in one error of class
// Configuration that names each column or setting. It ignores anything beyond that, so an operator can change the codec of
// a column, or choose another engine with the same guarantees.
//
// On a cluster it checks the Distributed table and its local table on the connected server.
//
// Settings that let a power cut remove rows are not an error, because the operator of a ClickHouse may have chosen them:
// Check logs a warning with the statement that changes them.
func (c *Client) Check(ctx context.Context) error {
	single, err := c.check(ctx, true)
	if err != nil {
		return err
	}
	c.single.Store(single)
	return nil
}

// Recheck is Check without its warnings, for a table that has passed Check and may have changed since.
func (c *Client) Recheck(ctx context.Context) error {
	_, err := c.check(ctx, false)
	return err
}

// check also reports whether the table is on a single server.
func (c *Client) check(ctx context.Context, warn bool) (single bool, err error) {
	tables := []string{tableMessages}
	if c.layout.Cluster != "" {
		tables = append(tables, tableLocal)
	}
	single = c.layout.Cluster == ""
	for _, table := range tables {
		engine, problems, err := c.problems(ctx, table)
		if err == nil && warn && strings.HasSuffix(engine.name, "MergeTree") {
			err = c.warnOfIndexes(ctx, table)
		}
		if err == nil && warn && len(problems) == 0 {
			err = c.warnUnsynced(ctx, table, engine)
		}
		if err != nil {
			return false, newError("check", c.target(table), err)
		}
		single = single && engine.local()
		if len(problems) > 0 {
			return false, &Error{Op: "check", Target: c.target(table), Class: Configuration, Err: errors.New(problems.text()), Hint: problems.hint()}
		}
	}
	return single, nil
}

// problem is what is wrong with a table, and how to fix it.
type problem struct{ text, fix string }

type problems []problem

func (p problems) text() string {
	texts := make([]string, len(p))
	for i := range p {
		texts[i] = p[i].text
	}
	return strings.Join(texts, "; ")
}

// hint lists each distinct fix once.
func (p problems) hint() string {
	var fixes []string
	for i := range p {
		if !slices.Contains(fixes, p[i].fix) {
			fixes = append(fixes, p[i].fix)
		}
	}
	return strings.Join(fixes, "; ")
}

const (
	fixMissing = "run `sendhouse migrate`, which creates it"
	fixAside   = "move the table aside with RENAME TABLE, run `sendhouse migrate`, and restore its rows with `sendhouse replay clickhouse`"
)

// alter returns the statement that changes the table, as a fix.
func (c *Client) alter(table, change string) string {
	cluster := ""
	if c.layout.Cluster != "" {
		cluster = " ON CLUSTER " + quoteName(c.layout.Cluster)
	}
	return fmt.Sprintf("run: ALTER TABLE %s.%s%s %s", quoteName(c.database), table, cluster, change)
}

func (c *Client) problems(ctx context.Context, table string) (engine, problems, error) {
	engine, err := c.engine(ctx, table)
	if err != nil {
		return engine, nil, err
	}
	if engine.name == "" {
		return engine, problems{{"the table does not exist", fixMissing}}, nil
	}
	have, err := c.columnTypes(ctx, table)
	if err != nil {
		return engine, nil, err
	}
	alter := func(change string) string { return c.alter(table, change) }
	return engine, append(columnProblems(have, c.columns, alter), engine.problems(alter)...), nil
}

// index matches the line of a CREATE TABLE that declares an index.
var index = regexp.MustCompile(`(?m)^\s+INDEX (\w+) (.+?),?$`)

// warnOfIndexes logs each index that the migrations declare and the table lacks: reads are slower without it.
func (c *Client) warnOfIndexes(ctx context.Context, table string) error {
	all, err := Migrations(c.layout)
	if err != nil {
		return err
	}
	have, err := c.indexes(ctx, table)
	if err != nil {
		return err
	}
	for _, m := range all {
		if verb, _, name := objectOf(m.Statements()[0]); verb != "CREATE" || name != table {
			continue
		}
		for _, declared := range index.FindAllStringSubmatch(m.SQL, -1) {
			if !slices.Contains(have, declared[1]) {
				c.log.Warn("index of the table is missing; reads are slower without it", "table", c.target(table), "index", declared[1],
					"fix", c.alter(table, "ADD INDEX "+declared[1]+" "+declared[2]))
			}
		}
	}
	return nil
}

func (c *Client) indexes(ctx context.Context, table string) ([]string, error) {
	rows, err := c.conn.Query(ctx, fmt.Sprintf("SELECT name FROM system.data_skipping_indices WHERE database = '%s' AND table = '%s'", c.database, table))
	if err != nil {
		return nil, fmt.Errorf("query system.data_skipping_indices: %w", err)
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("scan system.data_skipping_indices: %w", err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query system.data_skipping_indices: %w", err)
	}
	return names, nil
}

// SingleServer reports whether the table, at its last check, was on a single server that is queried directly: its answers
// are complete. A replica may lag another one.
func (c *Client) SingleServer() bool { return c.single.Load() }

// warnUnsynced logs the settings without which ClickHouse acknowledges rows that a power cut can still remove. Without
// syncing, a merge replaces parts on disk by one that is only in memory; mutations and TTL obey the settings of merges.
func (c *Client) warnUnsynced(ctx context.Context, table string, e engine) error {
	if len(e.unsynced(nil)) == 0 {
		return nil
	}
	defaults := make(map[string]string) // the server's configuration can set them for all tables
	rows, err := c.conn.Query(ctx, "SELECT name, value FROM system.merge_tree_settings WHERE name LIKE '%fsync%'")
	if err != nil {
		return fmt.Errorf("query system.merge_tree_settings: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return fmt.Errorf("scan system.merge_tree_settings: %w", err)
		}
		defaults[name] = value
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("query system.merge_tree_settings: %w", err)
	}
	if unset := e.unsynced(defaults); len(unset) > 0 {
		c.log.Warn("a power cut can remove rows from the table, because it does not sync all its writes", "table", c.target(table), "unset", strings.Join(unset, ", "),
			"statement", fmt.Sprintf("ALTER TABLE %s.%s MODIFY SETTING %s = 1", quoteName(c.database), table, strings.Join(unset, " = 1, ")))
	}
	return nil
}

// engine is the row of a table in system.tables; name is empty if there is none.
type engine struct{ name, full, sortingKey string }

func (c *Client) engine(ctx context.Context, table string) (engine, error) {
	rows, err := c.conn.Query(ctx, fmt.Sprintf("SELECT engine, engine_full, sorting_key FROM system.tables WHERE database = '%s' AND name = '%s'", c.database, table))
	if err != nil {
		return engine{}, fmt.Errorf("query system.tables: %w", err)
	}
	defer rows.Close()
	var e engine
	for rows.Next() {
		if err := rows.Scan(&e.name, &e.full, &e.sortingKey); err != nil {
			return engine{}, fmt.Errorf("scan system.tables: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return engine{}, fmt.Errorf("query system.tables: %w", err)
	}
	return e, nil
}

func (c *Client) columnTypes(ctx context.Context, table string) (map[string]string, error) {
	rows, err := c.conn.Query(ctx, fmt.Sprintf(
		"SELECT name, type FROM system.columns WHERE database = '%s' AND table = '%s'", c.database, table))
	if err != nil {
		return nil, fmt.Errorf("query system.columns: %w", err)
	}
	defer rows.Close()
	have := make(map[string]string)
	for rows.Next() {
		var name, typeName string
		if err := rows.Scan(&name, &typeName); err != nil {
			return nil, fmt.Errorf("scan system.columns: %w", err)
		}
		have[name] = typeName
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query system.columns: %w", err)
	}
	return have, nil
}

func columnProblems(have map[string]string, want []message.Field, alter func(change string) string) problems {
	var found problems
	for _, c := range want {
		switch typeName, ok := have[c.Name]; {
		case !ok && slices.Contains(keyColumns(), c.Name):
			found = append(found, problem{fmt.Sprintf("column %s %s is missing", c.Name, c.Column), fixAside})
		case !ok:
			found = append(found, problem{fmt.Sprintf("column %s %s is missing", c.Name, c.Column), alter(fmt.Sprintf("ADD COLUMN %s %s", c.Name, c.Column))})
		case !sameType(typeName, c.Column):
			fix := alter(fmt.Sprintf("MODIFY COLUMN %s %s", c.Name, c.Column))
			if slices.Contains(keyColumns(), c.Name) {
				fix = fixAside // ClickHouse does not change the type of a column of the sorting key
			}
			found = append(found, problem{fmt.Sprintf("column %s is %s, but must be %s", c.Name, typeName, c.Column), fix})
		}
	}
	return found
}

// keyColumns are the columns by which a merge identifies rows.
func keyColumns() []string { return []string{"channel_id", "channel_type", "message_seq"} }

// sameType also accepts a column wrapped in LowCardinality, which stores the same values.
func sameType(have, want string) bool {
	if inner, ok := strings.CutPrefix(have, "LowCardinality("); ok {
		have = strings.TrimSuffix(inner, ")")
	}
	squeeze := func(s string) string { return strings.ReplaceAll(s, " ", "") }
	return squeeze(have) == squeeze(want)
}

// problems checks what exactly-once relies on, and that no merge treats different messages as one. Engines outside the
// MergeTree family (Distributed, Buffer) are the operator's own decision.
func (e engine) problems(alter func(change string) string) problems {
	if !strings.HasSuffix(e.name, "MergeTree") {
		return nil
	}
	var found problems
	window := "non_replicated_deduplication_window"
	if e.replicated() {
		window = "replicated_deduplication_window" // has a default
	}
	value, set := e.setting(window)
	if (set && value == "0") || (!set && !e.replicated()) {
		found = append(found, problem{"setting " + window + " is not set: a batch that is retried after a failure would be stored twice", alter("MODIFY SETTING " + window + " = 100000")})
	}
	if strings.Contains(e.name, "Replacing") {
		key := strings.Split(strings.ReplaceAll(e.sortingKey, " ", ""), ",")
		for _, column := range keyColumns() {
			if !slices.Contains(key, column) {
				found = append(found, problem{fmt.Sprintf("the sorting key (%s) has no %s: merges would treat different messages as one", e.sortingKey, column), fixAside})
			}
		}
	}
	return found
}

// local reports whether inserted rows are stored in parts of this server only.
func (e engine) local() bool {
	return strings.HasSuffix(e.name, "MergeTree") && !e.replicated()
}

func (e engine) replicated() bool {
	return strings.HasPrefix(e.name, "Replicated") || strings.HasPrefix(e.name, "Shared")
}

// unsynced lists the settings that are needed to sync all writes and that neither the table nor the server's defaults set.
func (e engine) unsynced(defaults map[string]string) []string {
	if !strings.HasSuffix(e.name, "MergeTree") || strings.HasPrefix(e.name, "Shared") {
		return nil
	}
	var unset []string
	// need takes alternatives: one of the settings is enough.
	need := func(names ...string) {
		for _, name := range names {
			value, set := e.setting(name)
			if !set {
				value = defaults[name]
			}
			if value == "1" {
				return
			}
		}
		unset = append(unset, names...)
	}
	need("fsync_after_insert")
	need("fsync_part_directory")
	need("min_rows_to_fsync_after_merge", "min_compressed_bytes_to_fsync_after_merge")
	if e.replicated() {
		need("min_compressed_bytes_to_fsync_after_fetch")
	}
	return unset
}

// setting parses a setting of the table from the engine's text.
func (e engine) setting(name string) (value string, set bool) {
	_, rest, set := strings.Cut(e.full, " "+name+" = ")
	value, _, _ = strings.Cut(rest, ",")
	return value, set
}
