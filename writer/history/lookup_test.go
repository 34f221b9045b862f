package history

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
)

// post sends a body to a route.
func (b *bundle) post(path, body string) got {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.ctx, http.MethodPost, b.url+path, strings.NewReader(body))
	require.NoError(b.t, err)
	req.Header.Set("Content-Type", "application/json")
	return b.do(req)
}

// get asks a route; the parameters are names and values in turn.
func (b *bundle) get(path string, parameters ...string) got {
	b.t.Helper()
	values := url.Values{}
	for i := 0; i < len(parameters); i += 2 {
		values.Add(parameters[i], parameters[i+1])
	}
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, b.url+path+"?"+values.Encode(), http.NoBody)
	require.NoError(b.t, err)
	return b.do(req)
}

// ask makes a plain request to each of the routes for channel g, apart from that of a status.
func (b *bundle) askAll() map[string]got {
	b.t.Helper()
	const channel = `{"login_uid":"u","channel_id":"g","channel_type":2`
	return map[string]got{
		pathSync:      b.post(pathSync, channel+`}`),
		pathSyncBatch: b.post(pathSyncBatch, `{"login_uid":"u","items":[`+channel+`},`+channel+`}]}`),
		pathMaxSeq:    b.get(pathMaxSeq, "channel_id", "g", "channel_type", "2"),
		pathLast:      b.get(pathLast, "channel_id", "g", "channel_type", "2"),
		pathMessages:  b.post(pathMessages, channel+`,"message_seqs":[1]}`),
		pathMessage:   b.post(pathMessage, channel+`,"client_msg_no":"no-1"}`),
		pathByKey:     b.get(pathByKey, "channel_id", "g", "channel_type", "2", "client_msg_no", "no-1"),
	}
}

// Messages by sequence number, ID and client_msg_no, in the order in which they are asked for.
func TestMessages(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	ids := make(map[int]int64)
	var all []*message.Message
	for seq := 1; seq <= 20; seq++ {
		m := sample("g", seq)
		switch seq {
		case 3, 17: // of two senders
			m.ClientMsgNo = "twice"
		case 5:
			m.Expire = 1
		}
		ids[seq] = int64(m.GetMessageId())
		all = append(all, m)
	}
	b.insert(all...)
	b.insert(all[7:9]...)
	other := sample("h", 1)
	other.MessageId += 3000
	b.insert(other)
	list := func(seqs ...int) string {
		var texts []string
		for _, seq := range seqs {
			texts = append(texts, fmt.Sprint(ids[seq]))
		}
		return strings.Join(texts, ",")
	}
	for _, row := range []struct {
		body string
		want []uint64
	}{
		{``, nil},
		{`,"message_seqs":null,"message_ids":[],"client_msg_nos":null`, nil},
		{`,"message_seqs":[7]`, []uint64{7}},
		{`,"message_seqs":[9,2,2,21,5,18446744073709551615,0, 8]`, []uint64{9, 2, 8}},
		{`,"message_ids":[` + list(9, 1, 5) + `]`, []uint64{9, 1}},
		{`,"message_ids":["` + list(4) + `", ` + list(2) + `,0,1,"9223372036854775807"]`, []uint64{4, 2}},
		{fmt.Sprintf(`,"message_ids":[%d]`, other.GetMessageId()), nil},
		{`,"client_msg_nos":["no-12","twice","","no-5","unknown","no-1"]`, []uint64{12, 17, 1}},
		{`,"client_msg_nos":["twice"],"message_ids":[` + list(17, 6) + `],"message_seqs":[6,3]`, []uint64{6, 3, 17}},
		{`,"message_seqs":[20],"message_seqs":[19]`, []uint64{20, 19}}, // a repeated key
	} {
		g := b.post(pathMessages, `{"login_uid":"u","channel_id":"g","channel_type":2`+row.body+`}`)
		require.Equal(t, http.StatusOK, g.status, "%s: %s", row.body, g.raw)
		require.Equal(t, append([]uint64{}, row.want...), g.seqs(), row.body)
		require.Zero(t, g.More)
	}
	require.JSONEq(t, `{"start_message_seq":0,"end_message_seq":0,"more":0,"messages":[]}`, b.post(pathMessages, `{"channel_id":"g","channel_type":2}`).raw)

	// Each message is the one that a page of its channel has.
	page := b.sync(`{"login_uid":"u","channel_id":"g","channel_type":2,"start_message_seq":7,"limit":1}`)
	found := b.post(pathMessages, `{"login_uid":"u","channel_id":"g","channel_type":2,"message_seqs":[7]}`)
	require.JSONEq(t, strings.Replace(page.raw, `"start_message_seq":7,"end_message_seq":0,"more":1`, `"start_message_seq":0,"end_message_seq":0,"more":0`, 1), found.raw)
	require.Contains(t, found.raw, fmt.Sprintf(`"message_idstr":"%d"`, ids[7]))
}

