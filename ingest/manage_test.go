package ingest

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/memory"
	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// call posts a body to a route, or gets it if the body is empty.
func (b *bundle) call(path, body string) got {
	b.t.Helper()
	method := http.MethodPost
	if body == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, strings.NewReader(body))
	require.NoError(b.t, err)
	req.Header.Set("Content-Type", "application/json")
	g, err := b.do(req)
	if err != nil && body == "" { // an array, not an object
		return g
	}
	require.NoError(b.t, err)
	return g
}

// manage changes permissions.
func (b *bundle) manage(path, body string) {
	b.t.Helper()
	g := b.call(path, body)
	require.Equal(b.t, http.StatusOK, g.status, "%s %s: %s", path, body, g.raw)
	require.JSONEq(b.t, `{"status":200}`, g.raw)
}

// sends is the outcome of a send: "accepted", or the code of its refusal.
func (b *bundle) sends(from, channel string, channelType int, more string) string {
	b.t.Helper()
	g := b.post(fmt.Sprintf(`{"from_uid":%q,"channel_id":%q,"channel_type":%d,"payload":"aGk="%s}`, from, channel, channelType, more))
	if g.status == http.StatusOK {
		return "accepted"
	}
	require.Equal(b.t, http.StatusForbidden, g.status, g.raw)
	return fmt.Sprintf("%s %s", g.code(), g.body["reason"])
}

