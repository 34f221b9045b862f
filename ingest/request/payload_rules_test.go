package request

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-faster/jx"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// The header flags that the page names.
const (
	noFlags      = ``
	syncOnce     = `"sync_once":1`
	systemSilent = `"no_persist":0,"red_dot":0,"sync_once":1`
	systemUnread = `"no_persist":0,"red_dot":1,"sync_once":0`
)

// payloadExample is a payload from the seed page, with changes that break its rule.
type payloadExample struct {
	name    string
	flags   string
	payload string
	rule    string
	breaks  []payloadBreak
}

// payloadBreak makes an invalid variant: it replaces from by to.
type payloadBreak struct{ from, to, says string }

const wuwang = `{"uid": "xxx", "name": "张三"},
        {"uid": "xx01", "name": "李四"},
        {"uid": "xx02", "name": "王五"}`

func payloadExamples() []payloadExample {
	return []payloadExample{
		{"text", noFlags, `{
    "type": 1,
    "content": "这是一条文本消息"
}`, "text", []payloadBreak{
			{`"content"`, `"contents"`, "content is required"}, {`"这是一条文本消息"`, `7`, "content must be a string"}, {`"这是一条文本消息"`, `null`, "content is required"},
		}},
		{"text with mention", noFlags, `{
    "type": 1,
    "content": "这是一条文本消息",
    "mention": {
        "all": 0,
        "uids": ["1223", "2323"]
    }
}`, "text", []payloadBreak{
			{`"all": 0`, `"all": 1`, "mention uids must be empty when all is 1"}, {`"all": 0`, `"all": 2`, "mention.all must be 0 or 1"},
			{`"all": 0`, `"all": true`, "mention.all must be 0 or 1"}, {`"1223"`, `1223`, "mention.uids must be an array of strings"}, {`["1223", "2323"]`, `"1223"`, "mention.uids must be"},
		}},
		{"text with reply", noFlags, `{
    "type": 1,
    "content": "回复了某某",
    "reply": {
        "root_mid": "xxx",
        "message_id": "xxxx",
        "message_seq": 123,
        "from_uid": "xxxx",
        "from_name": "xxx",
        "payload": {}
    }
}`, "text", []payloadBreak{
			{`"root_mid"`, `"root"`, "reply.root_mid is required"}, {`"xxxx",
        "message_seq"`, `5, "message_seq"`, "reply.message_id must be a string"}, {`123`, `"123"`, "reply.message_seq must be an integer"},
			{`123`, `-1`, "reply.message_seq must be an integer"}, {`"from_uid": "xxxx"`, `"from_uid": ""`, "reply.from_uid must be a string that is not empty"},
			{`"from_name"`, `"name"`, "reply.from_name is required"}, {`{}`, `"{}"`, "reply.payload must be an object"},
		}},
		{"image", noFlags, `{
    "type": 2,
    "url": "http://xxxxx.com/xxx",
    "width": 200,
    "height": 320
}`, "image", []payloadBreak{{`"http://xxxxx.com/xxx"`, `""`, "url must be"}, {`200`, `"200"`, "width must be"}, {`320`, `3.5`, "height must be"}}},
		{"GIF", noFlags, `{
    "type": 3,
    "url": "http://xxxxx.com/xxx",
    "width": 72,
    "height": 72
}`, "gif", []payloadBreak{{`"url"`, `"uri"`, "url is required"}, {`"width": 72`, `"width": -72`, "width must be"}, {`"height": 72`, `"height": {}`, "height must be"}}},
		{"voice", noFlags, `{
    "type": 4,
    "url": "http://xxxxx.com/xxx",
    "timeTrad": 10
}`, "voice", []payloadBreak{{`timeTrad`, `time`, "timeTrad is required"}, {`10`, `"10"`, "timeTrad must be"}}},
		{"file", noFlags, `{
    "type": 8,
    "url": "http://xxxxx.com/xxx",
    "name": "xxxx.docx",
    "size": 238734
}`, "file", []payloadBreak{{`"xxxx.docx"`, `null`, "name is required"}, {`238734`, `1e999`, "size must be"}, {`"url"`, `"x"`, "url is required"}}},
		{"command", syncOnce, `{
    "type": 99,
    "cmd": "groupUpdate",
    "param": {}
}`, "command", []payloadBreak{{`"groupUpdate"`, `1`, "cmd must be"}, {`{}`, `[]`, "param must be an object"}}},
		{"group created", systemSilent, `{
    "type": 1001,
    "creator": "xxx",
    "creator_name": "张三",
    "content": "{0}邀请{1}、{2}加入群聊",
    "extra": [
        ` + wuwang + `
    ]
}`, "group_created", []payloadBreak{
			{`"creator"`, `"maker"`, "creator is required"}, {`"creator_name": "张三"`, `"creator_name": 1`, "creator_name must be"},
			{`{"uid": "xx01", "name": "李四"}`, `{"uid": "xx01"}`, "extra.name is required"},
		}},
		{"members added", systemSilent, `{
    "type": 1002,
    "content": "{0}邀请{1}、{2}加入群聊",
    "extra": [
        ` + wuwang + `
    ]
}`, "members_added", []payloadBreak{{`"extra"`, `"extras"`, "extra is required"}, {`{"uid": "xx01", "name": "李四"}`, `"xx01"`, "extra must be an array of objects"}}},
		{"members removed", systemSilent, `{
    "type": 1003,
    "content": "{0}将{1}移除群聊",
    "extra": [
        {"uid": "xxx", "name": "张三"},
        {"uid": "xx01", "name": "李四"}
    ]
}`, "members_removed", []payloadBreak{{`"content"`, `"text"`, "content is required"}}},
		{"member kicked", systemUnread, `{
    "type": 1010,
    "content": "你被{0}移除群聊",
    "extra": [
        {"uid": "xxx", "name": "张三"}
    ]
}`, "member_kicked", []payloadBreak{{`"uid": "xxx"`, `"uid": 1`, "extra.uid must be"}}},
		{"group renamed", systemSilent, `{
    "type": 1005,
    "content": "{0}修改群名为\"测试群\"",
    "extra": [
        {"uid": "xxx", "name": "张三"}
    ]
}`, "group_updated", []payloadBreak{{`"content"`, `"c"`, "content is required"}}},
		{"group announcement", systemSilent, `{
    "type": 1005,
    "content": "{0}修改群公告为\"这是一个群公告\"",
    "extra": [
        {"uid": "xxx", "name": "张三"}
    ]
}`, "group_updated", []payloadBreak{{`[`, `{"a":[`, "extra must be an array"}}},
		{"message revoked", systemSilent, `{
    "type": 1006,
    "message_id": "234343435",
    "content": "{0}撤回了一条消息",
    "extra": [
        {"uid": "xxx", "name": "张三"}
    ]
}`, "message_revoked", []payloadBreak{{`"234343435"`, `234343435`, "message_id must be a string"}}},
		{"a command as such", syncOnce, `{
    "type": 99,
    "cmd": "cmd",
    "param": {}
}`, "command", []payloadBreak{{`"cmd": "cmd"`, `"cmd": ""`, "cmd must be"}}},
		{"members changed", syncOnce, `{
    "type": 99,
    "cmd": "memberUpdate",
    "param": {
        "group_no": "xxxx"
    }
}`, "command", []payloadBreak{{`"param"`, `"params"`, "param is required"}}},
		{"unread cleared", syncOnce, `{
    "type": 99,
    "cmd": "unreadClear",
    "param": {
        "channel_id": "xxxx",
        "channel_type": 2
    }
}`, "command", []payloadBreak{{`"cmd"`, `"command"`, "cmd is required"}}},
	}
}