// One message, and what there is not.
func TestMessage(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	var all []*message.Message
	for seq := 1; seq <= 9; seq++ {
		m := sample("g", seq)
		if seq >= 8 {
			m.Expire = 1
		}
		if seq == 4 || seq == 6 {
			m.ClientMsgNo = "twice"
		}
		all = append(all, m)
	}
	b.insert(all...)
	whole := func(seq int) string {
		page := b.sync(fmt.Sprintf(`{"login_uid":"u","channel_id":"g","channel_type":2,"start_message_seq":%d,"limit":1}`, seq))
		var parts struct {
			Messages []json.RawMessage `json:"messages"`
		}
		require.NoError(t, json.Unmarshal([]byte(page.raw), &parts))
		require.Len(t, parts.Messages, 1)
		return string(parts.Messages[0])
	}
	const channel = `{"channel_id":"g","channel_type":2`
	id := func(seq int) uint64 { return all[seq-1].GetMessageId() }
	for _, row := range []struct {
		name string
		g    got
		seq  int
	}{
		{"by ID", b.post(pathMessage, fmt.Sprintf(`%s,"message_id":%d}`, channel, id(3))), 3},
		{"by ID in a string", b.post(pathMessage, fmt.Sprintf(`%s,"message_id":"%d"}`, channel, id(3))), 3},
		{"the ID counts", b.post(pathMessage, fmt.Sprintf(`%s,"message_id":%d,"client_msg_no":"no-1"}`, channel, id(3))), 3},
		{"by key, with the zero value of an ID", b.post(pathMessage, channel+`,"message_id":0,"client_msg_no":"no-1"}`), 1},
		{"the latest by key", b.post(pathMessage, channel+`,"message_id":null,"client_msg_no":"twice"}`), 6},
		{"by key, GET", b.get(pathByKey, "channel_id", "g", "channel_type", "2", "client_msg_no", "twice"), 6},
		{"the last that has not expired", b.get(pathLast, "channel_id", "g", "channel_type", "2", "login_uid", "u"), 7},
		{"an expired ID", b.post(pathMessage, fmt.Sprintf(`%s,"message_id":%d}`, channel, id(9))), 0},
		{"an ID of another channel", b.post(pathMessage, fmt.Sprintf(`{"channel_id":"h","channel_type":2,"message_id":%d}`, id(3))), 0},
		{"an unknown ID", b.post(pathMessage, channel+`,"message_id":9223372036854775807}`), 0},
		{"an unknown key", b.post(pathMessage, channel+`,"client_msg_no":"NO-1"}`), 0},
		{"an expired key", b.get(pathByKey, "channel_id", "g", "channel_type", "2", "client_msg_no", "no-8"), 0},
		{"an unknown channel", b.get(pathLast, "channel_id", "g", "channel_type", "3"), 0},
	} {
		if row.seq > 0 {
			require.Equal(t, http.StatusOK, row.g.status, "%s: %s", row.name, row.g.raw)
			require.JSONEq(t, whole(row.seq), row.g.raw, row.name)
			require.Equal(t, "no-store", row.g.header.Get("Cache-Control"))
			continue
		}
		require.Equal(t, http.StatusNotFound, row.g.status, "%s: %s", row.name, row.g.raw)
		require.Equal(t, "message_not_found", row.g.Code, row.name)
	}
}