// TestPermissionRoutes goes through WuKongIM's routes: each step makes a change and checks the outcomes of sends after it.
func TestPermissionRoutes(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.sequence()
	const (
		ok            = "accepted"
		notSubscribed = "not_subscribed 3"
		denied        = "denylisted 4"
		notAllowed    = "not_allowlisted 13"
		banned        = "channel_banned 19"
		disbanded     = "channel_disbanded 24"
		senderBanned  = "sender_banned 25"
	)
	type sends map[string]string // sender: outcome
	for _, step := range []struct {
		path, body string
		group      sends // to the group g
		person     sends // to the person p
	}{
		{group: sends{"a": ok}, person: sends{"a": ok}},
		{path: "/channel", body: `{"channel_id":"g","channel_type":2,"subscribers":["a","b","",  "a"]}`, group: sends{"a": ok, "b": ok, "c": notSubscribed}},
		{path: "/channel/subscriber_add", body: `{"channel_id":"g","channel_type":2,"subscribers":["c"]}`, group: sends{"a": ok, "c": ok}},
		{path: "/channel/subscriber_remove", body: `{"channel_id":"g","channel_type":2,"subscribers":["a","x"]}`, group: sends{"a": notSubscribed, "b": ok}},
		{path: "/channel/subscriber_add", body: `{"channel_id":"g","reset":1,"subscribers":["a"]}`, group: sends{"a": ok, "b": notSubscribed}},
		{path: "/channel", body: `{"channel_id":"g","channel_type":2,"subscribers":["b"]}`, group: sends{"a": ok, "b": ok}},
		{path: "/channel", body: `{"channel_id":"g","channel_type":2,"reset":1,"subscribers":["a","b"]}`, group: sends{"a": ok, "b": ok, "c": notSubscribed}},

		{path: "/channel/blacklist_add", body: `{"channel_id":"g","channel_type":2,"uids":["a"]}`, group: sends{"a": denied, "b": ok}},
		{path: "/channel/blacklist_set", body: `{"channel_id":"g","channel_type":2,"uids":["b"]}`, group: sends{"a": ok, "b": denied}},
		{path: "/channel/blacklist_remove", body: `{"channel_id":"g","channel_type":2,"uids":["b"]}`, group: sends{"a": ok, "b": ok}},
		{path: "/channel/blacklist_add", body: `{"channel_id":"g","channel_type":2,"uids":["a","b"]}`, group: sends{"a": denied, "b": denied}},
		{path: "/channel/blacklist_remove_all", body: `{"channel_id":"g","channel_type":2}`, group: sends{"a": ok, "b": ok}},
		{path: "/channel/blacklist_add", body: `{"channel_id":"g","channel_type":2,"uids":["a"]}`, group: sends{"a": denied}},
		{path: "/channel/blacklist_set", body: `{"channel_id":"g","channel_type":2,"uids":[]}`, group: sends{"a": ok}},

		{path: "/channel/whitelist_add", body: `{"channel_id":"g","channel_type":2,"uids":["a"]}`, group: sends{"a": ok, "b": notAllowed}},
		{path: "/channel/whitelist_set", body: `{"channel_id":"g","channel_type":2,"uids":["b"]}`, group: sends{"a": notAllowed, "b": ok}},
		{path: "/channel/whitelist_remove", body: `{"channel_id":"g","channel_type":2,"uids":["b"]}`, group: sends{"a": ok, "b": ok}},
		{path: "/channel/whitelist_add", body: `{"channel_id":"g","channel_type":2,"uids":["c"]}`, group: sends{"a": notAllowed, "c": notSubscribed}},
		{path: "/channel/whitelist_remove_all", body: `{"channel_id":"g","channel_type":2}`, group: sends{"a": ok, "b": ok}},

		{path: "/channel/info", body: `{"channel_id":"g","channel_type":2,"ban":1,"large":1}`, group: sends{"a": banned, "c": banned}},
		{path: "/channel/info", body: `{"channel_id":"g","channel_type":2,"send_ban":1}`, group: sends{"a": senderBanned}},
		{path: "/channel/info", body: `{"channel_id":"g","channel_type":2}`, group: sends{"a": ok, "c": notSubscribed}},
		{path: "/user/systemuids_add", body: `{"uids":["s"]}`, group: sends{"s": ok, "c": notSubscribed}},
		{path: "/channel/delete", body: `{"channel_id":"g","channel_type":2}`, group: sends{"a": disbanded, "s": disbanded, "____system": disbanded}},
		{path: "/channel/subscriber_add", body: `{"channel_id":"g","subscribers":["a"]}`, group: sends{"a": disbanded}},
		{path: "/channel/info", body: `{"channel_id":"g","channel_type":2,"disband":0}`, group: sends{"a": ok, "b": ok, "s": ok}},
		{path: "/user/systemuids_remove", body: `{"uids":["s"]}`, group: sends{"s": notSubscribed, "____system": ok}},
		{path: "/channel/subscriber_remove_all", body: `{"channel_id":"g","channel_type":2}`, group: sends{"a": notSubscribed}},
		{path: "/channel/delete", body: `{"channel_id":"undefined channel"}`, group: sends{}},

		{path: "/channel/blacklist_add", body: `{"channel_id":"p","channel_type":1,"uids":["a"]}`, person: sends{"a": denied, "b": ok}},
		{path: "/channel/blacklist_remove_all", body: `{"channel_id":"p","channel_type":1}`, person: sends{"a": ok}},
		{path: "/channel/info", body: `{"channel_id":"a","channel_type":1,"send_ban":1}`, person: sends{"a": senderBanned, "b": ok}, group: sends{"a": senderBanned}},
		{path: "/channel", body: `{"channel_id":"a","channel_type":1,"send_ban":0}`, person: sends{"a": ok}},
		{path: "/channel", body: `{"channel_id":"p","channel_type":1,"ban":1}`, person: sends{"a": banned}},
	} {
		switch {
		case strings.Contains(step.body, "undefined channel"):
			b.manage(step.path, `{"channel_id":"undefined","channel_type":2}`)
			require.Equal(t, ok, b.sends("a", "undefined", 2, ""), "it is as it was")
		case step.path != "":
			b.manage(step.path, step.body)
		}
		for from, want := range step.group {
			require.Equal(t, want, b.sends(from, "g", 2, ""), "%s %s, then %s to the group", step.path, step.body, from)
			require.Equal(t, want, b.sends(from, "g", 2, `,"header":{"sync_once":1}`), "%s %s, then a command of %s to the group", step.path, step.body, from)
		}
		for from, want := range step.person {
			require.Equal(t, want, b.sends(from, "p", 1, ""), "%s %s, then %s to the person", step.path, step.body, from)
			require.Equal(t, want, b.sends(from, "p@"+from, 1, `,"header":{"sync_once":1}`), "%s %s, then a command of %s to the person", step.path, step.body, from)
		}
	}
}