// rulesOf returns the rules for a mode.
func rulesOf(t testing.TB, mode string) *PayloadRules {
	t.Helper()
	rules, err := NewPayloadRules(mode, prometheus.NewRegistry())
	require.NoError(t, err)
	return rules
}

// payloadSend is a send of a payload to a group.
func payloadSend(flags, payload string) string {
	return fmt.Sprintf(`{"header":{%s},"from_uid":"u1","channel_id":"g1","channel_type":2,"payload":%q}`, flags, base64.StdEncoding.EncodeToString([]byte(payload)))
}

// ruled applies the rules of a mode to a body.
func ruled(t *testing.T, rules *PayloadRules, body string) outcome.Problem {
	t.Helper()
	pool := NewPool(4<<20, 1<<30)
	r, p := decoded(pool, []byte(body))
	defer pool.Put(r)
	require.True(t, p.OK(), p.Msg)
	return rules.Apply(r)
}

func requireBroken(t *testing.T, rules *PayloadRules, body, rule, says string) {
	t.Helper()
	p := ruled(t, rules, body)
	require.Equal(t, outcome.InvalidPayload, p.Outcome)
	require.Equal(t, "payload", p.Field)
	require.Contains(t, p.Msg, fmt.Sprintf("rule %q", rule))
	require.Contains(t, p.Msg, says)
}