func TestMaxSeq(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	require.Equal(t, "{\"message_seq\":0}\n", b.get(pathMaxSeq, "channel_id", "g", "channel_type", "2").raw)
	b.insert(sample("g", 1), sample("g", 7), sample("h", 9))
	b.insert(sample("g", 3))
	require.Equal(t, "{\"message_seq\":7}\n", b.get(pathMaxSeq, "channel_id", "g", "channel_type", "2").raw)
	require.EqualValues(t, 7, b.get(pathMaxSeq, "channel_id", "g", "channel_type", "2", "login_uid", "u").MessageSeq)
}

// A person's channel is named by the other side or whole, and its commands with the suffix.
func TestLookupNamesOfChannels(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	m, command := sample(message.PersonChannel("alice", "bob"), 4), sample(message.PersonChannel("alice", "bob")+message.CommandSuffix, 6)
	m.ChannelType, command.ChannelType, command.SyncOnce = 1, 1, true
	b.insert(m)
	b.insert(command)
	for _, row := range []struct {
		login, channel, shown string
		seq                   int
	}{
		{"alice", "bob", "bob", 4},
		{"bob", "alice", "alice", 4},
		{"bob", "alice@bob", "alice", 4},
		{"", "alice@bob", "alice@bob", 4},
		{"", "bob@alice", "bob@alice", 4},
		{"alice", "bob____cmd", "bob____cmd", 6},
		{"", "alice@bob____cmd", "alice@bob____cmd", 6},
	} {
		parameters := []string{"login_uid", row.login, "channel_id", row.channel, "channel_type", "1"}
		require.EqualValues(t, row.seq, b.get(pathMaxSeq, parameters...).MessageSeq, row)
		shown := fmt.Sprintf(`"channel_id":%q,"channel_type":1,`, row.shown)
		last := b.get(pathLast, parameters...)
		require.EqualValues(t, row.seq, last.MessageSeq, "%v: %s", row, last.raw)
		require.Contains(t, last.raw, shown)
		require.Equal(t, last.raw, b.get(pathByKey, append(parameters, "client_msg_no", fmt.Sprintf("no-%d", row.seq))...).raw)
		body := fmt.Sprintf(`{"login_uid":%q,"channel_id":%q,"channel_type":1,"message_seqs":[%d]}`, row.login, row.channel, row.seq)
		require.Contains(t, b.post(pathMessages, body).raw, shown)
	}
}

// Readers tell a command to named receivers by its fields, and a plain message has none of them.
func TestReadersSeeReceivers(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	command := sample("g"+message.CommandSuffix, 1)
	command.SyncOnce, command.StreamNo, command.TagKey, command.Subscribers = true, `s"`, "t", []string{`a"b`, "c"}
	b.insert(command)
	b.insert(sample("g", 1))
	const added = `"stream_no":"s\"","tag_key":"t","from_uid":"u1","channel_id":"g____cmd","channel_type":2,"subscribers":["a\"b","c"],`
	require.Contains(t, b.sync(`{"login_uid":"u","channel_id":"g____cmd","channel_type":2}`).raw, added)
	require.Contains(t, b.get(pathLast, "channel_id", "g____cmd", "channel_type", "2").raw, added)
	plain := b.get(pathLast, "channel_id", "g", "channel_type", "2")
	require.Equal(t, http.StatusOK, plain.status)
	for _, name := range []string{"stream_no", "tag_key", "subscribers"} {
		require.NotContains(t, plain.raw, name)
	}
}

