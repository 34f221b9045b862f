package deadletter_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

type bundle struct {
	t      *testing.T
	ctx    context.Context
	js     jetstream.JetStream
	stream *deadletter.Stream
}

// setup starts a NATS server with the stream of dead letters.
func setup(t *testing.T) *bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	log := slog.New(slog.DiscardHandler)
	server, err := broker.StartEmbedded(broker.EmbeddedConfig{DataDir: filepath.Join(t.TempDir(), "nats"), Addr: "127.0.0.1:0", StoreBytesMax: 1 << 30, Logger: log})
	require.NoError(t, err)
	t.Cleanup(server.Shutdown)
	nc, js, err := broker.Connect(ctx, broker.Config{URL: server.URL(), Options: []nats.Option{server.Operator()}, Name: t.Name(), Logger: log})
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	_, err = deadletter.Open(ctx, js)
	require.ErrorContains(t, err, "stream DEAD_LETTERS")
	_, err = js.CreateStream(ctx, topology.DefaultOptions().DeadLettersConfig())
	require.NoError(t, err)
	stream, err := deadletter.Open(ctx, js)
	require.NoError(t, err)
	return &bundle{t: t, ctx: ctx, js: js, stream: stream}
}

// put puts a letter there as a role would.
func (b *bundle) put(role, reason, stream string, seq int, contentType string, body []byte) (id uint64) {
	b.t.Helper()
	ack, err := b.js.PublishMsg(b.ctx, &nats.Msg{
		Subject: topology.DeadLetterSubject(role, reason),
		Data:    body,
		Header: nats.Header{
			topology.HeaderContentType: {contentType}, deadletter.HeaderError: {"because of " + reason},
			deadletter.HeaderStream: {stream}, deadletter.HeaderPartitionSeq: {fmt.Sprint(seq)},
		},
	})
	require.NoError(b.t, err)
	return ack.Sequence
}

// fill puts 1,200 letters there, so that they take more than one answer: of four kinds in turn.
func (b *bundle) fill() {
	b.t.Helper()
	for n := range 300 {
		b.put("writer", "refused", "MESSAGES_0", 4*n+1, message.ContentType, []byte("a"))
		b.put("writer", "undecodable", "MESSAGES_1", 4*n+2, message.ContentType, []byte("b"))
		b.put("writer", "refused", "MESSAGES_1", 4*n+3, message.ContentType, []byte("c"))
		b.put("other", "refused", "SENDS_0", 4*n+4, "text/plain", []byte("d"))
	}
}

func (b *bundle) list(o deadletter.ListOptions) deadletter.Listing {
	b.t.Helper()
	o.JSON = true
	var out bytes.Buffer
	require.NoError(b.t, deadletter.List(b.ctx, b.stream, o, &out))
	var listing deadletter.Listing
	require.NoError(b.t, json.Unmarshal(out.Bytes(), &listing))
	return listing
}

func TestList(t *testing.T) {
	t.Parallel()
	b := setup(t)
	empty := b.list(deadletter.ListOptions{Limit: 10})
	require.Equal(t, deadletter.Listing{Counts: []deadletter.Group{}, Letters: []deadletter.Entry{}}, empty)
	b.fill()

	all := b.list(deadletter.ListOptions{Limit: 5})
	require.Equal(t, []deadletter.Group{{Role: "writer", Reason: "refused", Count: 600}, {Role: "writer", Reason: "undecodable", Count: 300}, {Role: "other", Reason: "refused", Count: 300}}, all.Counts)
	require.True(t, all.More)
	require.Len(t, all.Letters, 5)
	first := all.Letters[0]
	require.WithinDuration(t, time.Now(), first.Time, time.Minute)
	first.Time = time.Time{}
	require.Equal(t, deadletter.Entry{
		ID: 1, Role: "writer", Reason: "refused", Stream: "MESSAGES_0", PartitionSeq: 1, Error: "because of refused",
		ContentType: message.ContentType, Bytes: 1,
	}, first)

	for filter, want := range map[deadletter.Filter]int{
		{Role: "writer"}:                           900,
		{Role: "writer", Reason: "refused"}:        600,
		{Reason: "refused"}:                        900,
		{Stream: "MESSAGES_1"}:                     600,
		{Reason: "refused", Stream: "MESSAGES_1"}:  300,
		{Role: "nobody"}:                           0,
		{Since: time.Hour}:                         1200,
		{OlderThan: time.Hour}:                     0,
		{Since: time.Hour, OlderThan: time.Minute}: 0,
	} {
		listing := b.list(deadletter.ListOptions{Filter: filter, Limit: 2000})
		require.Len(t, listing.Letters, want, "%+v", filter)
		require.False(t, listing.More)
	}

	var out bytes.Buffer
	require.NoError(t, deadletter.List(b.ctx, b.stream, deadletter.ListOptions{Filter: deadletter.Filter{Role: "other"}, Limit: 1}, &out))
	require.Regexp(t, `^ID +TIME +ROLE +REASON +STREAM +SEQ +BYTES +ERROR\n4 +\S+ +other +refused +SENDS_0 +4 +1 +because of refused\n300 dead letters, 1 listed: 300 of other/refused\n$`, out.String())

	for _, o := range []deadletter.ListOptions{{Limit: -1}, {Filter: deadletter.Filter{Role: "a.b"}}, {Filter: deadletter.Filter{Reason: ">"}}, {Filter: deadletter.Filter{Since: -1}}} {
		require.Error(t, deadletter.List(b.ctx, b.stream, o, &out))
	}
}

