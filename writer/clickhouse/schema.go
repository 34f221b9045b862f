package clickhouse

import (
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// DatabaseDefault is the database of a DSN that names none.
const DatabaseDefault = "sendhouse"

const (
	tableMessages = "messages"
	tableLocal    = "messages_local" // what one server of a cluster has of it
	tableLedger   = "schema_migrations"
)

// column is one column of the table of messages: its name, its type, and how rows of a block are
// handed to the driver.
type column struct {
	name     string
	typeName string
	append   func(b *Block, rows []int32, to appender) error
}

// tableColumns lists what the writer fills, in the order of the INSERT. Columns that a table has besides
// these take their defaults.
func tableColumns() []column {
	return []column{
		{"message_id", "Int64", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.int64s, b.messageID, rows))
		}},
		{"message_seq", "UInt64", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.uint64s, b.messageSeq, rows))
		}},
		{"channel_id", "String", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.strings, b.channelID, rows))
		}},
		{"channel_type", "UInt8", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.uint8s, b.channelType, rows))
		}},
		{"from_uid", "String", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.strings, b.fromUID, rows))
		}},
		{"client_msg_no", "String", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.strings, b.clientMsgNo, rows))
		}},
		{"red_dot", "UInt8", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.uint8s, b.redDot, rows))
		}},
		{"sync_once", "UInt8", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.uint8s, b.syncOnce, rows))
		}},
		{"stream_no", "String", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.strings, b.streamNo, rows))
		}},
		{"tag_key", "String", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.strings, b.tagKey, rows))
		}},
		{"expire", "UInt32", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.uint32s, b.expire, rows))
		}},
		{"subscribers", "Array(String)", appendSubscribers},
		{"payload", "String", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.strings, b.payload, rows))
		}},
		{"timestamp", "DateTime64(3, 'UTC')", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.int64s, b.unixMilli, rows)) // the driver takes int64s in the unit of the column
		}},
		{"partition", "UInt16", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.uint16s, b.partition, rows))
		}},
		{"partition_seq", "UInt64", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.uint64s, b.partitionSeq, rows))
		}},
		{"wal_seq", "UInt64", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.uint64s, b.walSeq, rows))
		}},
		{"wal_index", "UInt32", func(b *Block, rows []int32, to appender) error {
			return to.Append(pick(&b.picked.uint32s, b.walIndex, rows))
		}},
	}
}

// insertStatement is the INSERT for these columns, as the driver wants it: without VALUES.
func insertStatement(database string, columns []column) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	return fmt.Sprintf("INSERT INTO %s.%s (%s)", quoteName(database), tableMessages, strings.Join(names, ", "))
}

// namesAndTypes spares the driver the question for the table's columns before each insert over HTTP.
func namesAndTypes(columns []column) []clickhouse.ColumnNameAndType {
	out := make([]clickhouse.ColumnNameAndType, len(columns))
	for i, c := range columns {
		out[i] = clickhouse.ColumnNameAndType{Name: c.name, Type: c.typeName}
	}
	return out
}

// quoteName writes a database name into a statement. Open has checked that it holds no backtick.
func quoteName(name string) string { return "`" + name + "`" }
