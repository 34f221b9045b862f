package clickhouse

import (
	"fmt"
	"slices"
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

// column is one column of the table of messages.
type column struct{ name, typeName string }

// storedFields returns the fields of a message that have a column, in the order of the table and of the INSERT. Additional
// columns of a table take their defaults.
func storedFields() []message.Field {
	return slices.DeleteFunc(message.Fields(), func(f message.Field) bool { return f.Column == "" })
}

// tableColumns returns the columns of the stored fields.
func tableColumns() []column {
	var columns []column
	for _, f := range storedFields() {
		columns = append(columns, column{f.Name, f.Column})
	}
	return columns
}

// insertStatement returns the INSERT for these columns in the form that the driver expects, without VALUES.
func insertStatement(database string, columns []column) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	return fmt.Sprintf("INSERT INTO %s.%s (%s)", quoteName(database), tableMessages, strings.Join(names, ", "))
}

// namesAndTypes saves the driver the query of the table's columns before each insert over HTTP.
func namesAndTypes(columns []column) []clickhouse.ColumnNameAndType {
	out := make([]clickhouse.ColumnNameAndType, len(columns))
	for i, c := range columns {
		out[i] = clickhouse.ColumnNameAndType{Name: c.name, Type: c.typeName}
	}
	return out
}

// quoteName quotes a database name for a statement. Open has verified that it contains no backtick.
func quoteName(name string) string { return "`" + name + "`" }