// TestWalkWhileLettersGo: the last letters are removed by somebody else while the first are read, and others come.
func TestWalkWhileLettersGo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i := range 501 { // one more than is asked for at a time
		b.put("writer", "refused", "MESSAGES_0", i, message.ContentType, []byte("x"))
	}
	for name, meanwhile := range map[string]func(id uint64){
		"one is removed": func(id uint64) { require.NoError(t, b.stream.Remove(b.ctx, id)) },
		"one comes":      func(id uint64) { b.put("writer", "refused", "MESSAGES_0", int(id), message.ContentType, []byte("y")) },
	} {
		groups, err := deadletter.Groups(b.ctx, b.js)
		require.NoError(t, err)
		newest := groups[0].Latest.ID
		var ids []uint64
		last, err := b.stream.Walk(b.ctx, deadletter.Filter{}, func(l deadletter.Entry) error {
			if len(ids) == 0 {
				meanwhile(newest)
			}
			ids = append(ids, l.ID)
			return nil
		})
		require.NoError(t, err, name)
		require.Equal(t, newest, last, name)
		require.GreaterOrEqual(t, last, ids[len(ids)-1], name)
	}
}

func TestShow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	m := &message.Message{
		ChannelId: "c\x1b[31m", ChannelType: 2, FromUid: "u", ClientMsgNo: "no<&>", Payload: []byte(`{"type":1}`), Subscribers: []string{"s"},
		MessageId: uint64(message.MakeID(1000, 3, 7)), MessageSeq: 5, WalSeq: 6, Expire: 7,
	}
	encoded, err := m.MarshalVT()
	require.NoError(t, err)
	id := b.put("writer", "refused", "MESSAGES_3", 9, message.ContentType, encoded)
	lost := b.put("writer", "lost", "MESSAGES_3", 10, "application/json", []byte(`{"first":10,"last":20}`))
	raw := b.put("writer", "undecodable", "MESSAGES_3", 21, message.ContentType, []byte("\x00\xff"))
	show := func(o deadletter.ShowOptions) string {
		var out bytes.Buffer
		require.NoError(t, deadletter.Show(b.ctx, b.stream, o, &out))
		return out.String()
	}

	require.Contains(t, show(deadletter.ShowOptions{ID: id, JSON: true}), fmt.Sprintf(`"message":{"message_id":%d,"message_seq":5,"timestamp":"2024-01-01T00:00:01Z",`, m.GetMessageId())+
		`"channel_id":"c\u001b[31m","channel_type":2,"from_uid":"u","client_msg_no":"no<&>","no_persist":false,"red_dot":false,"sync_once":false,`+
		`"stream_no":"","tag_key":"","expire":7,"subscribers":["s"],"wal_seq":6,"wal_index":0,"payload":"eyJ0eXBlIjoxfQ=="}`)
	text := show(deadletter.ShowOptions{ID: id})
	require.Contains(t, text, `channel_id     "c\x1b[31m"`, "a terminal must not take it for a command")
	require.Contains(t, text, `payload        {"type":1}`)
	require.Contains(t, text, "\nflags          no_persist=false red_dot=false sync_once=false\nstream_no      \ntag_key        \nexpire         7\nsubscribers    1\nwal            6/0\n")
	require.Equal(t, string(encoded), show(deadletter.ShowOptions{ID: id, Body: true}))

	require.Contains(t, show(deadletter.ShowOptions{ID: lost}), `body           {"first":10,"last":20}`)
	require.Contains(t, show(deadletter.ShowOptions{ID: lost, JSON: true}), `"object":{"first":10,"last":20}`)
	require.Contains(t, show(deadletter.ShowOptions{ID: raw}), `body           "\x00\xff"`)
	require.Contains(t, show(deadletter.ShowOptions{ID: raw, JSON: true}), `"body":"AP8="`)
	for _, none := range []uint64{0, 99} {
		require.ErrorIs(t, deadletter.Show(b.ctx, b.stream, deadletter.ShowOptions{ID: none}, nil), deadletter.ErrNotFound)
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fill()
	purge := func(yes bool, s deadletter.Selection) (string, error) {
		var out bytes.Buffer
		err := deadletter.Purge(b.ctx, b.stream, deadletter.PurgeOptions{Selection: s, Yes: yes}, &out)
		return out.String(), err
	}
	left := func() int {
		stream, err := b.js.Stream(b.ctx, topology.DeadLettersStream)
		require.NoError(t, err)
		return int(stream.CachedInfo().State.Msgs)
	}
	for _, s := range []deadletter.Selection{
		{}, {All: true, IDs: []uint64{1}}, {All: true, Filter: deadletter.Filter{Role: "writer"}}, {IDs: []uint64{1}, Filter: deadletter.Filter{Role: "writer"}},
	} {
		_, err := purge(true, s)
		require.ErrorContains(t, err, "say which dead letters are meant")
	}
	_, err := purge(false, deadletter.Selection{All: true})
	require.ErrorContains(t, err, "1200 dead letters would be removed for good (600 of writer/refused, 300 of writer/undecodable, 300 of other/refused): say --yes")
	require.Equal(t, 1200, left())

	_, err = purge(true, deadletter.Selection{IDs: []uint64{5, 5000}})
	require.ErrorIs(t, err, deadletter.ErrNotFound)
	require.Equal(t, 1200, left(), "all or none of those named")
	text, err := purge(true, deadletter.Selection{IDs: []uint64{5, 7}})
	require.NoError(t, err)
	require.Equal(t, "removed 2 dead letters: 2 of writer/refused\n", text)
	_, err = b.stream.Get(b.ctx, 5)
	require.ErrorIs(t, err, deadletter.ErrNotFound)

	_, err = purge(true, deadletter.Selection{Filter: deadletter.Filter{Role: "writer", Stream: "MESSAGES_1", Reason: "refused"}})
	require.NoError(t, err)
	require.Equal(t, 1200-2-299, left())
	_, err = purge(true, deadletter.Selection{Filter: deadletter.Filter{Role: "other"}})
	require.NoError(t, err)
	require.Equal(t, []deadletter.Group{{Role: "writer", Reason: "refused", Count: 299}, {Role: "writer", Reason: "undecodable", Count: 300}}, b.list(deadletter.ListOptions{}).Counts)
	_, err = purge(true, deadletter.Selection{Filter: deadletter.Filter{OlderThan: time.Hour}})
	require.NoError(t, err)
	require.Equal(t, 599, left())
	_, err = purge(true, deadletter.Selection{All: true})
	require.NoError(t, err)
	require.Zero(t, left())
	text, err = purge(true, deadletter.Selection{All: true})
	require.NoError(t, err)
	require.Equal(t, "no dead letters\n", text)
	require.NoError(t, b.stream.Remove(b.ctx, 5), "one that is gone is as good as removed")
}

