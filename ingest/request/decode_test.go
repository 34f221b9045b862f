package request

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/ingest/internal/ingesttest"
	"github.com/sendhouse/sendhouse/ingest/memory"
	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/message"
)

const testPayloadBytesMax = 1 << 10

// decoded is the result of the decoder and the validation under test.
func decoded(pool *Pool, body []byte) (*Request, outcome.Problem) {
	r := pool.Get()
	r.body = append(r.body, body...)
	if p := r.Decode(); !p.OK() {
		return r, p
	}
	return r, r.Validate(testPayloadBytesMax)
}

// compare checks the decoder and the validation against the reference. See Decode for the allowed differences.
func compare(t require.TestingT, pool *Pool, body []byte) {
	compareScan(t, pool, body)
	r, p := decoded(pool, body)
	defer pool.Put(r)
	require.NotEqual(t, outcome.Internal, p.Outcome)
	if foldedKey(body) {
		return
	}
	ref, err := referenceDecode(body)
	if err != nil {
		require.False(t, p.OK(), "encoding/json refuses it: %v", err)
		return
	}
	bad, want := referenceValidate(ref, testPayloadBytesMax)
	if p.OK() {
		require.Empty(t, bad)
		if want.ClientMsgNo == "" {
			require.True(t, r.Generated)
			want.ClientMsgNo = r.Send.ClientMsgNo
		}
		require.True(t, proto.Equal(want, &r.Send), "want %v\nhave %v", want, &r.Send)
		return
	}
	if excused(body, p) {
		return
	}
	require.Equal(t, outcome.InvalidRequest.Spec().Code, strings.Replace(p.Outcome.Spec().Code, "too_large", "invalid_request", 1), p.Msg)
	require.ElementsMatch(t, bad, strings.Split(p.Field, ","), p.Msg)
}

// compareScan checks scan against the decoder, and reports whether scan accepts the body.
func compareScan(t require.TestingT, pool *Pool, body []byte) bool {
	fast, slow := pool.Get(), pool.Get()
	defer pool.Put(fast)
	defer pool.Put(slow)
	fast.body, slow.body = append(fast.body, body...), append(slow.body, body...)
	before := fast.fields
	if p := fast.checkText(); !p.OK() || !fast.scan() {
		require.Equal(t, before, fast.fields)
		return false
	}
	require.True(t, slow.decodeWith(slow.object).OK())
	require.Empty(t, slow.issues)
	require.Empty(t, slow.fields.subscribers)
	require.Empty(t, fast.fields.subscribers)
	require.Equal(t, string(slow.fields.payload), string(fast.fields.payload))
	for _, f := range []*fields{&slow.fields, &fast.fields} {
		f.subscribers, f.payload = nil, nil // if empty, they may be in the pool's memory or nil
	}
	require.Equal(t, slow.fields, fast.fields)
	return true
}

// excused reports whether a refusal is one that encoding/json does not make.
func excused(body []byte, p outcome.Problem) bool {
	switch {
	case p.Outcome == outcome.InvalidJSON:
		return !utf8.Valid(body) || strings.Contains(p.Msg, errDepth.Error()) || strings.TrimSpace(string(body)) == "null"
	default:
		return strings.Contains(p.Msg, unpairedSurrogate) ||
			strings.Contains(p.Msg, "payload must be a string in base64") && strings.Contains(string(body), "[") ||
			strings.Contains(p.Msg, "subscribers must be an array of strings") && strings.Contains(string(body), "null")
	}
}

