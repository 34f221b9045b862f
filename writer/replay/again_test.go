package replay_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	replays "github.com/sendhouse/sendhouse/pkg/replay"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
	"github.com/sendhouse/sendhouse/writer/replay"
)

// proxy stands before the engine and does to requests what a test wants.
type proxy struct {
	*httptest.Server
	engine string

	mu     sync.Mutex
	tokens []string // of the inserts, as they came
	// insert deals with an insert where it returns true: the connection is closed then.
	insert func(number int, query url.Values, body []byte) bool
	// rows changes a question for rows; asked is its number since the last insert.
	rows  func(asked int, question string) string
	asked int
}

func startProxy(t *testing.T) (*proxy, string) {
	t.Helper()
	dsn := engine.DSN(t)
	parsed, err := url.Parse(dsn)
	require.NoError(t, err)
	p := &proxy{engine: "http://" + parsed.Host + "/"}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p, p.URL + parsed.Path
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	query := r.URL.Query()
	if err != nil || p.change(query, &body) {
		panic(http.ErrAbortHandler)
	}
	answer, err := p.forward(r.Context(), query, body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer answer.Body.Close()
	for name := range answer.Header {
		w.Header().Set(name, answer.Header.Get(name))
	}
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, answer.Body) // a client that has gone is no fault
}

// change reports whether the request is not to be answered.
func (p *proxy) change(query url.Values, body *[]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if token := query.Get("insert_deduplication_token"); token != "" {
		p.tokens, p.asked = append(p.tokens, token), 0
		return p.insert != nil && p.insert(len(p.tokens), query, *body)
	}
	if strings.HasPrefix(string(*body), "SELECT partition_seq, message_id FROM ") {
		p.asked++
		if p.rows != nil {
			*body = []byte(p.rows(p.asked, string(*body)))
		}
	}
	return false
}

// inserts returns the tokens of the inserts, and forgets them.
func (p *proxy) inserts() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	tokens := p.tokens
	p.tokens = nil
	return tokens
}

func (p *proxy) forward(ctx context.Context, query url.Values, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.engine+"?"+query.Encode(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(request)
}

// stale makes a question one that a replica answers which has none of the rows.
func stale(question string) string {
	return strings.Replace(question, " WHERE ", " WHERE 0 AND ", 1)
}

// bundle is a message log, and a table.
type bundle struct {
	t          *testing.T
	ctx        context.Context
	js         jetstream.JetStream
	client     *clickhouse.Client
	table      string
	replicated bool
	encoded    [][]byte // the messages
}

func setup(t *testing.T, dsn string) *bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	client := open(t, dsn)
	require.NoError(t, client.Migrate(ctx))
	return &bundle{t: t, ctx: ctx, js: testkit.StartDeployment(t, 1).JetStream, client: client, table: client.Database() + ".messages"}
}

