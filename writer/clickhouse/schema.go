package clickhouse

import (
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// DatabaseDefault is the database of a DSN without one.
const DatabaseDefault = "sendhouse"

const (
	tableMessages = "messages"
	tableLocal    = "messages_local" // the part of it on one server of a cluster
	tableLedger   = "schema_migrations"
)

// insertStatement returns the INSERT for these columns in the form that the driver expects, without VALUES.
func insertStatement(database string, columns []message.Field) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	return fmt.Sprintf("INSERT INTO %s.%s (%s)", quoteName(database), tableMessages, strings.Join(names, ", "))
}

// namesAndTypes saves the driver the query of the table's columns before each insert over HTTP.
func namesAndTypes(columns []message.Field) []clickhouse.ColumnNameAndType {
	out := make([]clickhouse.ColumnNameAndType, len(columns))
	for i, c := range columns {
		out[i] = clickhouse.ColumnNameAndType{Name: c.Name, Type: c.Column}
	}
	return out
}

// quoteName quotes a database name for a statement. Open has verified that it contains no backtick.
func quoteName(name string) string { return "`" + name + "`" }