// hostile is bodies that have broken decoders.
func hostile() []string {
	bodies := []string{
		ingesttest.Example, ingesttest.With(``), `{}`, `null`, ``, `[]`, `{"a":1,}`, `{"a"}`, `{,}`, `{"a":1 "b":2}`, `{"a":.5}`, `{"a":-}`, `{"a":1.}`, `{"a":1e}`, `{"a":+1}`, `{"a":0x1}`,
		`{"a":-0,"b":0.0e-0,"c":1E+2}`, `{"expire":-0}`, `{"expire":00}`, `{"expire":1e2}`, `{"channel_type":9223372036854775808}`,
		ingesttest.With(`"from_uid":"\ud83d\ude00"`), ingesttest.With(`"from_uid":"\ud83d"`), ingesttest.With(`"from_uid":"\ude00\ud83d"`), ingesttest.With(`"from_uid":"\ud83dx"`), ingesttest.With(`"from_uid":"\ud83d\u0041"`),
		ingesttest.With(`"from_uid":"\ud83d\ud83d\ude00"`), ingesttest.With(`"from_uid":"\ud83d\n"`), ingesttest.With(`"tag_key":"\u0000\"\\\/\b\f\n\r\t"`), ingesttest.With(`"tag_key":"\u00"`), ingesttest.With(`"tag_key":"\x"`), ingesttest.With(`"tag_key":"\uD83D\uDE00\u00e9"`),
		ingesttest.With(`"x":"\ud800"`), ingesttest.With(`"\ud800":1`), ingesttest.With("\"tag_key\":\"\xff\""), ingesttest.With("\"tag_key\":\"\xed\xa0\x80\""), ingesttest.With(`"channel_id":"a\u0020b"`),
		ingesttest.With(`"header":{"sync_once":1},"header":{"red_dot":1}`), ingesttest.With(`"header":{"sync_once":1},"header":null`), ingesttest.With(`"header":{"sync_once":1,"sync_once":null},"sync_once":0`),
		ingesttest.With(`"subscribers":["a","b"],"subscribers":["c"],"sync_once":1`), ingesttest.With(`"subscribers":["a"],"subscribers":null,"sync_once":1`), ingesttest.With(`"subscribers":[" b ","a","b",""],"sync_once":1`),
		ingesttest.With(`"subscribers":[["a"]]`), ingesttest.With(`"subscribers":[,]`), ingesttest.With(`"subscribers":["a",]`), ingesttest.With(`"subscribers":["a" "b"]`), ingesttest.With(`"subscribers":[null],"sync_once":1`),
		ingesttest.With(`"payload":"aGk=","payload":null`), ingesttest.With(`"payload":"!","payload":"aGk="`), ingesttest.With(`"payload":[104,105]`), `{"payload":[null]}`, ingesttest.With(`"payload":"aG\nk="`), ingesttest.With(`"payload":"aGk=="`), ingesttest.With(`"payload":"aGl="`), ingesttest.With(`"payload":"\u0061Gk="`),
		ingesttest.With(`"channel_type":1,"channel_id":"@"`), ingesttest.With(`"channel_type":1,"channel_id":"alice@____cmd"`), ingesttest.With(`"channel_type":1,"channel_id":"a@a@alice"`),
		ingesttest.With(`"FROM_UID":"x"`), ingesttest.With(`"from_uid":"\u212a"`), ingesttest.With(`"channel_id":"\u0085"`), ingesttest.With(`"from_uid":"` + strings.Repeat("x", 300) + `"`),
		ingesttest.With(`"x":{"y":[{"z":"\u12"}]}`), ingesttest.With(`"x":tru`), ingesttest.With(`"x":truex`), ingesttest.With(`"x":nul`), ingesttest.With("\"x\":1\f"), ingesttest.With(``) + "\x00", "\ufeff{}", ingesttest.With(`"client_msg_no":"\u3000 "`), ingesttest.With(`"tag_key":" x"`),
		`{"from_uid":"a","payload":"aGk=","sync_once":1,"channel_id":"","channel_type":0,"subscribers":["b"]}`, `{"x":"` + "\x7f\u2028" + `"}`,
		strings.Repeat(`[`, 100_000), strings.Repeat(`{"a":`, 10_001), ingesttest.With(`"x":` + strings.Repeat("1", 5000)),
	}
	return append(bodies, pagePayloads()...)
}

// pagePayloads are sends with the payloads of the seed page.
func pagePayloads() []string {
	var bodies []string
	for _, flags := range []string{`"red_dot":1`, `"sync_once":1`, `"no_persist":1,"sync_once":1`} {
		for _, channel := range []string{`"channel_id":"g","channel_type":2`, `"channel_id":"u2","channel_type":1`} {
			bodies = append(bodies, fmt.Sprintf(`{"header":{%s},"from_uid":"u1",%s,"payload":"eyJ0eXBlIjoxLCJjb250ZW50Ijoi6L+Z5piv5LiA5p2h5paH5pys5raI5oGvIn0="}`, flags, channel))
		}
	}
	return bodies
}