// TestPayloadExamples: the page's payloads pass with the flags that the page names, and fail with each break and with any
// of these flags inverted.
func TestPayloadExamples(t *testing.T) {
	t.Parallel()
	rules := rulesOf(t, PayloadRulesEnforce)
	for _, e := range payloadExamples() {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			require.True(t, ruled(t, rules, payloadSend(e.flags, e.payload)).OK(), "%s", payloadSend(e.flags, e.payload))
			for _, x := range e.breaks {
				broken := strings.Replace(e.payload, x.from, x.to, 1)
				if x.to == `{"a":[` {
					broken = strings.Replace(broken, "]", "]}", 1)
				}
				require.NotEqual(t, e.payload, broken)
				requireBroken(t, rules, payloadSend(e.flags, broken), e.rule, x.says)
			}
			for i, flag := range strings.Split(e.flags, ",") {
				if flag == "" {
					continue
				}
				flags := strings.Split(e.flags, ",")
				flags[i] = flag[:len(flag)-1] + string('0'+'1'-flag[len(flag)-1])
				requireBroken(t, rules, payloadSend(strings.Join(flags, ","), e.payload), e.rule+"_flags", "must be sent with header")
			}
			requireBroken(t, rules, payloadSend(e.flags, strings.Replace(e.payload, `"type": `, `"type": "1", "was": `, 1)), "type", "type must be an integer")
			requireBroken(t, rules, payloadSend(e.flags, e.payload[:len(e.payload)-1]), "not_json", "")
			requireBroken(t, rules, payloadSend(e.flags, e.payload+"}"), "not_json", "")
			requireBroken(t, rules, payloadSend(e.flags, strings.Replace(e.payload, `"type"`, `"kind"`, 1)), "type", "type is required")
		})
	}
}

