package writer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// refusals is a deployment whose writer has put some rows aside, because the table refused them, and stopped.
type refusals struct {
	*bundle
	cfg Config
	tb  *table
	ids []uint64 // of the letters
}

// poisoned are the wal_seqs that the table refuses.
const poisoned = "3, 50, 51, 77, 200"

// refuse writes 200 records, of which five are refused. Merges are stopped, so that a row that is there twice is seen.
func refuse(t *testing.T) *refusals {
	t.Helper()
	b := setup(t, 1)
	r := &refusals{bundle: b, cfg: b.full()}
	s := b.service(r.cfg)
	stop := b.start(s)
	b.stopMerges(r.cfg)
	r.tb = openTable(t, r.cfg.ClickHouseDSN)
	r.exec("ALTER TABLE " + r.tb.name + " ADD CONSTRAINT poison CHECK wal_seq NOT IN (" + poisoned + ")")
	b.publish(0, 1, 200)
	b.waitDone(0, 200)
	require.NoError(t, stop())
	for _, letter := range r.letters() {
		require.NotEmpty(t, letter.Token)
		r.ids = append(r.ids, letter.ID)
	}
	require.Len(t, r.ids, 5)
	return r
}

func (r *refusals) exec(statement string) {
	r.t.Helper()
	require.NoError(r.t, r.tb.conn.Exec(r.ctx, statement))
}

func (r *refusals) heal() { r.exec("ALTER TABLE " + r.tb.name + " DROP CONSTRAINT poison") }

func (b *bundle) box() *deadletter.Stream {
	b.t.Helper()
	box, err := deadletter.Open(b.ctx, b.js)
	require.NoError(b.t, err)
	return box
}

func (b *bundle) letters() []deadletter.Entry {
	b.t.Helper()
	var all []deadletter.Entry
	_, err := b.box().Walk(b.ctx, deadletter.Filter{}, func(l deadletter.Entry) error {
		all = append(all, l)
		return nil
	})
	require.NoError(b.t, err)
	return all
}

// requeue runs the command and returns its result for each letter.
func (b *bundle) requeue(cfg Config, s deadletter.Selection) (map[uint64]Requeued, error) {
	b.t.Helper()
	var out bytes.Buffer
	err := Requeue(b.ctx, RequeueOptions{Config: cfg.Config, Selection: s, JSON: true}, b.js, b.log, &out)
	said := make(map[uint64]Requeued)
	for decoder := json.NewDecoder(&out); decoder.More(); {
		var one Requeued
		require.NoError(b.t, decoder.Decode(&one))
		said[one.ID] = one
	}
	return said, err
}

// requireAll checks that each of the records is in the table once, as what it was.
func (r *refusals) requireAll(rows int) {
	r.t.Helper()
	have, different := r.tb.counts()
	require.EqualValues(r.t, rows, have)
	require.EqualValues(r.t, rows, different)
	var wrong uint64
	// encode gives record n the channel n%7 and the number n/7+1 there; its partition and time are those of its ID.
	require.NoError(r.t, r.tb.conn.QueryRow(r.ctx, `SELECT countIf(channel_id != concat('channel-0-', toString(wal_seq % 7)) OR message_seq != intDiv(wal_seq, 7) + 1
		OR client_msg_no != concat('no-0-', toString(wal_seq)) OR partition_seq != wal_seq
		OR toUnixTimestamp64Milli(timestamp) != bitShiftRight(message_id, 22) + 1704067200000) FROM `+r.tb.name).Scan(&wrong))
	require.Zero(r.t, wrong)
}