// exampleSends are sends of every payload on the seed page, with the flags shown for it.
func exampleSends() []string {
	var bodies []string
	for _, e := range payloadExamples() {
		bodies = append(bodies, payloadSend(e.flags, e.payload))
	}
	return bodies
}

func TestDecodeAgainstEncodingJSON(t *testing.T) {
	t.Parallel()
	pool := NewPool(4<<20, 1<<30)
	for i, body := range append(hostile(), exampleSends()...) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			compare(t, pool, []byte(body))
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, body := range append(hostile(), exampleSends()...) {
		if len(body) < 2000 {
			f.Add([]byte(body))
		}
	}
	pool := NewPool(4<<20, 1<<30)
	f.Fuzz(func(t *testing.T, body []byte) { compare(t, pool, body) })
}

// TestDecodeProperty builds bodies of values that are mostly right.
func TestDecodeProperty(t *testing.T) {
	t.Parallel()
	pool := NewPool(4<<20, 1<<30)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(
			rapid.Map(rapid.StringN(0, 20, -1), ingesttest.Quoted),
			rapid.Map(rapid.StringMatching(`[a-c@#& ]{0,4}`), ingesttest.Quoted),
			rapid.Map(rapid.StringN(100, 300, -1), ingesttest.Quoted),
			rapid.SampledFrom([]string{`"alice"`, `"bob"`, `"alice@bob"`, `"\u0041"`, `"\ud800"`, `"x____cmd"`, `null`, `1`, `{}`, `[]`, `true`}),
		)
		number := rapid.SampledFrom([]string{`0`, `1`, `2`, `8`, `12`, `13`, `255`, `256`, `-1`, `-4294967294`, `-0`, `1.0`, `1e0`, `4294967295`, `4294967296`, `99999999999999999999`, `"1"`, `null`, `true`, `[]`})
		payload := rapid.OneOf(rapid.Map(rapid.StringMatching(`([A-Za-z0-9+/]{4}){0,6}(==?)?`), ingesttest.Quoted), rapid.SampledFrom([]string{`"aGk="`, `null`, `1`}))
		list := rapid.Map(rapid.SliceOfN(text, 0, 5), func(s []string) string { return "[" + strings.Join(s, ",") + "]" })
		flags := rapid.Map(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
			return rapid.SampledFrom([]string{`"no_persist":`, `"red_dot":`, `"sync_once":`, `"x":`}).Draw(t, "flag") + number.Draw(t, "value")
		}), 0, 4), func(s []string) string { return "{" + strings.Join(s, ",") + "}" })
		values := map[string]*rapid.Generator[string]{
			"from_uid": text, "sender_uid": text, "channel_id": text, "client_msg_no": text, "stream_no": text, "tag_key": text,
			"channel_type": number, "expire": number, "no_persist": number, "red_dot": number, "sync_once": number,
			"payload": payload, "subscribers": rapid.OneOf(list, text), "header": rapid.OneOf(flags, text), "other": text,
		}
		names := []string{
			"from_uid", "sender_uid", "channel_id", "client_msg_no", "stream_no", "tag_key", "channel_type", "expire",
			"no_persist", "red_dot", "sync_once", "payload", "subscribers", "header", "other",
		}
		var more []string
		for range rapid.IntRange(0, 8).Draw(t, "fields") {
			name := rapid.SampledFrom(names).Draw(t, "name")
			more = append(more, ingesttest.Quoted(name)+":"+values[name].Draw(t, name))
		}
		body := ingesttest.With(strings.Join(more, ", "))
		if rapid.Bool().Draw(t, "bare") {
			body = "{" + strings.Join(more, " ,") + "}"
		}
		compare(t, pool, []byte(body))
	})
}

