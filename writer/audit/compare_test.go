package audit_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	report "github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/audit"
)

const someRows = 20_000 // more than a range

func TestRowsAreWhatTheLogHolds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.publish(1, someRows, 600)
	b.write(someRows)
	b.publish(someRows+1, someRows+5, 0) // the writer has stopped
	differences, got := b.compare()
	require.Empty(t, differences)
	require.Equal(t, audit.Compared{First: 1, Last: someRows, Rows: someRows * 9 / 10, Expiring: someRows / 10}, got)

	whole := report.NewReport()
	audit.New(b.js, b.client, 1, slog.New(slog.DiscardHandler)).Audit(b.ctx, whole)
	whole.Finish(nil)
	require.Equal(t, report.Clean, whole.Status)
	require.NoError(t, whole.Err())
	require.Contains(t, fmt.Sprint(whole.Parts[0].NotCompared), "5 messages from 20001 on")
}

// Where retention takes messages sooner than ClickHouse loses rows, the rest is compared.
func TestRetentionShorterThanTheTable(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.publish(1, 1000, 0)
	b.write(1000)
	stream, err := b.js.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.Purge(b.ctx, jetstream.WithPurgeSequence(301)))
	differences, got := b.compare()
	require.Empty(t, differences)
	require.Equal(t, audit.Compared{First: 301, Last: 1000, Rows: 700, OldRows: 300}, got)
	b.exec("SYSTEM STOP MERGES " + b.table)
	b.exec("INSERT INTO " + b.table + " SELECT * FROM " + b.table + " WHERE partition_seq = 17")
	differences, _ = b.compare()
	require.Len(t, differences, 1)
	require.Contains(t, differences[0], "1 rows of messages 1 to 300 are stored more than once")
}

func TestPlantedFaultsAreFound(t *testing.T) {
	t.Parallel()
	// A new table is filled with what the fault leaves, and takes the place of the old one.
	replace := func(b *bundle, selection string) {
		b.exec("CREATE TABLE " + b.table + "_other AS " + b.table)
		b.exec("INSERT INTO " + b.table + "_other SELECT " + selection)
		b.exec("RENAME TABLE " + b.table + " TO " + b.table + "_before, " + b.table + "_other TO " + b.table)
	}
	columns := "message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, red_dot, sync_once, stream_no, tag_key, expire, subscribers, %s, timestamp, partition, %s, wal_seq, wal_index"
	for name, c := range map[string]struct {
		plant func(b *bundle)
		want  string
	}{
		"deleted row":   {func(b *bundle) { replace(b, "* FROM "+b.table+" WHERE partition_seq != 77") }, "message_seq 77 of channel 2/c (partition_seq 77,"},
		"all rows gone": {func(b *bundle) { replace(b, "* FROM "+b.table+" WHERE partition_seq <= 197") }, "message_seq 198 of channel 2/c (partition_seq 198,"},
		"changed payload": {func(b *bundle) {
			replace(b, fmt.Sprintf(columns, "if(partition_seq = 77, 'other', payload)", "partition_seq")+" FROM "+b.table)
		}, `differs from the message log: payload is "5:other", want "10:payload 77"`},
		"changed expiry": {func(b *bundle) {
			b.exec("SYSTEM STOP TTL MERGES " + b.table)
			b.exec("SYSTEM STOP MERGES " + b.table)
			b.exec("CREATE TABLE " + b.table + "_other AS " + b.table)
			b.exec("INSERT INTO " + b.table + "_other SELECT * REPLACE(if(partition_seq = 77, 5, expire) AS expire) FROM " + b.table)
			b.exec("EXCHANGE TABLES " + b.table + " AND " + b.table + "_other")
		}, "message_seq 77 of channel 2/c (partition_seq 77,"},
		"duplicated row": {func(b *bundle) {
			b.exec("SYSTEM STOP MERGES " + b.table)
			b.exec("INSERT INTO " + b.table + " SELECT * FROM " + b.table + " WHERE partition_seq = 77")
		}, "is stored 2 times"},
		"duplicate with other content": {func(b *bundle) {
			b.exec("INSERT INTO " + b.table + " SELECT " + fmt.Sprintf(columns, "'other'", "partition_seq") + " FROM " + b.table + " WHERE partition_seq = 77")
		}, "the row of message_seq 77 of channel 2/c"},
		"row of no message": {func(b *bundle) {
			b.exec("INSERT INTO " + b.table + " SELECT " + fmt.Sprintf(columns, "payload", "toUInt64(5000)") + " FROM " + b.table + " WHERE partition_seq = 77")
		}, "there is a row of message 5000, but the message log ends at 200"},
		"hole in the log": {func(b *bundle) {
			stream, err := b.js.Stream(b.ctx, topology.MessagesStream(0))
			require.NoError(b.t, err)
			require.NoError(b.t, stream.DeleteMsg(b.ctx, 4))
		}, "there is a row of message 77, which the message log does not have"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.publishCommits(1, 200, 1, 0, 75, 3, 100) // the fourth has messages 77 to 79
			b.write(200)
			differences, _ := b.compare()
			require.Empty(t, differences)
			c.plant(b)
			differences, _ = b.compare()
			require.NotEmpty(t, differences)
			require.Contains(t, differences[0], c.want)
		})
	}
}

func TestRowsOfNoPartition(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.publish(1, 10, 0)
	b.write(10)
	b.exec("INSERT INTO " + b.table + " SELECT * REPLACE(toUInt16(9) AS partition) FROM " + b.table + " WHERE partition_seq = 7")
	whole := report.NewReport()
	audit.New(b.js, b.client, 1, slog.New(slog.DiscardHandler)).Audit(b.ctx, whole)
	whole.Finish(nil)
	require.Equal(t, report.Differs, whole.Status)
	require.ErrorContains(t, whole.Err(), "1 rows belong to partition 9")
}

