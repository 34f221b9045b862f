package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Check looks whether the table of messages is as the writer needs it, and reports all that is missing in
// one error of class Configuration that names each column or setting. What the table has besides is left
// alone, so a column can be given another codec, or a table another engine that keeps the promises.
//
// On a cluster it looks at the table that spans it and at the part of it on the server that it is connected to.
func (c *Client) Check(ctx context.Context) error {
	tables := []string{tableMessages}
	if c.layout.Cluster != "" {
		tables = append(tables, tableLocal)
	}
	for _, table := range tables {
		problems, err := c.problems(ctx, table)
		if err != nil {
			return newError("check", c.target(table), err)
		}
		if len(problems) > 0 {
			return &Error{
				Op: "check", Target: c.target(table), Class: Configuration, Err: errors.New(strings.Join(problems, "; ")),
				Hint: "run `sendhouse migrate`, or change the table by hand",
			}
		}
	}
	return nil
}

func (c *Client) problems(ctx context.Context, table string) ([]string, error) {
	engine, err := c.engine(ctx, table)
	if err != nil {
		return nil, err
	}
	if engine.name == "" {
		return []string{"the table is not there"}, nil
	}
	have, err := c.columnTypes(ctx, table)
	if err != nil {
		return nil, err
	}
	problems := columnProblems(have, c.columns)
	if c.schema == SchemaFull {
		problems = append(problems, engine.problems()...)
	}
	return problems, nil
}

// engine is what system.tables says of a table; the name is empty where there is none.
type engine struct{ name, full, sortingKey string }

func (c *Client) engine(ctx context.Context, table string) (engine, error) {
	columns := "engine_full, sorting_key"
	if c.schema == SchemaReduced {
		columns = "'', ''" // 18.16 does not have them in this form
	}
	rows, err := c.conn.Query(ctx, fmt.Sprintf("SELECT engine, %s FROM system.tables WHERE database = '%s' AND name = '%s'", columns, c.database, table))
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

func columnProblems(have map[string]string, want []column) []string {
	var problems []string
	for _, c := range want {
		switch typeName, ok := have[c.name]; {
		case !ok:
			problems = append(problems, fmt.Sprintf("column %s %s is missing", c.name, c.typeName))
		case !sameType(typeName, c.typeName):
			problems = append(problems, fmt.Sprintf("column %s is %s, needed is %s", c.name, typeName, c.typeName))
		}
	}
	return problems
}

// sameType lets an operator wrap a column in LowCardinality, which takes the same values.
func sameType(have, want string) bool {
	if inner, ok := strings.CutPrefix(have, "LowCardinality("); ok {
		have = strings.TrimSuffix(inner, ")")
	}
	squeeze := func(s string) string { return strings.ReplaceAll(s, " ", "") }
	return squeeze(have) == squeeze(want)
}

// problems asks for what exactly-once rests on, and that no merge takes different messages for one. Other
// engines than the MergeTree family (Distributed, Buffer) are the operator's own decision.
func (e engine) problems() []string {
	if !strings.HasSuffix(e.name, "MergeTree") {
		return nil
	}
	var problems []string
	replicated := strings.HasPrefix(e.name, "Replicated") || strings.HasPrefix(e.name, "Shared")
	window := "non_replicated_deduplication_window"
	if replicated {
		window = "replicated_deduplication_window" // has a default
	}
	value, set := e.setting(window)
	if (set && value == "0") || (!set && !replicated) {
		problems = append(problems, "setting "+window+" is not set: a batch repeated after a failure would be there twice")
	}
	if strings.Contains(e.name, "Replacing") {
		key := strings.Split(strings.ReplaceAll(e.sortingKey, " ", ""), ",")
		for _, column := range []string{"channel_id", "channel_type", "message_seq"} {
			if !slices.Contains(key, column) {
				problems = append(problems, fmt.Sprintf("the sorting key (%s) has no %s: merges would take different messages for one", e.sortingKey, column))
			}
		}
	}
	return problems
}

// setting reads a setting of the table out of the engine's text.
func (e engine) setting(name string) (value string, set bool) {
	_, rest, set := strings.Cut(e.full, " "+name+" = ")
	value, _, _ = strings.Cut(rest, ",")
	return value, set
}
