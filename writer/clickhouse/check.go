package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Check looks whether the table of messages is as the writer needs it, and reports all that is missing in
// one error of class Configuration that names each column or setting. What the table has besides is left
// alone, so a column can be given another codec, or a table another engine that keeps the promises.
func (c *Client) Check(ctx context.Context) error {
	engine, engineFull, err := c.engine(ctx)
	if err != nil {
		return newError("check", c.target(tableMessages), err)
	}
	if engine == "" {
		return c.unfit(errors.New("the table is not there"))
	}
	have, err := c.columnTypes(ctx)
	if err != nil {
		return newError("check", c.target(tableMessages), err)
	}
	problems := columnProblems(have, c.columns)
	if c.schema == SchemaFull {
		problems = append(problems, engineProblems(engine, engineFull)...)
	}
	if len(problems) > 0 {
		return c.unfit(errors.New(strings.Join(problems, "; ")))
	}
	return nil
}

func (c *Client) unfit(err error) error {
	return &Error{
		Op: "check", Target: c.target(tableMessages), Class: Configuration, Err: err,
		Hint: "run `sendhouse migrate`, or change the table by hand",
	}
}

func (c *Client) engine(ctx context.Context) (engine, engineFull string, err error) {
	rows, err := c.conn.Query(ctx, fmt.Sprintf(
		"SELECT engine, %s FROM system.tables WHERE database = '%s' AND name = '%s'", c.engineFullColumn(), c.database, tableMessages))
	if err != nil {
		return "", "", fmt.Errorf("query system.tables: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&engine, &engineFull); err != nil {
			return "", "", fmt.Errorf("scan system.tables: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return "", "", fmt.Errorf("query system.tables: %w", err)
	}
	return engine, engineFull, nil
}

func (c *Client) engineFullColumn() string {
	if c.schema == SchemaReduced {
		return "''" // 18.16 does not have it in this form
	}
	return "engine_full"
}

func (c *Client) columnTypes(ctx context.Context) (map[string]string, error) {
	rows, err := c.conn.Query(ctx, fmt.Sprintf(
		"SELECT name, type FROM system.columns WHERE database = '%s' AND table = '%s'", c.database, tableMessages))
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

// engineProblems asks for what exactly-once rests on. Replicated tables remember inserts by themselves,
// other engines (Distributed, Buffer) are the operator's own decision.
func engineProblems(engine, engineFull string) []string {
	if !strings.HasSuffix(engine, "MergeTree") || strings.HasPrefix(engine, "Replicated") || strings.HasPrefix(engine, "Shared") {
		return nil
	}
	if strings.Contains(engineFull, "non_replicated_deduplication_window = 0") || !strings.Contains(engineFull, "non_replicated_deduplication_window") {
		return []string{"setting non_replicated_deduplication_window is not set: a batch repeated after a failure would be there twice"}
	}
	return nil
}
