package ingest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/api"
)

// zeroed is a command to named receivers as clients in typed languages send it: with a value for every field.
const zeroed = `{"header":{"no_persist":0,"red_dot":0,"sync_once":1},"client_msg_no":"n","from_uid":"a","sender_uid":"","channel_id":"","channel_type":0,` +
	`"stream_no":"","tag_key":"","expire":0,"subscribers":["c","b"],"payload":"aGk="}`

// TestTemporaryChannel: the answer to a command that names receivers and no channel names the channel that it went to, on every route and path, also
// the answer to a repetition. Other answers have no channel.
func TestTemporaryChannel(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	sequencers := b.sequence()
	first := b.post(zeroed)
	require.Equal(t, http.StatusOK, first.status, first.raw)
	name, _ := first.body["channel_id"].(string)
	require.Equal(t, json.Number("8"), first.body["channel_type"])
	sequencers[0].mu.Lock()
	stored := sequencers[0].batches[0].sends[0]
	require.Equal(t, name+"____cmd", stored.GetChannelId())
	require.Equal(t, uint32(8), stored.GetChannelType())
	sequencers[0].mu.Unlock()

	again := b.post(zeroed) // on the same connection: the fast path
	require.Equal(t, first.raw, again.raw)
	require.Equal(t, "true", again.header.Get("Idempotent-Replayed"))
	reordered := strings.Replace(zeroed, `["c","b"]`, `["b","","c","b"]`, 1)
	chunked := b.exchange(t, http.MethodPost, "/message/send?by=net/http", "application/json", reordered)
	require.Equal(t, first.raw, string(chunked.raw))

	page, err := os.ReadFile("../docs/reference/api.md")
	require.NoError(t, err)
	example := b.post(`{"header":{"sync_once":1},"from_uid":"alice","subscribers":["bob","carol"],"payload":"aGk="}`)
	require.Contains(t, string(page), fmt.Sprintf(`"channel_id":%q,"channel_type":8}`, example.body["channel_id"]))

	// The channel can be named, and is then the same.
	named := b.post(fmt.Sprintf(`{"from_uid":"a","channel_id":%q,"channel_type":8,"sync_once":1,"payload":"aGk="}`, name))
	require.Equal(t, http.StatusOK, named.status, named.raw)
	require.Equal(t, json.Number("2"), named.body["message_seq"])
	require.NotContains(t, named.body, "channel_id")
	require.NotContains(t, b.post(with(`"sync_once":1,"subscribers":["b"]`)).body, "channel_id", "the request has one")

	for _, form := range []string{ndjson, "application/json"} {
		body := strings.Join([]string{zeroed, send("g", "1"), strings.Replace(zeroed, `"n"`, `"`+form+`"`, 1)}, "\n")
		if form != ndjson {
			body = "[" + strings.ReplaceAll(body, "\n", ",") + "]"
		}
		m := b.bulk(t, form, strings.NewReader(body))
		require.Equal(t, []string{"", "", ""}, m.codes())
		require.Equal(t, name, m.items[0].body["channel_id"])
		require.Equal(t, true, m.items[0].body["idempotent_replayed"])
		require.NotContains(t, m.items[1].body, "channel_id")
		require.Equal(t, name, m.items[2].body["channel_id"])
		require.Equal(t, json.Number("8"), m.items[2].body["channel_type"])
		require.NotContains(t, m.items[2].body, "idempotent_replayed")
	}
}

// TestZeroValuesAndBlanks: what counts as absent, and what is refused, does so in a bulk and in a batch too.
func TestZeroValuesAndBlanks(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	m := b.bulk(t, ndjson, strings.NewReader(strings.Join([]string{
		zeroed, with(`"client_msg_no":" "`), with(`"stream_no":"\u3000"`), with(`"tag_key":"\t"`), with(`"from_uid":" "`), with(`"channel_id":" "`), with(`"channel_type":0`),
	}, "\n")))
	var fields []any
	for _, item := range m.items {
		fields = append(fields, item.body["field"])
	}
	require.Equal(t, []any{nil, "client_msg_no", "stream_no", "tag_key", "from_uid", "channel_id", "channel_type"}, fields)
	require.Equal(t, "client_msg_no must not be white space alone; leave it out for none", m.items[1].body["msg"])

	g := b.postBatch(t, `{"header":{"sync_once":0},"from_uid":"a","sender_uid":"","channel_id":"","channel_type":0,"client_msg_no":"","stream_no":"","tag_key":"","expire":0,"subscribers":["b",""],"payload":"aGk="}`)
	require.JSONEq(t, `{"fail_uids":[],"reason":[]}`, g.raw)
	for field, value := range map[string]string{"from_uid": " ", "client_msg_no": "  ", "stream_no": `\u00a0`, "tag_key": `\r\n`} {
		g := b.postBatch(t, `{"from_uid":"a","subscribers":["b"],"payload":"aGk=","`+field+`":"`+value+`"}`)
		require.Equal(t, http.StatusBadRequest, g.status, g.raw)
		require.Equal(t, field, g.body["field"])
	}
	g = b.postBatch(t, `{"from_uid":"a","subscribers":["b"," "],"payload":"aGk="}`)
	require.Equal(t, []any{" "}, g.body["fail_uids"], g.raw)
}