// TestRefusedIsNotWritten: a refused send is written nowhere.
func TestRefusedIsNotWritten(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	sequencers := b.sequence()
	b.manage("/channel", `{"channel_id":"g","channel_type":2,"subscribers":["member"]}`)
	require.Equal(t, "not_subscribed 3", b.sends("u", "g", 2, ""))
	require.Equal(t, "accepted", b.sends("member", "g", 2, ""))
	sequencers[0].mu.Lock()
	defer sequencers[0].mu.Unlock()
	require.Len(t, sequencers[0].batches, 1)
	require.InDelta(t, 1, b.metric("sendhouse_ingest_requests_total", `reason="not_subscribed"`), 0)
	require.InDelta(t, 1, b.metric("sendhouse_ingest_permission_decisions_total", `decision="not_subscribed"`), 0)
	require.InDelta(t, 1, b.metric("sendhouse_ingest_permission_decisions_total", `decision="allowed"`), 0)
}

func TestUndefinedChannelsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t, options{config: func(c *Config) { c.Permission.UndefinedChannels = "refuse" }})
	b.sequence()
	require.Equal(t, "no_such_channel 5", b.sends("u", "g", 2, ""))
	require.Equal(t, "no_such_channel 5", b.sends("u", "g", 2, `,"sync_once":1`))
	require.Equal(t, "accepted", b.sends("u", "v", 1, ""), "persons need not be defined")
	require.Equal(t, "accepted", b.sends("u", "info", 6, ""))
	require.Equal(t, "accepted", b.sends("____system", "g", 2, ""))
	b.manage("/channel/subscriber_add", `{"channel_id":"g","subscribers":["u"]}`)
	require.Equal(t, "accepted", b.sends("u", "g", 2, ""))
	g := b.post(`{"from_uid":"u","payload":"aGk=","sync_once":1,"subscribers":["x","y"]}`)
	require.Equal(t, http.StatusOK, g.status, "a temporary channel has no policy: %s", g.raw)
}

func TestPersonAllowlists(t *testing.T) {
	t.Parallel()
	b := setup(t, options{config: func(c *Config) { c.Permission.PersonAllowlists = true }})
	b.sequence()
	require.Equal(t, "not_allowlisted 13", b.sends("u", "v", 1, ""))
	b.manage("/channel/whitelist_add", `{"channel_id":"v","channel_type":1,"uids":["u"]}`)
	require.Equal(t, "accepted", b.sends("u", "v", 1, ""))
	require.Equal(t, "not_allowlisted 13", b.sends("v", "u", 1, ""), "one way")
	b.manage("/channel/info", `{"channel_id":"u","channel_type":1,"allow_stranger":1}`)
	require.Equal(t, "accepted", b.sends("v", "u", 1, ""))
}

// TestManyAreDecidedOneByOne: each send of a batch or a bulk has its own verdict.
func TestManyAreDecidedOneByOne(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.sequence()
	b.manage("/channel/blacklist_add", `{"channel_id":"bob","channel_type":1,"uids":["u"]}`)
	b.manage("/channel", `{"channel_id":"g","channel_type":2,"subscribers":["x"]}`)
	g := b.postBatch(t, `{"from_uid":"u","subscribers":["alice","bob","carol"],"payload":"aGk="}`)
	require.JSONEq(t, `{"fail_uids":["bob"],"reason":["the sender is on the channel's denylist"]}`, g.raw)

	m := b.bulk(t, "application/x-ndjson", strings.NewReader(send("g", "1")+"\n"+send("h", "2")+"\n"+send("g", "3")))
	require.Equal(t, []string{"not_subscribed", "", "not_subscribed"}, m.codes())
	require.InDelta(t, 2, b.metric("sendhouse_ingest_items_total", `reason="not_subscribed"`), 0)
}