// The size of a page bounds a lookup too, receivers included, and the rest can be asked for.
func TestMessagesLarge(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.service.cfg.HistoryTimeout = time.Minute // more than the setting allows: with the race detector 8 MiB take a while
	const last = 200
	var seqs []string
	for first := 1; first <= last; first += 50 {
		var part []*message.Message
		for seq := first; seq < first+50; seq++ {
			m := sample("g"+message.CommandSuffix, seq)
			m.SyncOnce = true
			for n := range 100 {
				m.Subscribers = append(m.Subscribers, strings.Repeat("s", 250)+fmt.Sprint(n))
			}
			m.Payload = make([]byte, 32<<10)
			part = append(part, m)
			seqs = append(seqs, fmt.Sprint(seq))
		}
		b.insert(part...)
	}
	have := make(map[uint64]bool)
	for requests := 0; len(have) < last; requests++ {
		require.Less(t, requests, 3, "a page is as full as may be")
		var rest []string
		for _, seq := range seqs {
			var n uint64
			_, err := fmt.Sscan(seq, &n)
			require.NoError(t, err)
			if !have[n] {
				rest = append(rest, seq)
			}
		}
		g := b.post(pathMessages, `{"channel_id":"g____cmd","channel_type":2,"message_seqs":[`+strings.Join(rest, ",")+`]}`)
		require.Equal(t, http.StatusOK, g.status, g.Msg)
		require.LessOrEqual(t, len(g.raw), 8<<20)
		for _, seq := range g.seqs() {
			require.False(t, have[seq])
			have[seq] = true
		}
		require.Equal(t, len(have) < last, g.More == 1)
	}
}