// TestByteOrderMark: a body may begin with one, and the rest of it counts as it would alone.
func TestByteOrderMark(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	const mark = "\ufeff"
	for _, row := range []struct{ contentType, body, answers string }{
		{"application/json", "[" + send("g", "1") + "," + send("g", "2") + "]", "application/json"},
		{"application/json", "\r\n [" + send("g", "1") + "]", "application/json"},
		{"application/json", send("g", "1") + "\n" + send("g", "2"), ndjson},
		{ndjson, send("g", "1") + "\n" + send("g", "2"), ndjson},
	} {
		want := b.bulk(t, row.contentType, strings.NewReader(row.body))
		have := b.bulk(t, row.contentType, strings.NewReader(mark+row.body))
		require.Equal(t, row.answers, have.header.Get("Content-Type"))
		require.Equal(t, want.codes(), have.codes())
		require.Empty(t, have.items[0].code())
	}
	for _, body := range []string{mark, mark + "\n \n", "\xef\xbb"} {
		require.Equal(t, "invalid_json", b.bulk(t, "application/json", strings.NewReader(body)).codesOrCode(), "%q", body)
	}
	require.Equal(t, http.StatusOK, b.postBatch(t, mark+`{"from_uid":"a","subscribers":["b"],"payload":"aGk="}`).status)
	b.manage("/channel", mark+`{"channel_id":"g","channel_type":2}`)
}

// codesOrCode is the code of the whole answer, or that of its only item.
func (m many) codesOrCode() string {
	if len(m.items) == 1 {
		return m.items[0].code()
	}
	return m.code()
}

// TestCharsetOfLines: NDJSON has the rule of JSON.
func TestCharsetOfLines(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	for contentType, taken := range map[string]bool{
		ndjson: true, ndjson + "; charset=utf-8": true, `Application/JSONL; charset="UTF8"`: true, ndjson + "; x=y": true, "application/json; charset=utf-8": true,
		ndjson + "; charset=iso-8859-1": false, "application/jsonl; charset=gbk": false, "application/ndjson;charset=": false, ndjson + "; charset": false,
		"application/json; charset=iso-8859-1": false, "text/plain": false,
	} {
		m := b.bulk(t, contentType, strings.NewReader(send("g", contentType)))
		if taken {
			require.Equal(t, []string{""}, m.codes(), contentType)
		} else {
			require.Equal(t, "unsupported_media_type", m.code(), contentType)
		}
	}
}

// TestSlashAtTheEnd: every route, those of other packages included, answers with a slash at its end as without.
func TestSlashAtTheEnd(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, routes: []api.Route{{Method: http.MethodGet, Path: "/look", Needs: api.ScopeRead, Serve: func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.URL.Path))
	}}}, config: func(c *Config) { c.Access.CORSOrigins = []string{"https://page.example"} }})
	b.sequence()
	ask := func(method, path string) string {
		r := httptest.NewRequestWithContext(t.Context(), method, "http://localhost:5001"+path, strings.NewReader(`{"channel_id":7}`))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		b.service.handler.ServeHTTP(w, r)
		w.Header().Del("X-Request-Id")
		return fmt.Sprint(w.Code, " ", w.Header(), " ", w.Body)
	}
	eachRoute(t, b.service, func(method, path string) {
		for _, m := range []string{method, http.MethodDelete} {
			without := ask(m, path)
			require.False(t, strings.HasPrefix(without, "404"), "%s %s", m, path)
			require.Equal(t, without, ask(m, path+"/"), "%s %s", m, path)
		}
		require.Equal(t, ask(method, path+"?a=b"), ask(method, path+"/?a=b"), "%s %s", method, path)
		require.Contains(t, ask(method, path+"//"), "not_found")
	})
	require.Contains(t, ask(http.MethodGet, "/look/"), "/look")
	require.NotContains(t, ask(http.MethodGet, "/look/"), "/look/")

	req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, b.url+"/message/send/", http.NoBody)
	require.NoError(t, err)
	req.Header.Set("Origin", "https://page.example")
	req.Header.Set("Access-Control-Request-Method", "POST")
	res, err := b.client.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, "POST", res.Header.Get("Access-Control-Allow-Methods"))
}

// TestHealth: WuKongIM's probe needs no token.
func TestHealth(t *testing.T) {
	t.Parallel()
	path := tokenFile(t, tokenLine("send", "sender"))
	b := setup(t, options{partitions: 1, config: func(c *Config) { c.Access.APITokensFile = path }})
	for _, path := range []string{"/health", "/health/"} {
		res := b.exchange(t, http.MethodGet, path, "", "")
		require.Equal(t, http.StatusOK, res.status)
		require.JSONEq(t, `{"status":"ok"}`, string(res.raw))
		require.Equal(t, http.StatusOK, b.exchange(t, http.MethodHead, path, "", "").status)
	}
}