func TestPermissionLists(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	list := func(path string) string {
		g := b.call(path, "")
		require.Equal(t, http.StatusOK, g.status, g.raw)
		require.Equal(t, "application/json", g.header.Get("Content-Type"))
		return g.raw
	}
	require.JSONEq(t, `[]`, list("/user/systemuids"))
	require.JSONEq(t, `[]`, list("/channel/whitelist?channel_id=g&channel_type=2"))
	b.manage("/user/systemuids_add", `{"uids":["b","a\"é"]}`)
	b.manage("/user/systemuids_add", `{"uids":[]}`)
	b.manage("/channel/whitelist_add", `{"channel_id":"g","channel_type":2,"uids":["v","u"]}`)
	require.JSONEq(t, `["a\"é","b"]`, list("/user/systemuids"))
	require.JSONEq(t, `[{"id":0,"uid":"u"},{"id":0,"uid":"v"}]`, list("/channel/whitelist?channel_id=g&channel_type=2"))
	for query, field := range map[string]string{
		"": "channel_id,channel_type", "?channel_id=g": "channel_type", "?channel_id=g&channel_type=x": "channel_type", "?channel_type=2&channel_id=a%20b": "channel_id",
	} {
		g := b.call("/channel/whitelist"+query, "")
		require.Equal(t, http.StatusBadRequest, g.status, g.raw)
		require.Equal(t, field, g.body["field"])
	}
}

// TestWhoMaySendCanBeNamed: each uid that can send can be put on a list, is returned unchanged, and can be banned; any
// other uid is refused everywhere.
func TestWhoMaySendCanBeNamed(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	quote := func(text string) string {
		quoted, err := json.Marshal(text)
		require.NoError(t, err)
		return string(quoted)
	}
	var sent []string
	for _, c := range "\x00\t\x7f !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u0085\u00a0\u00e9\u200b\u2003\u3000\ufeff\U0001f600" {
		for _, uid := range []string{string(c), string(c) + "u", "u" + string(c), "u" + string(c) + "u", "u" + string(c) + message.CommandSuffix} {
			status := b.post(`{"from_uid":` + quote(uid) + `,"channel_id":"g","channel_type":2,"payload":"aGk="}`).status
			listed := b.call("/channel/blacklist_add", `{"channel_id":"g","channel_type":2,"uids":[`+quote(uid)+`]}`)
			named := b.call("/channel/info", `{"channel_id":`+quote(uid)+`,"channel_type":1,"send_ban":1}`)
			require.Equal(t, status, listed.status, "%q: %s", uid, listed.raw)
			require.Equal(t, status, named.status, "%q: %s", uid, named.raw)
			if status != http.StatusOK {
				require.Equal(t, http.StatusBadRequest, status)
				require.Equal(t, "uids", listed.body["field"])
				require.Equal(t, "channel_id", named.body["field"])
				continue
			}
			sent = append(sent, uid)
			require.Equal(t, "sender_banned 25", b.sends(uid, "h", 2, ""), "%q", uid)
			b.manage("/channel/info", `{"channel_id":`+quote(uid)+`,"channel_type":1}`)
			require.Equal(t, "denylisted 4", b.sends(uid, "g", 2, ""), "%q", uid)
		}
	}
	require.Greater(t, len(sent), 100)
	uids, err := json.Marshal(sent)
	require.NoError(t, err)
	b.manage("/user/systemuids_add", `{"uids":`+string(uids)+`}`)
	var shown []string
	require.NoError(t, json.Unmarshal([]byte(b.call("/user/systemuids", "").raw), &shown))
	require.ElementsMatch(t, sent, shown)
}