func TestPayloadsOfNoExample(t *testing.T) {
	t.Parallel()
	rules := rulesOf(t, PayloadRulesEnforce)
	t.Run("taken", func(t *testing.T) {
		t.Parallel()
		for _, payload := range []string{
			`{"type":5}`, `{"type":1000,"url":7}`, `{"type":-1}`, `{"type":0}`, // an application's own
			`{"type":1004}`, `{"type":2000,"content":"x","extra":[{"a":1}]}`, // system messages that the page does not show
			`{"content":"the type comes last","type":1}`, ` {"type":1,"content":"\u4e2d","more":{"a":[1,{"b":null}]}} `,
			`{"type":1,"content":""}`, `{"type":1,"content":"x","mention":null,"reply":null}`,
			`{"type":1,"content":"x","mention":{"all":1}}`, `{"type":1,"content":"x","mention":{"all":1,"uids":[]}}`,
			`{"type":1,"content":"x","mention":{"all":1,"uids":null}}`, `{"type":1,"content":"x","mention":{"uids":["a"],"uids":["b"]}}`,
			`{"t\u0079pe":1,"content":"x"}`,
		} {
			require.True(t, ruled(t, rules, payloadSend(noFlags, payload)).OK(), "%s", payloadSend(noFlags, payload))
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		for _, row := range []struct{ payload, rule, says string }{
			{`Hello World`, "not_json", "must be a JSON object"}, {`[]`, "not_json", "must be a JSON object"}, {`1`, "not_json", "object"}, {`null`, "not_json", "object"},
			{"{\"type\":1,\"content\":\"\xff\"}", "not_json", "UTF-8"}, {`{"type":1,"content":"x",}`, "not_json", ""}, {`{"type":1,"content":"x"} x`, "not_json", ""},
			{`{"type":5,"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, "not_json", "deeper"},
			{`{"type":5,"x":tru}`, "not_json", ""}, {`{"type":1,"content":"x","mention":{"uids":[,]}}`, "not_json", ""},
			{`{"type":"1","content":"x"}`, "type", "integer"}, {`{"type":1.0,"content":"x"}`, "type", "integer"}, {`{"type":1e0}`, "type", "integer"}, {`{"type":null}`, "type", "integer"},
			{`{"type":99999999999999999999}`, "type", "integer"}, {`{}`, "type", "required"}, {`{"type":5,"type":1}`, "type", "once"},
			{`{"type":2000,"content":1}`, "system", "content must be"}, {`{"type":2000,"extra":{}}`, "system", "extra must be"},
			{`{"type":1,"content":"x","mention":["a"]}`, "text", "mention must be an object"}, {`{"type":1,"content":"x","content":null}`, "text", "content is required"},
		} {
			requireBroken(t, rules, payloadSend(noFlags, row.payload), row.rule, row.says)
		}
	})
}

// TestPayloadRuleTable checks the table itself.
func TestPayloadRuleTable(t *testing.T) {
	t.Parallel()
	kinds := make(map[int64]bool)
	for _, rule := range payloadRuleTable() {
		require.False(t, kinds[rule.kind], "%d stands there twice", rule.kind)
		kinds[rule.kind] = true
		require.LessOrEqual(t, len(rule.fields), 32, "a bit each")
	}
	names := payloadRuleNames(payloadRuleTable())
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	require.Len(t, slices.Compact(sorted), len(names))
}

func TestPayloadCheckAllocatesNothing(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts those of other goroutines too
	rules, d := rulesOf(t, PayloadRulesEnforce), new(jx.Decoder)
	for _, payload := range []string{`{"type":1,"content":"Hello World, this is a test message for bench"}`, `Hello World`, `{"type":1}`} {
		s := &message.Send{Payload: []byte(payload)}
		require.Zero(t, testing.AllocsPerRun(100, func() { rules.check(d, s) }), payload)
	}
}

// FuzzPayloadCheck: the check agrees with encoding/json on what is valid JSON, and never panics.
func FuzzPayloadCheck(f *testing.F) {
	for _, e := range payloadExamples() {
		f.Add([]byte(e.payload), e.flags == systemUnread, e.flags == systemSilent)
	}
	rules, d := rulesOf(f, PayloadRulesEnforce), new(jx.Decoder)
	names := payloadRuleNames(payloadRuleTable())
	f.Fuzz(func(t *testing.T, payload []byte, redDot, syncOnce bool) {
		v := rules.check(d, &message.Send{Payload: payload, RedDot: redDot, SyncOnce: syncOnce})
		if !v.ok() {
			require.Contains(t, names, v.rule)
			require.NotEmpty(t, v.what)
			return
		}
		require.True(t, json.Valid(payload), "%q", payload)
	})
}

func BenchmarkPayloadCheck(b *testing.B) {
	rules, d := rulesOf(b, PayloadRulesEnforce), new(jx.Decoder)
	s := &message.Send{Payload: []byte(`{"type":1,"content":"Hello World, this is a test message for bench"}`)}
	b.ReportAllocs()
	for b.Loop() {
		if v := rules.check(d, s); !v.ok() {
			b.Fatal(v)
		}
	}
}