func open(t *testing.T, dsn string) *clickhouse.Client {
	t.Helper()
	client, err := clickhouse.Open(clickhouse.Config{ClickHouseDSN: dsn}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// publish puts so many messages into the log, each accepted at a time.
func (b *bundle) publish(count int, at func(n int, send *message.Send) time.Time) {
	b.t.Helper()
	clock, err := message.NewIDClock(0, 0)
	require.NoError(b.t, err)
	for n := 1; n <= count; n++ {
		send := &message.Send{ChannelId: "c", ChannelType: 2, FromUid: "u", ClientMsgNo: fmt.Sprint(n), Payload: []byte("hi")}
		accepted := at(n, send)
		encoded, err := send.MarshalVT()
		require.NoError(b.t, err)
		encoded = message.AppendMessage(nil, encoded, message.Identity{ID: clock.Next(accepted.UnixMilli()), Seq: uint64(n), WALSeq: uint64(n)})
		b.encoded = append(b.encoded, encoded)
		_, err = b.js.PublishAsync(topology.MessagesSubject(0), testkit.MessageBatch(uint64(n), encoded), jetstream.WithStallWait(time.Minute))
		require.NoError(b.t, err)
	}
	<-b.js.PublishAsyncComplete()
}

func now(int, *message.Send) time.Time { return time.Now() }

func (b *bundle) exec(statement string) {
	b.t.Helper()
	require.NoError(b.t, b.client.Conn().Exec(b.ctx, statement))
}

// replay gives how many rows it says that it has inserted.
func (b *bundle) replay() (uint64, error) {
	b.t.Helper()
	sink, err := replay.New(b.ctx, b.js, b.client, b.replicated, slog.New(slog.DiscardHandler))
	require.NoError(b.t, err)
	_, err = replays.Run(b.ctx, replays.Config{}, replays.NewMessageLog(b.js), 1, sink, io.Discard)
	return sink.Inserted(), err
}

func (b *bundle) mustReplay() uint64 {
	b.t.Helper()
	inserted, err := b.replay()
	require.NoError(b.t, err)
	return inserted
}

// requireRows wants so many rows, each of another message.
func (b *bundle) requireRows(want uint64) {
	b.t.Helper()
	var rows, different uint64
	require.NoError(b.t, b.client.Conn().QueryRow(b.ctx, "SELECT count(), uniqExact(partition_seq) FROM "+b.table).Scan(&rows, &different))
	require.Equal(b.t, []uint64{want, want}, []uint64{rows, different})
}

// What a writer has begun is its own, also where that is the first it does.
func TestStaysBehindAWriter(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	b.publish(100, now)
	bucket, err := b.js.KeyValue(b.ctx, topology.WriterBucket)
	require.NoError(t, err)
	for _, c := range []struct {
		record string
		want   uint64
	}{
		{`{"version":1,"done":0,"pending":{"first":1,"last":50,"rows":50,"token":"t"}}`, 0},
		{`{"version":1,"done":50,"pending":{"first":51,"last":60,"rows":10,"token":"t"}}`, 50},
		{`{"version":1,"done":1000}`, 100},
	} {
		_, err := bucket.PutString(b.ctx, "range.0", c.record)
		require.NoError(t, err)
		b.mustReplay()
		b.requireRows(c.want)
	}
}

// ClickHouse remembers the tokens of rows that are deleted: they are inserted all the same, as often as that happens.
func TestDeletedRowsAreInsertedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	b.publish(messages, now)
	require.EqualValues(t, messages, b.mustReplay())
	for _, gone := range []struct {
		where string
		rows  uint64
	}{
		{"1", messages}, {"1", messages}, {"partition_seq IN (10, 20, 30)", 3}, {"partition_seq IN (10, 21, 30)", 3}, {"partition_seq IN (10, 21, 30)", 3},
	} {
		b.exec("ALTER TABLE " + b.table + " DELETE WHERE " + gone.where + " SETTINGS mutations_sync = 2")
		b.requireRows(messages - gone.rows)
		require.Equal(t, gone.rows, b.mustReplay())
		b.requireRows(messages)
	}
}

// A message whose time has come is not missed.
func TestRowsThatExpireAreNotMissed(t *testing.T) {
	t.Parallel()
	b := setup(t, engine.DSN(t))
	b.publish(100, func(n int, send *message.Send) time.Time {
		send.Expire = uint32(n%2) * 60
		return time.Now().Add(-time.Hour)
	})
	for range 2 { // all, and those that are gone
		b.mustReplay()
		b.exec("OPTIMIZE TABLE " + b.table + " FINAL")
		b.requireRows(50)
	}
	b.exec("SYSTEM STOP MERGES " + b.table)
	b.mustReplay()
	b.requireRows(50)
}

// An insert whose answer is lost may have done a part, and may be at work on the rest. It is repeated as it was.
func TestALostAnswerDoublesNothing(t *testing.T) {
	t.Parallel()
	p, dsn := startProxy(t)
	b := setup(t, dsn)
	const half = 100
	b.publish(2*half, func(n int, _ *message.Send) time.Time { // of two months, which are two parts
		return time.Date(2026, time.Month(1+n/(half+1)), 10, 0, 0, 0, 0, time.UTC)
	})
	b.exec("SYSTEM STOP MERGES " + b.table)
	direct := open(t, p.engine+b.client.Database())
	var late func()
	p.insert = func(number int, query url.Values, body []byte) bool {
		if number > 1 {
			return false
		}
		var part clickhouse.Block
		for i, encoded := range b.encoded[:half] {
			require.NoError(t, part.Append(uint64(i+1), encoded))
		}
		require.NoError(t, direct.Insert(b.ctx, &part, 0, half, p.tokens[0]))
		late = func() {
			answer, err := p.forward(b.ctx, query, body)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			require.Equal(t, http.StatusOK, answer.StatusCode)
		}
		return true
	}
	require.EqualValues(t, 2*half, b.mustReplay())
	tokens := p.inserts()
	require.Len(t, tokens, 2)
	require.Equal(t, tokens[0], tokens[1])
	late()
	b.requireRows(2 * half)
}

// A replica that is asked and has not what another took is waited for. What is missing for good is an error.
func TestAReplicaMayBeBehind(t *testing.T) {
	t.Parallel()
	p, dsn := startProxy(t)
	b := setup(t, dsn)
	b.publish(100, now)
	b.exec("SYSTEM STOP MERGES " + b.table)
	b.replicated = true
	p.rows = func(asked int, question string) string {
		if asked == 1 { // the first query precedes the insert
			return stale(question)
		}
		return question
	}
	require.EqualValues(t, 100, b.mustReplay())
	require.Len(t, p.inserts(), 1)
	b.requireRows(100)

	b.replicated = false
	p.rows = func(_ int, question string) string { return stale(question) }
	inserted, err := b.replay()
	require.Zero(t, inserted)
	require.ErrorContains(t, err, "partition 0: ClickHouse accepted 100 messages of partition_seq 1 to 100 twice")
	tokens := p.inserts()
	require.Len(t, tokens, 2)
	require.NotEqual(t, tokens[0], tokens[1])
}