// TestNamesThatBreakTheRule: stored names that the API cannot have written are logged, and can be removed.
func TestNamesThatBreakTheRule(t *testing.T) {
	t.Parallel()
	var log syncBuffer
	b := setup(t, options{partitions: 1, log: slog.New(slog.NewTextHandler(&log, nil))})
	for _, ch := range []permission.Channel{{Type: message.ChannelGroup, Name: "g h"}, {Type: message.ChannelPerson, Name: " p"}, permission.SystemAccounts()} {
		var e permission.Edit
		for l := range e.Lists {
			e.Lists[l].Add = []string{"fine", " bad"}
		}
		require.NoError(t, b.service.permissions.Change(t.Context(), ch, e))
	}
	require.Equal(t, 9, strings.Count(log.String(), "break the rule of uids"), "a line for each list: %s", log.String())
	require.Equal(t, 2, strings.Count(log.String(), "a name that requests cannot have"))
	require.Contains(t, log.String(), `key="channel.2.g=20h" list=denylist uids=1`)
	require.Contains(t, log.String(), `first=" bad"`)

	for _, row := range []struct{ path, body string }{
		{"/channel/subscriber_remove", `{"channel_id":"g h","channel_type":2,"subscribers":[" bad"]}`},
		{"/channel/blacklist_remove", `{"channel_id":"g h","channel_type":2,"uids":[" bad"]}`},
		{"/channel/whitelist_remove", `{"channel_id":" p","channel_type":1,"uids":[" bad"]}`},
		{"/user/systemuids_remove", `{"uids":[" bad"]}`},
	} {
		b.manage(row.path, row.body)
		require.Equal(t, http.StatusBadRequest, b.call(row.path, row.body).status, "it is gone")
	}
	b.manage("/channel/whitelist_remove_all", `{"channel_id":"g h","channel_type":2}`)
	b.manage("/channel/delete", `{"channel_id":"g h","channel_type":2}`)
	require.Equal(t, http.StatusBadRequest, b.call("/channel/whitelist_add", `{"channel_id":"g h","channel_type":2,"uids":["u"]}`).status)
	require.JSONEq(t, `["fine"]`, b.call("/user/systemuids", "").raw)
}

// slowWriter is a client that inspects the service's budget while it is written to.
type slowWriter struct {
	*httptest.ResponseRecorder
	budget              *memory.Budget
	writes, longest     int
	leftMost, leftLeast int64
}

func (w *slowWriter) Write(text []byte) (int, error) {
	w.writes++
	w.longest = max(w.longest, len(text))
	left := w.budget.Left()
	w.leftMost, w.leftLeast = max(w.leftMost, left), min(w.leftLeast, left)
	return w.ResponseRecorder.Write(text)
}

// TestLargeListIsBounded: a list is written in pieces, and its memory is charged to the budget until the last of them is
// written.
func TestLargeListIsBounded(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	const count = 9_000
	uids := make([]string, count)
	for i := range uids {
		uids[i] = fmt.Sprintf("%04d-%s", i, strings.Repeat("u", 100))
	}
	body, err := json.Marshal(map[string]any{"channel_id": "g", "channel_type": 2, "uids": uids})
	require.NoError(t, err)
	b.manage("/channel/whitelist_add", string(body))
	body, err = json.Marshal(map[string]any{"uids": uids})
	require.NoError(t, err)
	b.manage("/user/systemuids_add", string(body))
	budget := b.service.requests.Budget
	all := budget.Left()
	const cost = 16*count + 2*answerWriteBytes
	for path, uidOf := range map[string]func(element any) any{
		"/channel/whitelist?channel_id=g&channel_type=2": func(element any) any { return element.(map[string]any)["uid"] },
		"/user/systemuids": func(element any) any { return element },
	} {
		w := &slowWriter{ResponseRecorder: httptest.NewRecorder(), budget: budget, leftLeast: all}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost"+path, nil)
		b.service.handler.ServeHTTP(w, r)
		require.Equal(t, http.StatusOK, w.Code)
		var elements []any
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &elements))
		require.Len(t, elements, count)
		for i, element := range elements {
			require.Equal(t, uids[i], uidOf(element))
		}
		require.Greater(t, w.writes, 20)
		require.Less(t, w.longest, answerWriteBytes+1<<10)
		require.Equal(t, all-cost, w.leftMost, "at every write")
		require.Equal(t, all-cost, w.leftLeast)
		require.Equal(t, all, budget.Left())

		require.True(t, budget.Take(all-cost+1))
		g := b.call(path, "")
		require.Equal(t, http.StatusServiceUnavailable, g.status, g.raw)
		require.Equal(t, "overloaded", g.code())
		require.Equal(t, "1", g.header.Get("Retry-After"))
		requireShape(t, g)
		budget.GiveBack(1)
		require.Equal(t, http.StatusOK, b.call(path, "").status)
		budget.GiveBack(all - cost)
	}
}

