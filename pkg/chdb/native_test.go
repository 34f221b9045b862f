package chdb

import (
	"bytes"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	native "github.com/ClickHouse/clickhouse-go/v2/lib/proto"
	"github.com/stretchr/testify/require"
)

// nativeBlock is a block at revision 0.
func nativeBlock(t *testing.T, rows int) []byte {
	t.Helper()
	block := native.NewBlock()
	for _, c := range [][2]string{{"id", "UInt64"}, {"low", "LowCardinality(String)"}, {"map", "Map(String, UInt8)"}} {
		require.NoError(t, block.AddColumn(c[0], column.Type(c[1])))
	}
	for i := range rows {
		require.NoError(t, block.Append(uint64(i), "text", map[string]uint8{"k": 1}))
	}
	var text proto.Buffer
	if rows == 0 { // As the engine writes it: names and types, and nothing else.
		text.PutUVarInt(3)
		text.PutUVarInt(0)
		for _, c := range block.Columns {
			text.PutString(c.Name())
			text.PutString(string(c.Type()))
		}
		return text.Buf
	}
	require.NoError(t, block.Encode(&text, 0))
	return text.Buf
}

// Several blocks, one of them without rows, are the same blocks at each revision at which the format changed.
func TestNativeAtRevision(t *testing.T) {
	t.Parallel()
	for _, revision := range []uint64{1, 54405, native.DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION, 54460} {
		var from, to bytes.Buffer
		for _, rows := range []int{2, 0, 3} {
			from.Write(nativeBlock(t, rows))
		}
		writer := &nativeWriter{to: &to, revision: revision, location: time.UTC}
		require.NoError(t, writer.transcode(&from))
		reader := proto.NewReader(&to)
		for _, rows := range []int{2, 0, 3} {
			block := native.NewBlock()
			require.NoError(t, block.Decode(reader, revision), "revision %d", revision)
			require.Equal(t, rows, block.Rows())
			require.Equal(t, []string{"id", "low", "map"}, block.ColumnsNames())
		}
		require.Zero(t, to.Len())
	}
}

// A type that the driver does not know is an exception, which says to ask for another format.
func TestNativeOfUnknownType(t *testing.T) {
	t.Parallel()
	var text proto.Buffer
	text.PutUVarInt(1)
	text.PutUVarInt(1)
	text.PutString("c")
	text.PutString("AggregateFunction(uniq, UInt64)")
	text.PutString("state")
	writer := &nativeWriter{to: new(bytes.Buffer), revision: 54460}
	err := writer.transcode(bytes.NewReader(text.Buf))
	require.True(t, isCode(err, codeNotImplemented), "%v", err)
	require.ErrorContains(t, err, "Ask for another format")
	require.True(t, isCode(writer.transcode(bytes.NewReader(nativeBlock(t, 2)[:20])), codeNotImplemented))
}