func TestLookupRefuses(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	const good = `"channel_id":"g","channel_type":2`
	long := strings.Repeat("n", message.ClientMsgNoBytesMax+1)
	for _, row := range []struct{ path, body, code, field, msg string }{
		{pathMessages, `{}`, "invalid_request", "channel_id,channel_type", "channel_id is required; channel_type is required"},
		{pathMessages, `[]`, "invalid_json", "", "object"},
		{pathMessages, `{` + good + `,"message_seqs":[1,}`, "invalid_json", "", "object"},
		{pathMessages, `{` + good + `} x`, "invalid_json", "", "something follows"},
		{pathMessages, `{"channel_id":"bob","channel_type":1}`, "invalid_request", "login_uid", "is required"},
		{pathMessages, `{"login_uid":"carol","channel_id":"alice@bob","channel_type":1}`, "invalid_request", "channel_id", "login_uid is no side of"},
		{pathMessages, `{"login_uid":"a@b","channel_id":"alice@bob","channel_type":1}`, "invalid_request", "login_uid", "must not hold '@'"},
		{pathMessages, `{"login_uid":" u","channel_id":"g","channel_type":2}`, "invalid_request", "login_uid", "white space"},
		{pathMessages, `{` + good + `,"message_seqs":7,"message_ids":{},"client_msg_nos":"x"}`, "invalid_request", "message_seqs,message_ids,client_msg_nos", "must be a list"},
		{pathMessages, `{` + good + `,"message_seqs":[-1],"message_ids":[1.5],"client_msg_nos":[1]}`, "invalid_request", "message_seqs,message_ids,client_msg_nos",
			"message_seqs must hold integers, 0 or more; message_ids must be an integer, 0 or more, or its digits as a string; client_msg_nos must hold strings"},
		{pathMessages, `{` + good + `,"message_ids":["x"],"message_seqs":["1"]}`, "invalid_request", "message_ids,message_seqs", ""},
		{pathMessages, `{` + good + `,"message_ids":[9223372036854775808]}`, "invalid_request", "message_ids", ""},
		{pathMessages, `{` + good + `,"client_msg_nos":["` + long + `"]}`, "invalid_request", "client_msg_nos", "bytes; at most"},
		{pathMessages, `{` + good + `,"message_seqs":[1` + strings.Repeat(",1", 499) + `],"message_ids":[1` + strings.Repeat(",1", 500) + `]}`, "invalid_request", "message_ids", "1,000"},
		{pathMessages, `{"x":"` + strings.Repeat("x", bodyBytesMax) + `"}`, "too_large", "", "65536"},
		{pathMessage, `{` + good + `}`, "invalid_request", "message_id", "is required, or client_msg_no"},
		{pathMessage, `{` + good + `,"message_id":0,"client_msg_no":""}`, "invalid_request", "message_id", "is required, or client_msg_no"},
		{pathMessage, `{` + good + `,"message_id":-1}`, "invalid_request", "message_id", "must be an integer"},
		{pathMessage, `{` + good + `,"message_id":[1],"client_msg_no":1}`, "invalid_request", "message_id,client_msg_no", "must be a string"},
		{pathMessage, `{` + good + `,"client_msg_no":"` + long + `"}`, "invalid_request", "client_msg_no", "bytes; at most"},
		{pathMessage, ``, "invalid_json", "", "empty"},
	} {
		g := b.post(row.path, row.body)
		require.Equal(t, row.code, g.Code, row.body[:min(len(row.body), 99)])
		require.Equal(t, row.field, g.Field, "%s: %s", row.body[:min(len(row.body), 99)], g.raw)
		require.Contains(t, g.Msg, row.msg)
	}
	for _, row := range []struct {
		path       string
		parameters []string
		field, msg string
	}{
		{pathMaxSeq, nil, "channel_id,channel_type", "channel_id is required; channel_type is required"},
		{pathMaxSeq, []string{"channel_id", "g", "channel_type", "two"}, "channel_type", "must be an integer"},
		{pathMaxSeq, []string{"channel_id", "bob", "channel_type", "1"}, "login_uid", "is required"},
		{pathMaxSeq, []string{"channel_id", "g\xff", "channel_type", "2"}, "channel_id", "is not valid UTF-8"},
		{pathLast, []string{"channel_id", "a b", "channel_type", "2", "login_uid", "\xff"}, "login_uid,channel_id", "is not valid UTF-8"},
		{pathByKey, []string{"channel_id", "g", "channel_type", "2"}, "client_msg_no", "is required"},
		{pathByKey, []string{"channel_id", "g", "channel_type", "2", "client_msg_no", long}, "client_msg_no", "bytes; at most"},
		{pathByKey, []string{"channel_id", "g", "channel_type", "2", "client_msg_no", "n\xff"}, "client_msg_no", "is not valid UTF-8"},
	} {
		g := b.get(row.path, row.parameters...)
		require.Equal(t, http.StatusBadRequest, g.status, g.raw)
		require.Equal(t, "invalid_request", g.Code, row)
		require.Equal(t, row.field, g.Field, "%v: %s", row, g.raw)
		require.Contains(t, g.Msg, row.msg)
	}
	require.Equal(t, reasonChannelID, b.get(pathMaxSeq, "channel_id", "a b", "channel_type", "2").Reason)
}

// Every route says that ClickHouse is away, and that there are too many requests.
func TestEveryRouteWithoutClickHouse(t *testing.T) {
	t.Parallel()
	server := enginetest.StartServer(t)
	b := setup(t, options{dsn: server.DSN("away"), config: func(c *Config) { c.HistoryRequestsMax, c.HistoryTimeout = 1, time.Second }})
	b.insert(sample("g", 1))
	testkit.WaitFor(t, testTimeout, "an answer", b.answers(`{"login_uid":"u","channel_id":"g","channel_type":2}`))
	for path, g := range b.askAll() {
		require.Equal(t, http.StatusOK, g.status, "%s: %s", path, g.raw)
	}
	b.service.slots <- struct{}{}
	for path, g := range b.askAll() {
		require.Equal(t, "overloaded", g.Code, path)
		require.Equal(t, "1", g.header.Get("Retry-After"), path)
	}
	<-b.service.slots
	server.Kill9()
	for path, g := range b.askAll() {
		require.Equal(t, http.StatusServiceUnavailable, g.status, "%s: %s", path, g.raw)
		require.Contains(t, []string{"history_unavailable", "history_timeout"}, g.Code, path)
		require.NotEmpty(t, g.header.Get("Retry-After"), path)
		require.NotContains(t, g.raw, server.Addr, path)
	}
}