// TestManageBadInput: one error names every bad field, and nothing is changed.
func TestManageBadInput(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	uids := make([]string, 10_001)
	for i := range uids {
		uids[i] = fmt.Sprintf(`"u%d"`, i)
	}
	for _, row := range []struct{ path, body, field string }{
		{"/channel", `{}`, "channel_id,channel_type"},
		{"/channel", `{"channel_id":"g","channel_type":0}`, "channel_type"},
		{"/channel", `{"channel_id":"g","channel_type":256}`, "channel_type"},
		{"/channel", `{"channel_id":"g","channel_type":-4294967294}`, "channel_type"},
		{"/user/systemuids_add_to_cache", `{"uids":[" "]}`, "uids"},
		{"/user/systemuids_remove_from_cache", `{"uids":["a",1]}`, "uids"},
		{"/channel", `{"channel_id":"g","channel_type":"2"}`, "channel_type"},
		{"/channel", `{"channel_id":"a@b","channel_type":2}`, "channel_id"},
		{"/channel", `{"channel_id":" a","channel_type":1}`, "channel_id"},
		{"/channel", `{"channel_id":"g","channel_type":2,"subscribers":["a","b "]}`, "subscribers"},
		{"/channel/blacklist_add", `{"channel_id":"g","channel_type":2,"uids":[" a"]}`, "uids"},
		{"/channel/blacklist_remove", `{"channel_id":"g h","channel_type":2,"uids":["a"]}`, "channel_id"},
		{"/channel/whitelist_remove", `{"channel_id":"g","channel_type":2,"uids":["a "]}`, "uids"},
		{"/user/systemuids_add", `{"uids":["a\u2003"]}`, "uids"},
		{"/user/systemuids_remove", `{"uids":["a","\u00a0a"]}`, "uids"},
		{"/channel", `{"channel_id":"g____cmd","channel_type":2}`, "channel_id"},
		{"/channel", `{"channel_id":"p","channel_type":1,"subscribers":["u"]}`, "subscribers"},
		{"/channel", `{"channel_id":"g","channel_type":2,"subscribers":"u"}`, "subscribers"},
		{"/channel", `{"channel_id":"g","channel_type":2,"subscribers":["a\u0000"]}`, "subscribers"},
		{"/channel", `{"channel_id":"g","channel_type":2,"subscribers":["` + strings.Repeat("x", 257) + `"]}`, "subscribers"},
		{"/channel", `{"channel_id":"g","channel_type":2,"subscribers":[` + strings.Join(uids, ",") + `]}`, "subscribers"},
		{"/channel", `{"channel_id":"g","channel_type":2,"ban":2,"large":"x","disband":-1,"reset":true}`, "reset,large,ban,disband"},
		{"/channel/info", `{"channel_type":2,"allow_stranger":7}`, "channel_id,allow_stranger"},
		{"/channel/delete", `{"channel_id":"p","channel_type":1}`, "channel_type"},
		{"/channel/subscriber_add", `{"channel_id":"g"}`, "subscribers"},
		{"/channel/subscriber_add", `{"channel_id":"g","subscribers":["  "]}`, "subscribers"},
		{"/channel/subscriber_add", `{"channel_id":"g","subscribers":["u"],"temp_subscriber":1}`, "temp_subscriber"},
		{"/channel/subscriber_add", `{"channel_id":"p","channel_type":1,"subscribers":["u"]}`, "channel_type,subscribers"},
		{"/channel/subscriber_remove", `{"channel_id":"g","subscribers":[]}`, "subscribers"},
		{"/channel/subscriber_remove_all", `{"channel_id":"g"}`, "channel_type"},
		{"/channel/blacklist_add", `{"channel_id":"g","channel_type":2,"uids":[]}`, "uids"},
		{"/channel/blacklist_add", `{"channel_id":"g","channel_type":2,"subscribers":["u"]}`, "uids"},
		{"/channel/blacklist_set", `{"channel_id":"g","uids":[1]}`, "channel_type,uids"},
		{"/channel/whitelist_remove", `{"uids":["u"]}`, "channel_id,channel_type"},
		{"/user/systemuids_add", `{"uids":["a",null]}`, "uids"},
	} {
		g := b.call(row.path, row.body)
		require.Equal(t, http.StatusBadRequest, g.status, "%s %.200s: %s", row.path, row.body, g.raw)
		require.Equal(t, "invalid_request", g.code())
		require.Equal(t, row.field, g.body["field"], "%s %.200s: %s", row.path, row.body, g.raw)
	}
	for _, row := range []struct {
		path, body, code string
		status           int
	}{
		{"/channel", `[`, "invalid_json", 400},
		{"/user/systemuids", `{}`, "method_not_allowed", 405},
		{"/channel/nothing", `{}`, "not_found", 404},
	} {
		g := b.call(row.path, row.body)
		require.Equal(t, row.status, g.status)
		require.Equal(t, row.code, g.code())
	}
	require.InDelta(t, 0, b.metric("sendhouse_ingest_permission_channels", ""), 0, "nothing was changed")
}