// Of a log that has lost its first record, or one within, as many messages are left out as the record had.
func TestRecordsOfManyAreGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.publishCommits(1, 1000, 40, 0, 0, 130, 7)
	b.write(1000)
	stream, err := b.js.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(t, err)
	require.NoError(t, stream.Purge(b.ctx, jetstream.WithPurgeSequence(2))) // it begins with empty records now
	differences, got := b.compare()
	require.Empty(t, differences)
	require.Equal(t, audit.Compared{First: 41, Last: 1000, Rows: 960, OldRows: 40}, got)

	require.NoError(t, stream.DeleteMsg(b.ctx, 10)) // messages 348 to 354
	differences, got = b.compare()
	require.EqualValues(t, 7, got.Foreign)
	require.Len(t, differences, 7)
	require.Contains(t, differences[0], "there is a row of message 348, which the message log does not have")
	require.Contains(t, differences[6], "there is a row of message 354, which")

	require.NoError(t, stream.Purge(b.ctx))
	differences, got = b.compare()
	require.Empty(t, differences)
	require.Equal(t, audit.Compared{First: 1001, Last: 1000, OldRows: 1000}, got)
}

// A dead letter explains that there is no row.
func TestDeadLettersExplain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.NoError(t, b.client.Migrate(b.ctx))
	b.exec("ALTER TABLE " + b.table + " ADD CONSTRAINT no_seven CHECK client_msg_no != '7'")
	b.publishCommits(1, 20, 6, 0, 5)
	b.publishRecord([]byte("not a message"))
	<-b.js.PublishAsyncComplete()
	b.write(21)
	differences, got := b.compare()
	require.Empty(t, differences)
	require.Equal(t, audit.Compared{First: 1, Last: 21, Rows: 19, Explained: 1, Undecodable: 1}, got)
}

// While messages come in and rows follow, nothing differs.
func TestComparesWhileTheWriterRuns(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.publish(1, 100, 0)
	b.write(100)
	written := make(chan struct{})
	go func() {
		defer close(written)
		for n := 101; n <= 2000; n += 100 {
			b.publish(n, n+99, 0)
		}
		b.write(2000)
	}()
	for rounds := 0; ; rounds++ {
		differences, _ := b.compare()
		require.Empty(t, differences)
		select {
		case <-written:
			_, got := b.compare()
			require.EqualValues(t, 2000, got.Rows)
			require.Positive(t, rounds)
			return
		case <-b.ctx.Done():
			require.FailNow(t, "the writer did not end")
		default:
		}
	}
}

// Where ClickHouse or the log cannot be read, the audit says that it could not tell.
func TestCannotTell(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.publish(1, 10, 0)
	b.write(10)
	b.exec("DROP TABLE " + b.table)
	whole := report.NewReport()
	audit.New(b.js, b.client, 1, slog.New(slog.DiscardHandler)).Audit(b.ctx, whole)
	whole.Finish(nil)
	require.Equal(t, report.CannotTell, whole.Status)
	coder, ok := whole.Err().(interface{ ExitCode() int })
	require.True(t, ok)
	require.Equal(t, 2, coder.ExitCode())

	b.loseMessages()
	b.requireBehind(b.js)
}

// loseMessages recreates the log, empty, before anything is derived again.
func (b *bundle) loseMessages() {
	b.t.Helper()
	stream, err := b.js.Stream(b.ctx, topology.MessagesStream(0))
	require.NoError(b.t, err)
	config := stream.CachedInfo().Config
	require.NoError(b.t, b.js.DeleteStream(b.ctx, topology.MessagesStream(0)))
	_, err = b.js.CreateStream(b.ctx, config)
	require.NoError(b.t, err)
}

// requireBehind wants an audit that cannot tell because the log's tail is missing.
func (b *bundle) requireBehind(js jetstream.JetStream) {
	b.t.Helper()
	part, err := audit.New(js, b.client, 1, slog.New(slog.DiscardHandler)).Compare(b.ctx, 0)
	require.ErrorContains(b.t, err, "derived")
	require.Empty(b.t, part.First)
	whole := report.NewReport()
	whole.Add(slog.New(slog.DiscardHandler), part, err)
	whole.Finish(nil)
	require.Equal(b.t, report.CannotTell, whole.Status)
}

// The rows of a batch are there before the writer records that it is done.
func TestATailIsLostThatIsBeingInserted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.publish(1, 10, 0)
	b.write(10)
	bucket, err := b.js.KeyValue(b.ctx, topology.WriterBucket)
	require.NoError(t, err)
	_, err = bucket.PutString(b.ctx, "range.0", `{"version":1,"done":5,"pending":{"first":6,"last":10,"rows":5,"token":"t"}}`)
	require.NoError(t, err)
	b.loseMessages()
	b.commits, b.published = 0, 0
	b.publish(1, 7, 0)
	b.requireBehind(b.js)
}

// losing is a JetStream whose message log is lost when an audit begins to read it.
type losing struct {
	jetstream.JetStream
	lose func()
}

type losingStream struct {
	jetstream.Stream
	lose  func()
	looks int
}

func (l *losing) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	stream, err := l.JetStream.Stream(ctx, name)
	return &losingStream{Stream: stream, lose: l.lose}, err
}

func (l *losingStream) Info(ctx context.Context, opts ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	if l.looks++; l.looks == 2 { // the first is for where it ends
		l.lose()
	}
	return l.Stream.Info(ctx, opts...)
}

func TestATailIsLostMeanwhile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.publish(1, 10, 0)
	b.write(10)
	b.requireBehind(&losing{b.js, b.loseMessages})
}