// Each route has what is in the message log and not in ClickHouse, as soon as it is there, and each message once.
func TestEveryRouteReadsTheTail(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	var all []*message.Message
	for seq := 1; seq <= 9; seq++ {
		m := sample("g", seq)
		if seq == 2 || seq == 6 || seq == 8 {
			m.ClientMsgNo = "again"
		}
		all = append(all, m)
	}
	id := func(seq int) uint64 { return all[seq-1].GetMessageId() }
	other := sample("h", 6)
	other.MessageId = uint64(message.MakeID(at().Sub(message.Epoch()).Milliseconds()+1, 0, 0))
	b.publish(all[:3]...)
	b.insert(all[:3]...)
	b.publish(append([]*message.Message{other}, all[3:7]...)...)
	b.insert(all[3]) // the writer is in the middle of a record
	expect := func(last int) {
		const channel = `"channel_id":"g","channel_type":2`
		require.EqualValues(t, last, b.get(pathMaxSeq, "channel_id", "g", "channel_type", "2").MessageSeq)
		require.EqualValues(t, last, b.get(pathLast, "channel_id", "g", "channel_type", "2").MessageSeq)
		require.EqualValues(t, 6, b.get(pathByKey, "channel_id", "g", "channel_type", "2", "client_msg_no", "again").MessageSeq)
		for seq := 1; seq <= last; seq++ {
			g := b.post(pathMessage, fmt.Sprintf(`{%s,"message_id":%d}`, channel, id(seq)))
			require.EqualValues(t, seq, g.MessageSeq, g.raw)
		}
		g := b.post(pathMessages, fmt.Sprintf(`{%s,"message_seqs":[5,1,8,%d],"message_ids":[%d,%d,%d,%d],"client_msg_nos":["again","no-3"]}`,
			channel, last, id(4), id(5), other.GetMessageId(), id(9)))
		require.Equal(t, slices.Compact([]uint64{5, 1, uint64(last), 4, 6, 3}), g.seqs(), g.raw)
		items := b.batch(`{`+channel+`}`, `{"channel_id":"h","channel_type":2}`, `{`+channel+`,"start_message_seq":3,"end_message_seq":6,"pull_mode":1}`)
		require.Equal(t, sequence64(1, last), items[0].seqs())
		require.Equal(t, []uint64{6}, items[1].seqs())
		require.Equal(t, sequence64(3, 5), items[2].seqs())
	}
	expect(7)
	b.insert(other)
	b.recordIn(4, 2, b.streamCreated())
	expect(7)
	b.insert(all[4:7]...)
	expect(7)
	b.recordIn(8, 2, b.streamCreated())
	expect(7)
	b.publish(all[7]) // the same key again
	require.EqualValues(t, 8, b.get(pathByKey, "channel_id", "g", "channel_type", "2", "client_msg_no", "again").MessageSeq)
	require.EqualValues(t, 8, b.get(pathMaxSeq, "channel_id", "g", "channel_type", "2").MessageSeq)

	// What the tail has needs no ClickHouse, and what ClickHouse has no NATS.
	b.publish(all[8])
	b.service.table = nil
	require.EqualValues(t, 9, b.get(pathMaxSeq, "channel_id", "g", "channel_type", "2").MessageSeq)
	require.EqualValues(t, 9, b.post(pathMessage, fmt.Sprintf(`{"channel_id":"g","channel_type":2,"message_id":%d}`, id(9))).MessageSeq)
	require.Equal(t, []uint64{9, 8}, b.post(pathMessages, `{"channel_id":"g","channel_type":2,"message_seqs":[9],"client_msg_nos":["again"]}`).seqs())
}