// TestSend checks the send made from a valid body.
func TestSend(t *testing.T) {
	t.Parallel()
	base := func(change func(*message.Send)) *message.Send {
		s := &message.Send{ChannelId: "g1", ChannelType: 2, FromUid: "alice", ClientMsgNo: "n", Payload: []byte("hi")}
		change(s)
		return s
	}
	set := message.TemporaryChannel([]string{"b", "c"})
	rows := []struct {
		name string
		more string
		want *message.Send
	}{
		{"plain", ``, base(func(*message.Send) {})},
		{"every field", `"header":{"no_persist":1,"red_dot":1},"stream_no":"s","tag_key":"t","expire":60`, base(func(s *message.Send) {
			s.NoPersist, s.RedDot, s.StreamNo, s.TagKey, s.Expire = true, true, "s", "t", 60
		})},
		{"a command", `"header":{"sync_once":1}`, base(func(s *message.Send) { s.SyncOnce, s.ChannelId = true, "g1____cmd" })},
		{"a flag in header goes before the same at top level", `"sync_once":1,"header":{"sync_once":0,"red_dot":1},"red_dot":0`, base(func(s *message.Send) { s.RedDot = true })},
		{"from_uid goes before sender_uid", `"sender_uid":"mallory"`, base(func(*message.Send) {})},
		{"an empty from_uid leaves room for sender_uid", `"from_uid":"","sender_uid":"bob"`, base(func(s *message.Send) { s.FromUid = "bob" })},
		{"a person", `"channel_type":1,"channel_id":"bob"`, base(func(s *message.Send) { s.ChannelType, s.ChannelId = 1, message.PersonChannel("alice", "bob") })},
		{"a person, composed", `"channel_type":1,"channel_id":"bob@alice"`, base(func(s *message.Send) { s.ChannelType, s.ChannelId = 1, message.PersonChannel("alice", "bob") })},
		{"receivers", `"sync_once":1,"subscribers":["c","b","c","b",""]`, base(func(s *message.Send) {
			s.SyncOnce, s.ChannelId, s.Subscribers = true, "g1____cmd", []string{"b", "c"}
		})},
		{"receivers in place of a channel", `"sync_once":1,"channel_id":null,"channel_type":null,"subscribers":["c","b"]`, base(func(s *message.Send) {
			s.SyncOnce, s.ChannelId, s.ChannelType, s.Subscribers = true, set+"____cmd", 8, []string{"b", "c"}
		})},
		{"receivers in place of a channel go to type 8 whatever is asked", `"sync_once":1,"channel_id":"","channel_type":2,"subscribers":["b","c"]`, base(func(s *message.Send) {
			s.SyncOnce, s.ChannelId, s.ChannelType, s.Subscribers = true, set+"____cmd", 8, []string{"b", "c"}
		})},
		{"escapes", `"tag_key":"\u4e2d\ud83d\ude00\"\\\/\n"`, base(func(s *message.Send) { s.TagKey = "中😀\"\\/\n" })},
	}
	pool := NewPool(4<<20, 1<<30)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			more := `"client_msg_no":"n"`
			if row.more != "" {
				more += "," + row.more
			}
			r, p := decoded(pool, []byte(ingesttest.With(more)))
			require.True(t, p.OK(), p.Msg)
			require.True(t, proto.Equal(row.want, &r.Send), "want %v\nhave %v", row.want, &r.Send)
			pool.Put(r)
		})
	}
	// printf "b\nc" | sha256sum. Changing the name would move a set's later messages to another channel.
	require.Equal(t, "6c516cfc306e5363", message.TemporaryChannel([]string{"b", "c"})[:16])
}

func TestDecodeAllocates(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts those of other goroutines too
	pool := NewPool(4<<20, 1<<30)
	body := []byte(ingesttest.Example)
	allocs := testing.AllocsPerRun(1000, func() {
		r, p := decoded(pool, body)
		if !p.OK() {
			t.Fatal(p)
		}
		pool.Put(r)
	})
	require.LessOrEqual(t, allocs, 4.0)
}

func TestRequestIsCleanAfterReuse(t *testing.T) {
	t.Parallel()
	r := &Request{budget: &memory.Budget{}}
	pool := &Pool{}
	r.body = append(r.body, ingesttest.With(`"client_msg_no":"","header":{"sync_once":1,"red_dot":1,"no_persist":1},"subscribers":["a"],"stream_no":"\u0041","tag_key":"t","expire":1`)...)
	require.True(t, r.Decode().OK())
	require.True(t, r.Validate(10).OK())
	pool.Put(r)
	require.True(t, proto.Equal(&message.Send{}, &r.Send))
	require.Equal(t, fields{subscribers: []string{}}, r.fields)
	require.Empty(t, r.body)
	require.Empty(t, r.text)
	require.Empty(t, r.payload)
	require.Empty(t, r.issues)
	require.False(t, r.Generated)
	require.Zero(t, r.reserved)
	for _, s := range r.fields.subscribers[:cap(r.fields.subscribers)] {
		require.Empty(t, s)
	}
}