func TestManageScopes(t *testing.T) {
	t.Parallel()
	file := tokenFile(t, tokenLine("send", "s")+tokenLine("manage", "m")+tokenLine("read", "r"))
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) { c.Access.APITokensFile = file }})
	for _, row := range []struct {
		method, path, token string
		status              int
	}{
		{http.MethodPost, "/channel/info", "m", 200},
		{http.MethodPost, "/channel/info", "s", 403},
		{http.MethodPost, "/channel/info", "r", 403},
		{http.MethodPost, "/channel/info", "x", 401},
		{http.MethodGet, "/user/systemuids", "r", 200},
		{http.MethodGet, "/user/systemuids", "m", 403},
		{http.MethodGet, "/channel/whitelist?channel_id=g&channel_type=2", "r", 200},
		{http.MethodGet, "/channel/whitelist?channel_id=g&channel_type=2", "s", 403},
	} {
		req, err := http.NewRequestWithContext(t.Context(), row.method, b.url+row.path, strings.NewReader(`{"channel_id":"g","channel_type":2}`))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+row.token)
		res, err := b.client.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, row.status, res.StatusCode, "%s %s with %s", row.method, row.path, row.token)
	}
}

// TestTwoInstances: changes made through one instance are in force at the other.
func TestTwoInstances(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	second := &bundle{t: t, server: b.server, nc: connect(t, b.server), js: b.js, registry: prometheus.NewRegistry()}
	var err error
	second.service, err = New(defaultConfig(t), Deps{NATS: second.nc, JetStream: second.js, Partitions: topology.Partitions(1), Logger: logger(t), Registerer: second.registry})
	require.NoError(t, err)
	second.run()
	require.Equal(t, "accepted", second.sends("u", "g", 2, ""))
	b.manage("/channel", `{"channel_id":"g","channel_type":2,"subscribers":["v"]}`)
	require.Eventually(t, func() bool { return second.sends("u", "g", 2, "") == "not_subscribed 3" }, testTimeout, 1)
}

// TestStalePermissions: when NATS has been unreachable for too long, sends and changes are answered 503.
func TestStalePermissions(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, config: func(c *Config) { c.Permission.StaleMax = 1e9 }})
	b.sequence()
	b.manage("/channel", `{"channel_id":"g","channel_type":2,"subscribers":["v"]}`)
	b.server.Shutdown()
	require.Equal(t, "not_subscribed 3", b.sends("u", "g", 2, ""), "what was seen last stands")
	require.Eventually(t, func() bool { return b.post(send("g", "1")).code() == "permissions_unavailable" }, testTimeout, 1e6)
	g := b.post(send("g", "1"))
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	require.Equal(t, "1", g.header.Get("Retry-After"))
	g = b.call("/channel", `{"channel_id":"g","channel_type":2}`)
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	require.Equal(t, "permissions_unavailable", g.code())
	require.Error(t, b.service.Check())

	b.startServer(b.addr)
	require.Eventually(t, func() bool { return b.service.Check() == nil }, testTimeout, 1e6)
	require.Equal(t, "not_subscribed 3", b.sends("u", "g", 2, ""))
	b.manage("/channel", `{"channel_id":"g","channel_type":2,"reset":1,"subscribers":["u"]}`)
}
