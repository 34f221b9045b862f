package history

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// sequence is first to last.
func sequence64(first, last int) []uint64 {
	all := []uint64{}
	for n := first; n <= last; n++ {
		all = append(all, uint64(n))
	}
	return all
}

// The bounds and the modes, as WuKongIM has them.
func TestSyncBounds(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	var all []*message.Message
	for seq := 1; seq <= 250; seq++ {
		all = append(all, sample("g", seq))
	}
	b.insert(all...)
	b.insert(sample("h", 1), sample("g2", 1))
	for _, row := range []struct {
		body string
		want []uint64
		more int
	}{
		{``, sequence64(151, 250), 1},
		{`,"pull_mode":1`, sequence64(151, 250), 1}, // no bound at all: the newest, in both modes
		{`,"limit":0`, sequence64(151, 250), 1},
		{`,"limit":-1`, sequence64(151, 250), 1},
		{`,"limit":null,"pull_mode":null,"start_message_seq":null`, sequence64(151, 250), 1},
		{`,"limit":10`, sequence64(241, 250), 1},
		{`,"limit":250`, sequence64(1, 250), 0},
		{`,"limit":249`, sequence64(2, 250), 1},
		{`,"limit":1000000000000`, sequence64(1, 250), 0},
		// older: start inclusive, end exclusive
		{`,"start_message_seq":100,"limit":10`, sequence64(91, 100), 1},
		{`,"start_message_seq":5,"limit":10`, sequence64(1, 5), 0},
		{`,"start_message_seq":100,"end_message_seq":95,"limit":10`, sequence64(96, 100), 0},
		{`,"start_message_seq":100,"end_message_seq":50,"limit":10`, sequence64(91, 100), 1},
		{`,"start_message_seq":100,"end_message_seq":90,"limit":10`, sequence64(91, 100), 0},
		{`,"start_message_seq":1000,"limit":2`, sequence64(249, 250), 1},
		{`,"end_message_seq":248`, sequence64(249, 250), 0},
		{`,"end_message_seq":100,"limit":3`, sequence64(248, 250), 1},
		{`,"start_message_seq":100,"end_message_seq":100`, sequence64(1, 0), 0},
		{`,"start_message_seq":100,"end_message_seq":101`, sequence64(1, 0), 0},
		{`,"start_message_seq":1,"limit":1`, sequence64(1, 1), 0},
		{`,"end_message_seq":18446744073709551615`, sequence64(1, 0), 0},
		{`,"start_message_seq":18446744073709551615,"limit":1`, sequence64(250, 250), 1},
		// newer
		{`,"pull_mode":1,"start_message_seq":100,"limit":10`, sequence64(100, 109), 1},
		{`,"pull_mode":1,"start_message_seq":100,"end_message_seq":105,"limit":10`, sequence64(100, 104), 0},
		{`,"pull_mode":1,"start_message_seq":100,"end_message_seq":110,"limit":10`, sequence64(100, 109), 0},
		{`,"pull_mode":1,"start_message_seq":100,"end_message_seq":111,"limit":10`, sequence64(100, 109), 1},
		{`,"pull_mode":1,"start_message_seq":241,"limit":10`, sequence64(241, 250), 0},
		{`,"pull_mode":1,"start_message_seq":251`, sequence64(1, 0), 0},
		{`,"pull_mode":1,"end_message_seq":4`, sequence64(1, 3), 0},
		{`,"pull_mode":1,"start_message_seq":7,"end_message_seq":7`, sequence64(1, 0), 0},
		{`,"pull_mode":1,"start_message_seq":7,"end_message_seq":3`, sequence64(1, 0), 0},
		{`,"pull_mode":1,"end_message_seq":1`, sequence64(1, 0), 0},
		{`,"pull_mode":1,"start_message_seq":18446744073709551615`, sequence64(1, 0), 0},
	} {
		g := b.sync(`{"login_uid":"u","channel_id":"g","channel_type":2` + row.body + `}`)
		require.Equal(t, http.StatusOK, g.status, "%s: %s", row.body, g.raw)
		require.Equal(t, row.want, g.seqs(), row.body)
		require.Equal(t, row.more, g.More, row.body)
	}
	g := b.sync(`{"login_uid":"u","channel_id":"unknown","channel_type":2,"start_message_seq":3,"end_message_seq":2}`)
	require.JSONEq(t, `{"start_message_seq":3,"end_message_seq":2,"more":0,"messages":[]}`, g.raw)
}

