package writer

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

func TestUndecodableRecordsBecomeDeadLetters(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	cfg.FlushRowsMax = 10
	bad := map[uint64]string{1: "x", 2: "", 15: "not a message\x00\xff", 31: "a", 32: "b", 33: "c"}
	for n := 1; n <= 33; n++ {
		record := b.encode(0, n)
		if text, ok := bad[uint64(n)]; ok {
			record = []byte(text)
		}
		b.publishRecord(0, record)
	}
	b.flush()
	s := b.service(cfg)
	stop := b.start(s)
	b.stopMerges(cfg)
	p := b.waitDone(0, 33)
	require.Zero(t, p.LostMessages)
	require.NoError(t, s.Check())
	require.NoError(t, stop())

	letters := b.deadLetters()
	require.Len(t, letters, len(bad))
	for _, letter := range letters {
		require.Equal(t, "deadletters.writer.undecodable", letter.Subject)
		require.Equal(t, "MESSAGES_0", letter.Header.Get(deadletter.HeaderStream))
		require.Equal(t, message.ContentType, letter.Header.Get(topology.HeaderContentType))
		require.Contains(t, letter.Header.Get(deadletter.HeaderError), "not a message that can be stored")
		seq, err := strconv.ParseUint(letter.Header.Get(deadletter.HeaderPartitionSeq), 10, 64)
		require.NoError(t, err)
		require.Equal(t, bad[seq], string(letter.Data))
		delete(bad, seq)
	}
	require.Empty(t, bad)
	require.InDelta(t, 6, valueOf(t, s.metrics.deadLetters[reasonUndecodable]), 0)
	rows, different := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, 27, rows)
	require.EqualValues(t, 27, different)
}

// writeInto writes what publish publishes, up to last, into a table that a statement has changed; %s in it is the table.
func (b *bundle) writeInto(statement string, publish func(), last uint64) *table {
	b.t.Helper()
	cfg := b.full()
	s := b.service(cfg)
	stop := b.start(s)
	b.stopMerges(cfg)
	tb := openTable(b.t, cfg.ClickHouseDSN)
	require.NoError(b.t, tb.conn.Exec(b.ctx, fmt.Sprintf(statement, tb.name)))
	publish()
	b.waitDone(0, last)
	require.NoError(b.t, s.Check())
	require.NoError(b.t, stop())
	return tb
}

// A row that the table refuses is found by halving and put aside; all others go in, each once.
func TestPoisonRowsBecomeDeadLetters(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	tb := b.writeInto("ALTER TABLE %s ADD CONSTRAINT poison CHECK wal_seq NOT IN (1, 500, 501, 777, 1000)", func() { b.publish(0, 1, 1000) }, 1000)

	var seqs []string
	for _, letter := range b.deadLetters() {
		require.Equal(t, "deadletters.writer.refused", letter.Subject)
		require.Contains(t, letter.Header.Get(deadletter.HeaderError), "poison")
		seqs = append(seqs, letter.Header.Get(deadletter.HeaderPartitionSeq))
		var m message.Message
		require.NoError(t, m.UnmarshalVT(letter.Data))
		require.Equal(t, letter.Header.Get(deadletter.HeaderPartitionSeq), strconv.FormatUint(m.GetWalSeq(), 10))
	}
	require.Equal(t, []string{"1", "500", "501", "777", "1000"}, seqs, "in their order")
	rows, different := tb.counts()
	require.EqualValues(t, 995, rows)
	require.EqualValues(t, 995, different)
}

// The table has the rows when a view of it refuses one: they are not inserted again in pieces, and none is a dead letter.
func TestAViewRefusesARow(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	tb := b.writeInto("CREATE MATERIALIZED VIEW %[1]s_view ENGINE = MergeTree ORDER BY tuple() AS SELECT throwIf(partition_seq = 500) AS bad FROM %[1]s", func() { b.publish(0, 1, 1000) }, 1000)
	require.Empty(t, b.deadLetters())
	rows, different := tb.counts()
	require.EqualValues(t, 1000, rows)
	require.EqualValues(t, 1000, different)
}

// ClickHouse repeats the constraint that a row violates, and the text of the error can be longer than JetStream takes: it is cut.
func TestLongErrorsFitIntoDeadLetters(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	b.writeInto("ALTER TABLE %s ADD CONSTRAINT poison CHECK wal_seq != 5 OR payload = '"+strings.Repeat("ä ", 30_000)+"'", func() { b.publish(0, 1, 10) }, 10)

	letters := b.deadLetters()
	require.Len(t, letters, 1)
	require.Equal(t, "5", letters[0].Header.Get(deadletter.HeaderPartitionSeq))
	text := letters[0].Header.Get(deadletter.HeaderError)
	require.Contains(t, text, "poison")
	require.True(t, utf8.ValidString(text))
	require.Regexp(t, `… \(the beginning of \d{5} bytes\)$`, text)
	require.Less(t, len(text), errorBytesMax+64)
}

func TestHeaderText(t *testing.T) {
	t.Parallel()
	require.Equal(t, "two  lines", headerText("two\r\nlines"))
	whole := strings.Repeat("x", errorBytesMax)
	require.Equal(t, whole, headerText(whole))
	require.Equal(t, whole[1:]+"… (the beginning of 4097 bytes)", headerText(whole[1:]+"ä"), "no half of a character")
}

// If a table refuses every row, the table is wrong: the writer pauses, and continues once it is repaired.
func TestTableRefusesEverything(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	s := b.service(cfg)
	s.refusedInARowMax = 5
	stop := b.start(s)
	tb := openTable(t, cfg.ClickHouseDSN)
	require.NoError(t, tb.conn.Exec(b.ctx, "ALTER TABLE "+tb.name+" ADD CONSTRAINT wrong CHECK message_seq = 0"))
	b.publish(0, 1, 1000)
	require.ErrorContains(t, b.waitStatus(s, 0, statePaused).problem, "wrong")
	require.NoError(t, tb.conn.Exec(b.ctx, "ALTER TABLE "+tb.name+" DROP CONSTRAINT wrong"))
	b.waitDone(0, 1000)
	require.NoError(t, s.Check())
	require.NoError(t, stop())
	rows, different := tb.counts()
	buried := uint64(len(b.deadLetters()))
	require.GreaterOrEqual(t, buried, uint64(5))
	require.Equal(t, 1000-buried, rows)
	require.Equal(t, 1000-buried, different)
}

// Without a stream for dead letters the partition stops, loudly, and loses nothing.
func TestDeadLettersAway(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	stream, err := b.js.Stream(b.ctx, topology.DeadLettersStream)
	require.NoError(t, err)
	require.NoError(t, b.js.DeleteStream(b.ctx, topology.DeadLettersStream))
	b.publishRecord(0, []byte("bad"))
	b.publish(0, 2, 10)
	s := b.service(cfg)
	stop := b.start(s)
	b.waitStatus(s, 0, stateRetrying)
	require.ErrorContains(t, s.Check(), "into the dead letters")
	require.Zero(t, b.recorded(0).Done)

	_, err = b.js.CreateStream(b.ctx, stream.CachedInfo().Config)
	require.NoError(t, err)
	b.waitDone(0, 10)
	require.NoError(t, stop())
	require.Len(t, b.deadLetters(), 1)
}