func TestRequeue(t *testing.T) {
	t.Parallel()
	r := refuse(t)
	want := make(map[uint64]*message.Message)
	for _, letter := range r.letters() {
		var m message.Message
		require.NoError(t, m.UnmarshalVT(letter.Body))
		want[letter.PartitionSeq] = &m
	}

	// Nothing has been mended yet.
	said, err := r.requeue(r.cfg, deadletter.Selection{All: true})
	require.ErrorContains(t, err, "5 of 5 dead letters could not be requeued")
	for _, id := range r.ids {
		require.Equal(t, outcomeFailed, said[id].Outcome)
		require.Contains(t, said[id].Error, "still refused")
	}
	require.Len(t, r.letters(), 5)
	r.requireAll(195)

	r.heal()
	said, err = r.requeue(r.cfg, deadletter.Selection{IDs: r.ids[:1]})
	require.NoError(t, err)
	require.Equal(t, map[uint64]Requeued{r.ids[0]: {ID: r.ids[0], Outcome: outcomeInserted}}, said)
	said, err = r.requeue(r.cfg, deadletter.Selection{IDs: r.ids[:1]})
	require.ErrorContains(t, err, "1 of 1 dead letters could not be requeued")
	require.Equal(t, outcomeGone, said[r.ids[0]].Outcome)
	said, err = r.requeue(r.cfg, deadletter.Selection{Filter: deadletter.Filter{Reason: reasonRefused}})
	require.NoError(t, err)
	require.Len(t, said, 4)
	require.Empty(t, r.letters())
	r.requireAll(200)
	for seq, m := range want {
		var id int64
		var number uint64
		var payload string
		require.NoError(t, r.tb.conn.QueryRow(r.ctx, fmt.Sprintf("SELECT message_id, message_seq, payload FROM %s WHERE partition_seq = %d", r.tb.name, seq)).Scan(&id, &number, &payload))
		require.EqualValues(t, m.GetMessageId(), id)
		require.Equal(t, m.GetMessageSeq(), number)
		require.Equal(t, string(m.GetPayload()), payload)
	}
	said, err = r.requeue(r.cfg, deadletter.Selection{All: true})
	require.NoError(t, err)
	require.Empty(t, said)
}

// The requeuer crashes before each step that changes something, and a second run completes the work.
func TestRequeueDiesBetweenSteps(t *testing.T) {
	t.Parallel()
	r := refuse(t)
	r.heal()
	died := errors.New("died")
	outcomes := map[string]string{"insert": outcomeInserted, "remove": outcomeStored}
	for step, after := range outcomes {
		letter := r.letters()[0]
		q, err := newRequeuer(r.ctx, r.cfg.Config, r.js, r.log)
		require.NoError(t, err)
		q.step = func(name string) error {
			if name == step {
				return &fatalError{died}
			}
			return nil
		}
		_, err = q.requeue(r.ctx, letter)
		require.ErrorIs(t, err, died)
		require.NoError(t, q.client.Close())

		said, err := r.requeue(r.cfg, deadletter.Selection{IDs: []uint64{letter.ID}})
		require.NoError(t, err)
		require.Equal(t, after, said[letter.ID].Outcome)
	}
	r.requireAll(197)
	require.Len(t, r.letters(), 3)
}