// Every field, in the form of WuKongIM.
func TestSyncFields(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	m := sample("bob@alice", 1)
	m.ChannelId, m.ChannelType, m.FromUid, m.ClientMsgNo = message.PersonChannel("alice", "bob"), 1, "alice", `a"b\`
	m.Payload, m.Expire, m.RedDot = []byte("\x00\xff'\\\n"), 7200, true
	b.insert(m)
	id := message.ID(m.GetMessageId())
	want := func(channel string) string {
		return fmt.Sprintf(`{"start_message_seq":1,"end_message_seq":0,"more":0,"messages":[{"header":{"no_persist":0,"red_dot":1,"sync_once":0},"setting":0,
				"message_id":%d,"message_idstr":"%d","client_msg_no":"a\"b\\","message_seq":1,"from_uid":"alice","channel_id":%q,"channel_type":1,"expire":7200,
				"timestamp":%d,"payload":"AP8nXAo="}]}`, id, id, channel, id.UnixMilli()/1000)
	}
	// Each side calls the channel by the other.
	for _, row := range []struct{ login, channel, shown string }{
		{"alice", "bob", "bob"}, {"bob", "alice", "alice"}, {"bob", "alice@bob", "alice"}, {"alice", "bob@alice", "bob"},
	} {
		g := b.sync(fmt.Sprintf(`{"login_uid":%q,"channel_id":%q,"channel_type":1,"start_message_seq":1,"pull_mode":1,"event_summary_mode":"full","other":[{}]}`, row.login, row.channel))
		require.JSONEq(t, want(row.shown), g.raw)
		require.Equal(t, "application/json", g.header.Get("Content-Type"))
		require.NotContains(t, g.raw, "\n ")
	}
	require.Empty(t, b.sync(`{"login_uid":"carol","channel_id":"bob","channel_type":1}`).Messages)

	// A command is in a channel of its own, with a sequence of its own.
	command := sample(message.PersonChannel("alice", "bob")+message.CommandSuffix, 1)
	command.ChannelType, command.SyncOnce = 1, true
	b.insert(command)
	require.Len(t, b.sync(`{"login_uid":"alice","channel_id":"bob","channel_type":1}`).Messages, 1)
	g := b.sync(`{"login_uid":"alice","channel_id":"bob____cmd","channel_type":1}`)
	require.Len(t, g.Messages, 1)
	require.Contains(t, g.raw, `"sync_once":1`)
	require.Contains(t, g.raw, `"channel_id":"bob____cmd"`)
}

// Readers get each field that is described as one of theirs, and no other.
func TestSyncHasEveryField(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	m := testkit.FullMessage(1)
	m.ChannelId, m.ChannelType, m.MessageSeq, m.SyncOnce = "g"+message.CommandSuffix, 2, 1, true
	b.insert(m)
	var page struct {
		Messages []map[string]any `json:"messages"`
	}
	decoder := json.NewDecoder(strings.NewReader(b.sync(`{"login_uid":"u","channel_id":"g____cmd","channel_type":2}`).raw))
	decoder.UseNumber() // an ID passes what a float64 has exactly
	require.NoError(t, decoder.Decode(&page))
	require.Len(t, page.Messages, 1)
	have := page.Messages[0]
	maps.Copy(have, have["header"].(map[string]any))
	encoded, err := m.MarshalVT()
	require.NoError(t, err)
	var want message.Stored
	require.NoError(t, want.Decode(encoded))
	for _, f := range message.Fields() {
		value, there := have[f.Name]
		require.Equal(t, f.Synced, there, f.Name)
		switch {
		case !there:
		case f.Kind == message.Text:
			require.Equal(t, f.Text(&want), value, f.Name)
		case f.Kind == message.Bytes:
			require.Equal(t, base64.StdEncoding.EncodeToString([]byte(f.Text(&want))), value, f.Name)
		case f.Kind == message.Time:
			require.Equal(t, fmt.Sprint(f.Number(&want)/1000), fmt.Sprint(value), f.Name)
		case f.Kind == message.Texts:
			require.ElementsMatch(t, f.Texts(&want), value, f.Name)
		default:
			require.Equal(t, fmt.Sprint(f.Number(&want)), fmt.Sprint(value), f.Name)
		}
	}
}

func TestSyncRefuses(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	const good = `"login_uid":"u","channel_id":"g","channel_type":2`
	for _, row := range []struct{ body, code, field, msg string }{
		{``, "invalid_json", "", "empty"},
		{`[]`, "invalid_json", "", "object"},
		{`{` + good, "invalid_json", "", "object"},
		{`{` + good + `} x`, "invalid_json", "", "something follows"},
		{"{\"login_uid\":\"\xff\"}", "invalid_json", "", "UTF-8"},
		{`{}`, "invalid_request", "login_uid,channel_id,channel_type", "login_uid is required; channel_id is required; channel_type is required"},
		{`{"login_uid":1,"channel_id":[],"channel_type":"2"}`, "invalid_request", "login_uid,channel_id,channel_type", "login_uid must be a string; channel_id must be a string; channel_type must be an integer"},
		{`{"login_uid":"u","channel_id":"a@b","channel_type":2}`, "invalid_request", "channel_id", "must not hold '@'"},
		{`{"login_uid":"u","channel_id":"a@b","channel_type":1}`, "invalid_request", "channel_id", "names a person channel that login_uid is no side of"},
		{`{"login_uid":"u","channel_id":"____cmd","channel_type":2}`, "invalid_request", "channel_id", "is required"},
		{`{"login_uid":"u@v","channel_id":"b","channel_type":1}`, "invalid_request", "login_uid", "must not hold '@'"},
		{`{"login_uid":"u","channel_id":"g","channel_type":256}`, "invalid_request", "channel_type", "1 to 255"},
		{`{"login_uid":"u","channel_id":"g","channel_type":0}`, "invalid_request", "channel_type", "1 to 255"},
		{`{` + good + `,"pull_mode":2}`, "invalid_request", "pull_mode", "must be 0 (older) or 1 (newer)"},
		{`{` + good + `,"limit":1.5,"start_message_seq":-1,"end_message_seq":18446744073709551616}`, "invalid_request", "limit,start_message_seq,end_message_seq",
			"limit must be an integer; start_message_seq must be an integer, 0 or more; end_message_seq must be an integer, 0 or more"},
		{`{` + good + `,"other":"` + strings.Repeat("x", bodyBytesMax) + `"}`, "too_large", "", "65536"},
	} {
		g := b.sync(row.body)
		require.Equal(t, row.code, g.Code, row.body[:min(len(row.body), 99)])
		require.Equal(t, row.field, g.Field, row.body[:min(len(row.body), 99)])
		require.Contains(t, g.Msg, row.msg)
	}
	require.Equal(t, 16, b.sync(`{"login_uid":"u","channel_id":"a b","channel_type":2}`).Reason)

	req, err := http.NewRequestWithContext(b.ctx, http.MethodPost, b.url+pathSync, strings.NewReader("{"+good+"}"))
	require.NoError(t, err)
	g := b.do(req)
	require.Equal(t, http.StatusUnsupportedMediaType, g.status)
}

func TestSyncExpired(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	var all []*message.Message
	for seq := 1; seq <= 20; seq++ {
		m := sample("g", seq)
		if seq%2 == 0 {
			m.Expire = 3000 // of the hour since
		} else {
			m.Expire = 4000
		}
		all = append(all, m)
	}
	b.insert(all...)
	g := b.sync(`{"login_uid":"u","channel_id":"g","channel_type":2,"limit":10}`)
	require.Equal(t, []uint64{1, 3, 5, 7, 9, 11, 13, 15, 17, 19}, g.seqs())
	require.Zero(t, g.More)
	g = b.sync(`{"login_uid":"u","channel_id":"g","channel_type":2,"limit":3,"start_message_seq":2,"pull_mode":1}`)
	require.Equal(t, []uint64{3, 5, 7}, g.seqs())
	require.Equal(t, 1, g.More)
}

// Who follows the pages gets each message once, whichever way, whatever lies in the table twice, whatever is missing, and whatever the limit.
func TestSyncPages(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if text := os.Getenv("TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to choose the same again: TEST_SEED=%d go test -run '^TestSyncPages$' ./writer/history", seed)
		}
	})
	b := setup(t, options{})
	random := rand.New(rand.NewPCG(seed, 1))
	const last = 1000
	want := []uint64{}
	var part []*message.Message
	for seq := 1; seq <= last; seq++ {
		m := sample("g", seq)
		m.Payload = make([]byte, 1+random.IntN(3000))
		switch random.IntN(10) {
		case 0: // a dead letter, or gone
			continue
		case 1:
			m.Expire = 1
		default:
			want = append(want, uint64(seq))
		}
		part = append(part, m)
		if len(part) == 300 {
			b.insert(part...)
			for range random.IntN(3) { // an insert that was repeated without a token
				b.insert(part...)
			}
			part = part[100:] // and one that went in twice in parts
		}
	}
	b.insert(part...)
	for range 4 {
		limit := []int{1 + random.IntN(7), 1 + random.IntN(200), 300 + random.IntN(2000)}[random.IntN(3)]
		if limit < 8 {
			limit += 40 // many requests, but not one a message
		}
		require.Equal(t, want, b.walk(limit, pullNewer), "newer, limit %d", limit)
		require.Equal(t, want, b.walk(limit, pullOlder), "older, limit %d", limit)
	}
}

// walk follows the pages of group g from one end to the other.
func (b *bundle) walk(limit, mode int) (seqs []uint64) {
	b.t.Helper()
	start := uint64(1)
	if mode == pullOlder {
		start = math.MaxUint32
	}
	for {
		g := b.sync(fmt.Sprintf(`{"login_uid":"u","channel_id":"g","channel_type":2,"start_message_seq":%d,"limit":%d,"pull_mode":%d}`, start, limit, mode))
		require.Equal(b.t, http.StatusOK, g.status, g.raw)
		page := g.seqs()
		require.LessOrEqual(b.t, len(page), limit)
		if mode == pullNewer {
			seqs = append(seqs, page...)
		} else {
			seqs = append(page, seqs...)
		}
		if g.More == 0 {
			return seqs
		}
		require.NotEmpty(b.t, page)
		if start = page[len(page)-1] + 1; mode == pullOlder {
			start = page[0] - 1
		}
	}
}

// A page ends before it is too large, and says that there is more.
func TestSyncLargePages(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.service.cfg.HistoryTimeout = time.Minute // more than the setting allows: with the race detector 8 MiB take a while
	const last, size = 200, 64 << 10
	for first := 1; first <= last; first += 100 {
		var part []*message.Message
		for seq := first; seq < first+100; seq++ {
			m := sample("g", seq)
			m.Payload = make([]byte, size)
			m.Payload[0] = byte(seq)
			part = append(part, m)
		}
		b.insert(part...)
	}
	g := b.sync(`{"login_uid":"u","channel_id":"g","channel_type":2,"limit":10000,"pull_mode":1,"start_message_seq":1}`)
	require.Equal(t, http.StatusOK, g.status, g.Msg)
	require.Equal(t, 1, g.More)
	require.LessOrEqual(t, len(g.raw), 8<<20)
	require.Greater(t, len(g.raw), 7<<20, "as much as may be")
	for i, m := range g.Messages {
		require.EqualValues(t, i+1, m.MessageSeq)
		require.Len(t, m.Payload, size)
		require.Equal(t, byte(i+1), m.Payload[0])
	}
	require.Equal(t, sequence64(1, last), b.walk(10_000, pullNewer))
	require.Equal(t, sequence64(1, last), b.walk(10_000, pullOlder))
}

// asked remembers how many rows were asked for.
type asked struct {
	table
	rows []int
}

func (a *asked) Page(ctx context.Context, channel clickhouse.Channel, r clickhouse.Range, each func(*clickhouse.Row) error) error {
	a.rows = append(a.rows, r.LimitRows)
	return a.table.Page(ctx, channel, r, each)
}

// The size of small messages does not predict that of later ones: each query asks for few, and a page is full nevertheless.
func TestSyncLargeBehindSmall(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	const large, last = 100, 1000
	var all []*message.Message
	for seq := 1; seq <= last; seq++ {
		m := sample("g", seq)
		if seq <= large {
			m.Payload = make([]byte, 64<<10)
		}
		all = append(all, m)
	}
	b.insert(all...)
	a := &asked{table: b.service.table}
	b.service.table = a
	require.Equal(t, sequence64(1, last), b.walk(10_000, pullOlder))
	require.Equal(t, []int{firstRowsMax, nextRowsMax}, a.rows[:2])
	require.LessOrEqual(t, slices.Max(a.rows), nextRowsMax)
}

// deaf is a client that reads the head of a reply and nothing more, until the test lets it.
type deaf struct {
	*httptest.ResponseRecorder
	begun, listen chan struct{}
	until         time.Time // the deadline
}

func (d *deaf) SetWriteDeadline(deadline time.Time) error {
	d.until = deadline
	return nil
}

func (d *deaf) Write(p []byte) (int, error) {
	close(d.begun)
	<-d.listen
	return d.ResponseRecorder.Write(p)
}

// Unread replies have a common size limit and a time limit each, and occupy no slot.
func TestSyncUnread(t *testing.T) {
	t.Parallel()
	b := setup(t, options{config: func(c *Config) { c.HistoryRequestsMax = 1 }})
	var all []*message.Message
	for seq := 1; seq <= 50; seq++ {
		m := sample("g", seq)
		m.Payload = make([]byte, 64<<10)
		all = append(all, m)
	}
	b.insert(all...)
	b.insert(sample("h", 1))
	const full = `{"login_uid":"u","channel_id":"g","channel_type":2}`
	d := &deaf{ResponseRecorder: httptest.NewRecorder(), begun: make(chan struct{}), listen: make(chan struct{})}
	req := httptest.NewRequestWithContext(b.ctx, http.MethodPost, pathSync, strings.NewReader(full))
	req.Header.Set("Content-Type", "application/json")
	start := time.Now()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.service.Routes()[0].Serve(d, req)
	}()
	<-d.begun
	patience := answerTimeout + time.Duration(b.service.unread.Load()*int64(time.Second)/readBytesPerSecond)
	require.WithinRange(t, d.until, start.Add(patience), time.Now().Add(patience))

	g := b.sync(full)
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	require.Equal(t, "overloaded", g.Code)
	require.Equal(t, "1", g.header.Get("Retry-After"))
	require.Len(t, b.sync(`{"login_uid":"u","channel_id":"h","channel_type":2}`).Messages, 1)
	require.Equal(t, http.StatusOK, b.status("no").status)

	close(d.listen)
	<-ended
	require.Equal(t, http.StatusOK, d.Code)
	require.Equal(t, d.Body.String(), b.sync(full).raw)
	require.Zero(t, b.service.unread.Load())
}

func TestSyncOverload(t *testing.T) {
	t.Parallel()
	b := setup(t, options{config: func(c *Config) { c.HistoryRequestsMax = 1 }})
	patience := b.service.cfg.HistoryTimeout
	b.service.slots <- struct{}{} // somebody reads, and does not end
	b.service.cfg.HistoryTimeout = 50 * time.Millisecond
	g := b.sync(`{"login_uid":"u","channel_id":"g","channel_type":2}`)
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	require.Equal(t, "overloaded", g.Code)
	require.Equal(t, "1", g.header.Get("Retry-After"))
	b.service.waiting.Store(waitersPerSlot)
	require.Equal(t, "overloaded", b.status("no").Code)
	b.service.waiting.Store(0)
	b.service.cfg.HistoryTimeout = patience
	<-b.service.slots
	require.Equal(t, http.StatusOK, b.sync(`{"login_uid":"u","channel_id":"g","channel_type":2}`).status)
	require.Empty(t, b.service.slots)
	require.Zero(t, b.service.waiting.Load())
}