// With NATS away, what ClickHouse has is found, and what it lacks is not called absent.
func TestLookupWithoutNATS(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.insert(sample("g", 1), sample("g", 2))
	const channel = `{"channel_id":"g","channel_type":2`
	require.Equal(t, "message_not_found", b.post(pathMessage, channel+`,"client_msg_no":"no-3"}`).Code)
	require.Equal(t, []uint64{1}, b.post(pathMessages, channel+`,"message_seqs":[1,3]}`).seqs())
	b.nats.Shutdown()
	require.EqualValues(t, 2, b.post(pathMessage, channel+`,"client_msg_no":"no-2"}`).MessageSeq)
	require.Equal(t, []uint64{2, 1}, b.post(pathMessages, channel+`,"message_seqs":[2,1]}`).seqs())
	for _, g := range []got{
		b.post(pathMessage, channel+`,"client_msg_no":"no-3"}`),
		b.post(pathMessages, channel+`,"message_seqs":[1,3]}`),
		b.get(pathMaxSeq, "channel_id", "g", "channel_type", "2"),
		b.get(pathLast, "channel_id", "g", "channel_type", "2"),
	} {
		require.Equal(t, http.StatusServiceUnavailable, g.status, g.raw)
		require.Equal(t, "log_unavailable", g.Code)
		require.Equal(t, "1", g.header.Get("Retry-After"))
	}
	// Of a batch, what is certain is answered, and the rest says why not.
	items := b.batch(channel+`,"start_message_seq":1,"end_message_seq":3,"pull_mode":1}`, channel+`}`)
	require.Equal(t, []uint64{1, 2}, items[0].seqs())
	require.Empty(t, items[1].seqs())
	require.Equal(t, "log_unavailable", items[1].Code)
	require.Contains(t, items[1].raw, `"error":"`)
	require.Equal(t, "log_unavailable", b.post(pathSyncBatch, `{"login_uid":"u","items":[`+channel+`}]}`).Code)
}

// The state of a command that names its receivers and no channel.
func TestStatusOfATemporaryChannel(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	m := from(1, "n")
	name := message.TemporaryChannel([]string{"a", "b b", "c"})
	m.ChannelId, m.ChannelType, m.SyncOnce, m.Subscribers = name+message.CommandSuffix, uint32(message.ChannelTemporary), true, []string{"a", "b b", "c"}
	b.publish(m)
	shown := fmt.Sprintf(`"channel_id":%q,"channel_type":8,`, name)
	send := []string{"client_msg_no", "n", "from_uid", "u1"}
	for _, more := range [][]string{
		{"subscribers", "a", "subscribers", "b b", "subscribers", "c", "sync_once", "1"},
		{"subscribers", "c", "subscribers", "a", "subscribers", "", "subscribers", "b b", "subscribers", "a"},
		{"channel_id", name, "channel_type", "8", "sync_once", "1"},
	} {
		g := b.get(pathStatus, append(send, more...)...)
		require.Equal(t, stateAccepted, g.State, g.raw)
		require.EqualValues(t, 1, g.MessageSeq)
		require.Contains(t, g.raw, shown)
	}
	require.Equal(t, stateUnknown, b.get(pathStatus, append(send, "subscribers", "a")...).State)
	// A channel that is named counts, as in a send.
	g := b.get(pathStatus, append(send, "subscribers", "a", "subscribers", "b b", "subscribers", "c", "channel_id", "g", "channel_type", "2")...)
	require.Equal(t, stateUnknown, g.State)
	require.Contains(t, g.raw, `"channel_id":"g","channel_type":2,`)
	for _, row := range []struct {
		more       []string
		field, msg string
	}{
		{[]string{"subscribers", "a", "sync_once", "0"}, "sync_once", "must be 1 if subscribers name the channel"},
		{[]string{"subscribers", " a"}, "subscribers", "white space"},
		{[]string{"subscribers", "a\xff"}, "subscribers", "is not valid UTF-8"},
		{[]string{"subscribers", ""}, "channel_id,channel_type", "is required"},
	} {
		g := b.get(pathStatus, append(send, row.more...)...)
		require.Equal(t, "invalid_request", g.Code, g.raw)
		require.Equal(t, row.field, g.Field, g.raw)
		require.Contains(t, g.Msg, row.msg)
	}
}