// TestSystemAccountsOfACache: the routes with _cache do what those without do.
func TestSystemAccountsOfACache(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	b.manage("/channel", `{"channel_id":"g","channel_type":2,"subscribers":["member"]}`)
	require.Equal(t, "not_subscribed 3", b.sends("s", "g", 2, ""))
	b.manage("/user/systemuids_add_to_cache", `{"uids":["s","t"]}`)
	require.Equal(t, "accepted", b.sends("s", "g", 2, ""))
	require.JSONEq(t, `["s","t"]`, string(b.exchange(t, http.MethodGet, "/user/systemuids", "", "").raw))
	b.manage("/user/systemuids_remove_from_cache", `{"uids":["s"]}`)
	require.Equal(t, "not_subscribed 3", b.sends("s", "g", 2, ""))
	b.manage("/user/systemuids_remove", `{"uids":["t"]}`)
	require.JSONEq(t, `[]`, string(b.exchange(t, http.MethodGet, "/user/systemuids", "", "").raw))
}

// TestTypesOfApplications: a channel of a type without a name is a group: it can be defined and has members, and is another channel than the
// group of its ID.
func TestTypesOfApplications(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.sequence()
	for _, kind := range []int{13, 249, 251, 255} {
		require.Equal(t, "accepted", b.sends("u", "g", kind, ""), "no one has defined it")
		b.manage("/channel", fmt.Sprintf(`{"channel_id":"g","channel_type":%d,"subscribers":["member"]}`, kind))
		require.Equal(t, "not_subscribed 3", b.sends("u", "g", kind, ""))
		require.Equal(t, "not_subscribed 3", b.sends("u", "g", kind, `,"sync_once":1`))
		require.Equal(t, "accepted", b.sends("member", "g", kind, ""))
		b.manage("/channel/whitelist_add", fmt.Sprintf(`{"channel_id":"g","channel_type":%d,"uids":["other"]}`, kind))
		require.Equal(t, "not_allowlisted 13", b.sends("member", "g", kind, ""))
		list := b.exchange(t, http.MethodGet, fmt.Sprintf("/channel/whitelist?channel_id=g&channel_type=%d", kind), "", "")
		require.JSONEq(t, `[{"id":0,"uid":"other"}]`, string(list.raw))
		b.manage("/channel/delete", fmt.Sprintf(`{"channel_id":"g","channel_type":%d}`, kind))
		require.Equal(t, "channel_disbanded 24", b.sends("member", "g", kind, ""))
	}
	require.Equal(t, "accepted", b.sends("u", "g", 2, ""))
}

// TestLargePayloads: with the default settings payloads of 512 KiB are taken, alone, many at a time, and as a bulk; each is in the log as it was sent.
func TestLargePayloads(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	sequencers := b.sequence()
	const size, together, channels = 512 << 10, 48, 6
	payload := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, size) }
	body := func(i int) string {
		return fmt.Sprintf(`{"from_uid":"u","channel_id":"c%d","channel_type":2,"client_msg_no":"%d","payload":%q}`, i%channels, i, base64.StdEncoding.EncodeToString(payload(i)))
	}
	require.Equal(t, http.StatusOK, b.post(body(0)).status)
	var all sync.WaitGroup
	for i := 1; i < together; i++ {
		all.Go(func() {
			if g, err := b.try(body(i)); err != nil || g.status != http.StatusOK {
				t.Errorf("send %d: %s %v", i, g.raw, err)
			}
		})
	}
	all.Wait()
	var lines strings.Builder
	const last = together + 20
	for i := together; i < last; i++ {
		lines.WriteString(body(i) + "\n")
	}
	for _, ordered := range []string{"X-Not-Ordered", orderedHeader} {
		m := takeApart(t, b.tryBulk(ndjson, strings.NewReader(lines.String()), ordered))
		require.Equal(t, make([]string, last-together), m.codes(), m.raw)
	}
	stored := 0
	for _, s := range sequencers {
		s.mu.Lock()
		seen := make(map[string]bool)
		for _, batch := range s.batches {
			require.Less(t, batch.bytes, size+4<<10, "a payload of this size has a group commit of its own")
			for _, one := range batch.sends {
				var i int
				_, err := fmt.Sscan(one.GetClientMsgNo(), &i)
				require.NoError(t, err)
				require.True(t, bytes.Equal(payload(i), one.GetPayload()), "send %d", i)
				seen[one.GetClientMsgNo()] = true
			}
		}
		stored += len(seen)
		s.mu.Unlock()
	}
	require.Equal(t, last, stored)

	g := b.post(with(`"payload":"` + base64.StdEncoding.EncodeToString(make([]byte, size+1)) + `"`))
	require.Equal(t, http.StatusRequestEntityTooLarge, g.status)
	require.Equal(t, "payload is 524289 bytes; at most 512KiB are allowed", g.body["msg"])
}