// Several at once, each of all letters.
func TestRequeueTwiceAtOnce(t *testing.T) {
	t.Parallel()
	r := refuse(t)
	r.heal()
	// All have looked into the table before the first of them inserts.
	const many = 3
	var looked, all sync.WaitGroup
	looked.Add(many)
	letters := r.letters()
	for range many {
		q, err := newRequeuer(r.ctx, r.cfg.Config, r.js, r.log)
		require.NoError(t, err)
		var first sync.Once
		q.step = func(string) error {
			first.Do(func() {
				looked.Done()
				looked.Wait()
			})
			return nil
		}
		all.Go(func() {
			for _, letter := range letters {
				if result, err := q.requeue(r.ctx, letter); err != nil || result.Error != "" {
					t.Error(result, err)
				}
			}
			if err := q.client.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.Empty(t, r.letters())
	r.requireAll(200)
}

// The writer died when it had put the letter there and not yet recorded that it is past the record: its successor
// will try the row again. A requeuer is refused in the meantime, and a late insert of either adds nothing.
func TestRequeueBeforeTheWriterHasGoneOn(t *testing.T) {
	t.Parallel()
	r := refuse(t)
	letter := r.letters()[4] // of the last record
	require.EqualValues(t, 200, letter.PartitionSeq)
	p := r.recorded(0)
	kv, err := r.js.KeyValue(r.ctx, topology.WriterBucket)
	require.NoError(t, err)
	past := p
	p.Done, p.DoneDigest = 199, 0
	p.Pending = &pendingRange{seqRange: seqRange{First: 200, Last: 200}, Rows: 1, Digest: digestOf(letter.Body), Token: letter.Token}
	record, err := json.Marshal(p)
	require.NoError(t, err)
	_, err = kv.Update(r.ctx, positionKey(0), record, past.revision)
	require.NoError(t, err)
	r.heal()

	said, err := r.requeue(r.cfg, deadletter.Selection{IDs: []uint64{letter.ID}})
	require.Error(t, err)
	require.Contains(t, said[letter.ID].Error, "has not passed message 200 yet (done: 199)")
	require.Len(t, r.letters(), 5)

	// The successor inserts it now. Then the letter is only in the way.
	stop := r.start(r.service(r.cfg))
	r.waitDone(0, 200)
	require.NoError(t, stop())
	r.requireAll(196)
	said, err = r.requeue(r.cfg, deadletter.Selection{IDs: []uint64{letter.ID}})
	require.NoError(t, err)
	require.Equal(t, outcomeStored, said[letter.ID].Outcome)

	// A writer that was overtaken, and whose insert of another refused row arrives after it was requeued.
	zombie := r.letters()[0]
	_, err = r.requeue(r.cfg, deadletter.Selection{IDs: []uint64{zombie.ID}})
	require.NoError(t, err)
	client, err := clickhouse.Open(r.cfg.Config, r.log)
	require.NoError(t, err)
	defer func() { require.NoError(t, client.Close()) }()
	var block clickhouse.Block
	require.NoError(t, block.Append(zombie.PartitionSeq, zombie.Body))
	require.NoError(t, client.Insert(r.ctx, &block, 0, 1, zombie.Token))
	r.requireAll(197)
}

// digestOf is the digest of a range of one record.
func digestOf(record []byte) uint64 {
	var b batch
	b.add(1, record)
	return b.digest(seqRange{First: 1, Last: 1})
}

// putLetter puts a letter there by hand.
func (b *bundle) putLetter(role, reason, stream string, seq uint64, body []byte) (id uint64) {
	b.t.Helper()
	ack, err := b.js.PublishMsg(b.ctx, &nats.Msg{
		Subject: topology.DeadLetterSubject(role, reason), Data: body,
		Header: nats.Header{deadletter.HeaderStream: {stream}, deadletter.HeaderPartitionSeq: {fmt.Sprint(seq)}, deadletter.HeaderError: {"by hand"}},
	})
	require.NoError(b.t, err)
	return ack.Sequence
}

// What cannot become a row says so, and stays.
func TestRequeueWhatCannotBe(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	cfg := b.full()
	stop := b.start(b.service(cfg))
	b.publish(0, 1, 20)
	b.waitDone(0, 20)
	require.NoError(t, stop())
	tb := openTable(t, cfg.ClickHouseDSN)
	one := func(change func(*message.Message)) []byte {
		var m message.Message
		require.NoError(t, m.UnmarshalVT(b.encode(0, 5)))
		change(&m)
		encoded, err := m.MarshalVT()
		require.NoError(t, err)
		return encoded
	}
	expired := one(func(m *message.Message) {
		m.MessageId, m.MessageSeq, m.Expire = uint64(message.MakeID(time.Since(message.Epoch()).Milliseconds()-10_000, 0, 1)), 900, 1
	})
	for _, c := range []struct {
		id            uint64
		outcome, want string
	}{
		{b.putLetter("writer", "lost", "MESSAGES_0", 1, []byte(`{"first":1,"last":5}`)), outcomeNever, "disappeared from the message log before they were read"},
		{b.putLetter("sequencer", "malformed", "SENDS_0", 1, []byte("x")), outcomeNever, "role sequencer"},
		{b.putLetter("writer", "new", "MESSAGES_0", 1, []byte("x")), outcomeNever, `unknown reason "new"`},
		{b.putLetter("writer", "refused", "SENDS_0", 1, one(func(*message.Message) {})), outcomeNever, "do not identify a record"},
		{b.putLetter("writer", "refused", "MESSAGES_0", 0, one(func(*message.Message) {})), outcomeNever, "do not identify a record"},
		{b.putLetter("writer", "refused", "MESSAGES_1", 5, one(func(*message.Message) {})), outcomeNever, "belongs to partition 0, but the letter to MESSAGES_1"},
		{b.putLetter("writer", "undecodable", "MESSAGES_0", 5, []byte("\xff")), outcomeFailed, "still partition_seq 5: not a message that can be stored"},
		{b.putLetter("writer", "refused", "MESSAGES_0", 21, one(func(*message.Message) {})), outcomeFailed, "has not passed message 21 yet (done: 20)"},
		{b.putLetter("writer", "refused", "MESSAGES_0", 5, one(func(m *message.Message) { m.MessageId++ })), outcomeFailed, "the table has another message"},
		{4711, outcomeGone, "there is no such dead letter"},
	} {
		said, err := b.requeue(cfg, deadletter.Selection{IDs: []uint64{c.id}})
		require.ErrorContains(t, err, "1 of 1 dead letters could not be requeued", c.want)
		require.Equal(t, c.outcome, said[c.id].Outcome, c.want)
		require.Contains(t, said[c.id].Error, c.want)
	}
	require.Len(t, b.letters(), 9)

	// One that this version can decode, of a record that an earlier one could not; and one whose time is up.
	news := one(func(m *message.Message) { m.MessageSeq, m.MessageId = 901, uint64(message.MakeID(1, 0, 1)) })
	decodable, late := b.putLetter("writer", "undecodable", "MESSAGES_0", 6, news), b.putLetter("writer", "refused", "MESSAGES_0", 7, expired)
	said, err := b.requeue(cfg, deadletter.Selection{All: true})
	require.ErrorContains(t, err, "3 of 11")
	require.Equal(t, outcomeInserted, said[decodable].Outcome)
	require.Equal(t, outcomeExpired, said[late].Outcome)
	require.Len(t, b.letters(), 9)
	rows, _ := tb.counts()
	require.EqualValues(t, 21, rows)
}

// ClickHouse goes away in the middle; what was not done is done later.
func TestRequeueIntoAServer(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	server := enginetest.StartServer(t)
	cfg := b.config(server.DSN("test") + "?read_timeout=2s&dial_timeout=1s")
	stop := b.start(b.service(cfg))
	b.publish(0, 1, 100)
	b.waitDone(0, 100)
	require.NoError(t, stop())
	for n := uint64(1); n <= 10; n++ {
		record := b.encode(0, int(2000+n*7))
		b.putLetter("writer", "refused", "MESSAGES_0", n, record)
	}
	q, err := newRequeuer(b.ctx, cfg.Config, b.js, b.log)
	require.NoError(t, err)
	defer func() { require.NoError(t, q.client.Close()) }()
	q.timing.backoff = lifecycle.Backoff{Min: 10 * time.Millisecond, Max: 20 * time.Millisecond}
	steps := 0
	q.step = func(name string) error {
		if steps++; steps == 9 { // before the insert of the fifth
			require.Equal(t, "insert", name)
			server.Kill9()
		}
		return nil
	}
	var out strings.Builder
	err = q.run(b.ctx, RequeueOptions{Selection: deadletter.Selection{All: true}}, &out)
	require.ErrorContains(t, err, "is ClickHouse running")
	require.Len(t, b.letters(), 6)
	require.Equal(t, 4, strings.Count(out.String(), "inserted\n"))
	require.Equal(t, 1, strings.Count(out.String(), "failed"), "the others were not tried")

	server.Start()
	said, err := b.requeue(cfg, deadletter.Selection{All: true})
	require.NoError(t, err)
	require.Len(t, said, 6)
	rows, _ := openTable(t, cfg.ClickHouseDSN).counts()
	require.EqualValues(t, 110, rows)
}

func TestRequeueOptions(t *testing.T) {
	t.Parallel()
	err := Requeue(context.Background(), RequeueOptions{}, nil, nil, nil)
	require.ErrorContains(t, err, "--clickhouse-dsn: is missing")
	require.ErrorContains(t, err, "say which dead letters are meant")
}