func TestGroups(t *testing.T) {
	t.Parallel()
	b := setup(t)
	groups, err := deadletter.Groups(b.ctx, b.js)
	require.NoError(t, err)
	require.Empty(t, groups)

	b.put("writer", "refused", "MESSAGES_0", 1, message.ContentType, []byte("a"))
	latest := b.put("writer", "refused", "MESSAGES_1", 2, message.ContentType, []byte("bc"))
	gone := b.put("writer", "lost", "MESSAGES_0", 3, "text/plain", nil)
	other := b.put("other", "refused", "SENDS_0", 4, "text/plain", []byte("d"))
	require.NoError(t, b.stream.Remove(b.ctx, gone))
	groups, err = deadletter.Groups(b.ctx, b.js)
	require.NoError(t, err)
	require.Len(t, groups, 2)
	require.Equal(t, "other", groups[0].Role)
	require.Equal(t, other, groups[0].Latest.ID)
	require.Equal(t, deadletter.Group{Role: "writer", Reason: "refused", Count: 2, Latest: groups[1].Latest}, groups[1])
	require.Equal(t, latest, groups[1].Latest.ID)
	require.Equal(t, "MESSAGES_1", groups[1].Latest.Stream)
	require.Equal(t, "because of refused", groups[1].Latest.Error)
	require.Equal(t, 2, groups[1].Latest.Bytes)
}
