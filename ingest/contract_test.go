package ingest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/ingest/request"
)

// TestContract follows the contract's table of fields: a body, and the response to it.
func TestContract(t *testing.T) {
	t.Parallel()
	payload := func(n int) string {
		return `"payload":"` + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, n)) + `"`
	}
	uids := func(n int, prefix string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `"%s%d"`, prefix, i)
		}
		return b.String()
	}
	x := func(n int) string { return strings.Repeat("x", n) }
	const (
		invalid  = "invalid_request"
		badJSON  = "invalid_json"
		ok       = http.StatusOK
		bad      = http.StatusBadRequest
		tooLarge = http.StatusRequestEntityTooLarge
	)
	rows := []struct {
		name   string
		body   string
		status int
		code   string
		field  string
	}{
		{"the page's example", example, ok, "", ""},
		{"only what is required", with(``), ok, "", ""},
		{"unknown fields", with(`"device_id":"d","x":{"y":[1,{"z":null}]}`), ok, "", ""},

		{"payload missing", `{"from_uid":"a","channel_id":"g","channel_type":2}`, bad, invalid, "payload"},
		{"payload null", with(`"payload":null`), bad, invalid, "payload"},
		{"payload empty", with(`"payload":""`), bad, invalid, "payload"},
		{"payload a number", with(`"payload":1`), bad, invalid, "payload"},
		{"payload an array", with(`"payload":[104,105]`), bad, invalid, "payload"},
		{"payload an object", with(`"payload":{"type":1}`), bad, invalid, "payload"},
		{"payload not base64", with(`"payload":"{}"`), bad, invalid, "payload"},
		{"payload without padding", with(`"payload":"aGk"`), bad, invalid, "payload"},
		{"payload in the URL's alphabet", with(`"payload":"-_-_"`), bad, invalid, "payload"},
		{"payload with line breaks", with(`"payload":"aG\r\nk="`), ok, "", ""},
		{"payload of 1 byte", with(payload(1)), ok, "", ""},
		{"payload of 512 KiB", with(payload(512 << 10)), ok, "", ""},
		{"payload of 512 KiB and 1 byte", with(payload(512<<10 + 1)), tooLarge, "too_large", "payload"},

		{"from_uid missing", `{"channel_id":"g","channel_type":2,"payload":"aGk="}`, bad, invalid, "from_uid"},
		{"from_uid null", with(`"from_uid":null`), bad, invalid, "from_uid"},
		{"from_uid empty", with(`"from_uid":""`), bad, invalid, "from_uid"},
		{"from_uid a number", with(`"from_uid":7`), bad, invalid, "from_uid"},
		{"from_uid of 256 bytes", with(`"from_uid":"` + x(256) + `"`), ok, "", ""},
		{"from_uid of 257 bytes", with(`"from_uid":"` + x(257) + `"`), bad, invalid, "from_uid"},
		{"from_uid of 258 bytes in 86 characters", with(`"from_uid":"` + strings.Repeat("中", 86) + `"`), bad, invalid, "from_uid"},
		{"from_uid with NUL", with(`"from_uid":"a\u0000"`), bad, invalid, "from_uid"},
		{"from_uid with a C1 control", with(`"from_uid":"a\u0085"`), bad, invalid, "from_uid"},
		{"from_uid with DEL", with(`"from_uid":"a` + "\x7f" + `"`), bad, invalid, "from_uid"},
		{"from_uid with a space", with(`"from_uid":"a b"`), ok, "", ""},
		{"from_uid with white space before", with(`"from_uid":" a"`), bad, invalid, "from_uid"},
		{"from_uid with white space behind", with(`"from_uid":"a\u3000"`), bad, invalid, "from_uid"},
		{"from_uid of white space", with(`"from_uid":" "`), bad, invalid, "from_uid"},
		{"from_uid of other white space", with(`"from_uid":"\u3000\u00a0"`), bad, invalid, "from_uid"},
		{"from_uid of white space before sender_uid", with(`"from_uid":" ","sender_uid":"a"`), bad, invalid, "from_uid"},
		{"from_uid with signs", with(`"from_uid":"a#&*>.,/ b"`), ok, "", ""},
		{"from_uid with @ in a group", with(`"from_uid":"a@b"`), ok, "", ""},
		{"from_uid with half a surrogate pair", with(`"from_uid":"a\ud800"`), bad, invalid, "from_uid"},
		{"sender_uid in its place", `{"sender_uid":"a","channel_id":"g","channel_type":2,"payload":"aGk="}`, ok, "", ""},
		{"from_uid goes before sender_uid", with(`"sender_uid":"mallory"`), ok, "", ""},
		{"sender_uid of white space", `{"sender_uid":" ","channel_id":"g","channel_type":2,"payload":"aGk="}`, bad, invalid, "sender_uid"},
		{"sender_uid beside an empty from_uid", with(`"from_uid":"","sender_uid":"a"`), ok, "", ""},
		{"sender_uid too long", `{"sender_uid":"` + x(257) + `","channel_id":"g","channel_type":2,"payload":"aGk="}`, bad, invalid, "sender_uid"},
		{"sender_uid a bool", `{"sender_uid":true,"channel_id":"g","channel_type":2,"payload":"aGk="}`, bad, invalid, "sender_uid"},

		{"channel_id missing", `{"from_uid":"a","channel_type":2,"payload":"aGk="}`, bad, invalid, "channel_id"},
		{"channel_id null", with(`"channel_id":null`), bad, invalid, "channel_id"},
		{"channel_id empty", with(`"channel_id":""`), bad, invalid, "channel_id"},
		{"channel_id an array", with(`"channel_id":["g"]`), bad, invalid, "channel_id"},
		{"channel_id of 256 bytes", with(`"channel_id":"` + x(256) + `"`), ok, "", ""},
		{"channel_id of 257 bytes", with(`"channel_id":"` + x(257) + `"`), bad, invalid, "channel_id"},
		{"channel_id of white space", with(`"channel_id":" "`), bad, invalid, "channel_id"},
		{"channel_id with a space", with(`"channel_id":"a b"`), bad, invalid, "channel_id"},
		{"channel_id with an ideographic space", with(`"channel_id":"a\u3000b"`), bad, invalid, "channel_id"},
		{"channel_id with a tab", with(`"channel_id":"a\tb"`), bad, invalid, "channel_id"},
		{"channel_id with @", with(`"channel_id":"a@b"`), bad, invalid, "channel_id"},
		{"channel_id with #", with(`"channel_id":"a#b"`), bad, invalid, "channel_id"},
		{"channel_id with &", with(`"channel_id":"a&b"`), bad, invalid, "channel_id"},
		{"channel_id with the command suffix", with(`"channel_id":"g____cmd"`), bad, invalid, "channel_id"},
		{"channel_id with dots and stars", with(`"channel_id":"a.*.>"`), ok, "", ""},
		{"channel_id in Chinese", with(`"channel_id":"频道"`), ok, "", ""},

		{"channel_type missing", `{"from_uid":"a","channel_id":"g","payload":"aGk="}`, bad, invalid, "channel_type"},
		{"channel_type 0", with(`"channel_type":0`), bad, invalid, "channel_type"},
		{"channel_type 13", with(`"channel_type":13`), ok, "", ""},
		{"channel_type 249", with(`"channel_type":249`), ok, "", ""},
		{"channel_type 255", with(`"channel_type":255`), ok, "", ""},
		{"channel_type 256", with(`"channel_type":256`), bad, invalid, "channel_type"},
		{"channel_type -1", with(`"channel_type":-1`), bad, invalid, "channel_type"},
		{"channel_type 2 less 2^32", with(`"channel_type":-4294967294`), bad, invalid, "channel_type"},
		{"channel_type 2 more than 2^32", with(`"channel_type":4294967298`), bad, invalid, "channel_type"},
		{"channel_type 258", with(`"channel_type":258`), bad, invalid, "channel_type"},
		{"channel_type beyond 64 bits", with(`"channel_type":18446744073709551618`), bad, invalid, "channel_type"},
		{"channel_type 2.0", with(`"channel_type":2.0`), bad, invalid, "channel_type"},
		{"channel_type 2e0", with(`"channel_type":2e0`), bad, invalid, "channel_type"},
		{"channel_type a string", with(`"channel_type":"2"`), bad, invalid, "channel_type"},
		{"channel_type null", with(`"channel_type":null`), bad, invalid, "channel_type"},
		{"channel_type 3, customer service", with(`"channel_type":3`), ok, "", ""},
		{"channel_type 4, community", with(`"channel_type":4`), ok, "", ""},
		{"channel_type 5, community topic", with(`"channel_type":5`), ok, "", ""},
		{"channel_type 6, info", with(`"channel_type":6`), ok, "", ""},
		{"channel_type 7, data", with(`"channel_type":7`), ok, "", ""},
		{"channel_type 8, temporary", with(`"channel_type":8`), ok, "", ""},
		{"channel_type 9, live", with(`"channel_type":9`), ok, "", ""},
		{"channel_type 10, visitors", with(`"channel_type":10`), ok, "", ""},
		{"channel_type 11, agent", with(`"channel_type":11`), ok, "", ""},
		{"channel_type 12, agent group", with(`"channel_type":12`), ok, "", ""},

		{"a person's channel", with(`"channel_type":1,"channel_id":"bob"`), ok, "", ""},
		{"a person's channel, composed", with(`"channel_type":1,"channel_id":"bob@alice"`), ok, "", ""},
		{"a person's channel, composed the other way", with(`"channel_type":1,"channel_id":"alice@bob"`), ok, "", ""},
		{"a person's channel with any uid", with(`"channel_type":1,"channel_id":"a#&*>.,/ b"`), ok, "", ""},
		{"a person's channel with any uid, composed", with(`"channel_type":1,"channel_id":"a#&*>.,/ b@alice"`), ok, "", ""},
		{"a person's channel with white space before", with(`"channel_type":1,"channel_id":" bob"`), bad, invalid, "channel_id"},
		{"a person's channel with white space before a side", with(`"channel_type":1,"channel_id":"alice@ bob"`), bad, invalid, "channel_id"},
		{"a person's channel with oneself", with(`"channel_type":1,"channel_id":"alice"`), ok, "", ""},
		{"a person's channel of others", with(`"channel_type":1,"channel_id":"bob@carol"`), bad, invalid, "channel_id"},
		{"a person's channel of others, and another fault", with(`"channel_type":1,"channel_id":"bob@carol","expire":-1`), bad, invalid, "channel_id,expire"},
		{"a person's channel of three", with(`"channel_type":1,"channel_id":"alice@bob@carol"`), bad, invalid, "channel_id"},
		{"a person's channel with one side", with(`"channel_type":1,"channel_id":"alice@"`), bad, invalid, "channel_id"},
		{"a person's channel from a uid with @", with(`"channel_type":1,"from_uid":"a@b","channel_id":"bob"`), bad, invalid, "from_uid"},
		{"a person's channel from a uid with the command suffix", with(`"channel_type":1,"from_uid":"a____cmd","channel_id":"bob"`), bad, invalid, "from_uid"},
		{"a person's channel of two uids of 256 bytes", with(`"channel_type":1,"from_uid":"` + x(256) + `","channel_id":"` + strings.Repeat("y", 256) + "@" + x(256) + `"`), ok, "", ""},

		{"flags 1", with(`"header":{"no_persist":1,"red_dot":1,"sync_once":1}`), ok, "", ""},
		{"flags at top level", with(`"no_persist":1,"red_dot":1,"sync_once":1`), ok, "", ""},
		{"flags 0", with(`"header":{"no_persist":0,"red_dot":0,"sync_once":0}`), ok, "", ""},
		{"unknown flags", with(`"header":{"x":[]}`), ok, "", ""},
		{"flags null", with(`"header":{"no_persist":null},"red_dot":null`), ok, "", ""},
		{"header null", with(`"header":null`), ok, "", ""},
		{"header a string", with(`"header":"x"`), bad, invalid, "header"},
		{"no_persist 2", with(`"header":{"no_persist":2}`), bad, invalid, "header.no_persist"},
		{"red_dot true", with(`"header":{"red_dot":true}`), bad, invalid, "header.red_dot"},
		{"sync_once -1", with(`"header":{"sync_once":-1}`), bad, invalid, "header.sync_once"},
		{"flags at top level out of range", with(`"no_persist":2,"red_dot":"1","sync_once":1.5`), bad, invalid, "no_persist,red_dot,sync_once"},

		{"client_msg_no of 256 bytes", with(`"client_msg_no":"` + x(256) + `"`), ok, "", ""},
		{"client_msg_no of 257 bytes", with(`"client_msg_no":"` + x(257) + `"`), bad, invalid, "client_msg_no"},
		{"client_msg_no of a blank", with(`"client_msg_no":" "`), bad, invalid, "client_msg_no"},
		{"client_msg_no of white space", with(`"client_msg_no":"\t\r\n\u0085\u00a0\u2003\u3000"`), bad, invalid, "client_msg_no"},
		{"client_msg_no with white space around", with(`"client_msg_no":" \u3000x "`), ok, "", ""},
		{"client_msg_no a number", with(`"client_msg_no":123`), bad, invalid, "client_msg_no"},
		{"client_msg_no null", with(`"client_msg_no":null`), ok, "", ""},
		{"client_msg_no empty", with(`"client_msg_no":""`), ok, "", ""},
		{"stream_no of 256 bytes", with(`"stream_no":"` + x(256) + `"`), ok, "", ""},
		{"stream_no of 257 bytes", with(`"stream_no":"` + x(257) + `"`), bad, invalid, "stream_no"},
		{"stream_no of blanks", with(`"stream_no":"  "`), bad, invalid, "stream_no"},
		{"stream_no empty", with(`"stream_no":""`), ok, "", ""},
		{"stream_no a number", with(`"stream_no":1`), bad, invalid, "stream_no"},
		{"stream_no null", with(`"stream_no":null`), ok, "", ""},
		{"tag_key of 256 bytes", with(`"tag_key":"` + x(256) + `"`), ok, "", ""},
		{"tag_key of a blank", with(`"tag_key":"\u3000"`), bad, invalid, "tag_key"},
		{"tag_key empty", with(`"tag_key":""`), ok, "", ""},
		{"tag_key null", with(`"tag_key":null`), ok, "", ""},
		{"tag_key of 257 bytes", with(`"tag_key":"` + x(257) + `"`), bad, invalid, "tag_key"},
		{"tag_key an object", with(`"tag_key":{}`), bad, invalid, "tag_key"},

		{"expire 0", with(`"expire":0`), ok, "", ""},
		{"expire 4294967295", with(`"expire":4294967295`), ok, "", ""},
		{"expire 4294967296", with(`"expire":4294967296`), bad, invalid, "expire"},
		{"expire -1", with(`"expire":-1`), bad, invalid, "expire"},
		{"expire a string", with(`"expire":"60"`), bad, invalid, "expire"},
		{"expire null", with(`"expire":null`), ok, "", ""},

		{"subscribers of a command", with(`"subscribers":["b","c"],"header":{"sync_once":1}`), ok, "", ""},
		{"subscribers of a plain message", with(`"subscribers":["b","c"]`), bad, invalid, "subscribers"},
		{"subscribers with empty ones, and twice the same", with(`"subscribers":["b","","b"],"sync_once":1`), ok, "", ""},
		{"subscribers with white space around one", with(`"subscribers":["b"," b "],"sync_once":1`), bad, invalid, "subscribers"},
		{"subscribers empty", with(`"subscribers":[]`), ok, "", ""},
		{"subscribers null", with(`"subscribers":null`), ok, "", ""},
		{"subscribers a string", with(`"subscribers":"b"`), bad, invalid, "subscribers"},
		{"subscribers of white space", with(`"subscribers":["b"," "],"sync_once":1`), bad, invalid, "subscribers"},
		{"subscribers with a number", with(`"subscribers":["b",1],"sync_once":1`), bad, invalid, "subscribers"},
		{"subscribers with null", with(`"subscribers":["b",null],"sync_once":1`), bad, invalid, "subscribers"},
		{"subscribers with a long uid", with(`"subscribers":["` + x(257) + `"],"sync_once":1`), bad, invalid, "subscribers"},
		{"subscribers with a control character", with(`"subscribers":["a\n b"],"sync_once":1`), bad, invalid, "subscribers"},
		{"subscribers, 10,000", with(`"subscribers":[` + uids(10_000, "u") + `],"sync_once":1`), ok, "", ""},
		{"subscribers, 10,001", with(`"subscribers":[` + uids(10_001, "u") + `],"sync_once":1`), bad, invalid, "subscribers"},
		{"subscribers in place of a channel", `{"from_uid":"a","payload":"aGk=","sync_once":1,"subscribers":["b"]}`, ok, "", ""},
		{"subscribers in place of a channel, with zero values", `{"from_uid":"a","payload":"aGk=","header":{"sync_once":1},"channel_id":"","channel_type":0,"subscribers":["b"]}`, ok, "", ""},
		{"subscribers in place of a channel, with all zero values", `{"header":{"no_persist":0,"red_dot":0,"sync_once":1},"client_msg_no":"","stream_no":"","tag_key":"","expire":0,"sender_uid":"","from_uid":"a","payload":"aGk=","channel_id":"","channel_type":0,"subscribers":["b"]}`, ok, "", ""},
		{"subscribers in place of a channel, with null", `{"from_uid":"a","payload":"aGk=","sync_once":1,"channel_id":null,"channel_type":null,"subscribers":["b"]}`, ok, "", ""},
		{"subscribers in place of a channel, with a type", `{"from_uid":"a","payload":"aGk=","sync_once":1,"channel_id":"","channel_type":2,"subscribers":["b"]}`, ok, "", ""},
		{"subscribers in place of a channel, with a type of another kind", `{"from_uid":"a","payload":"aGk=","sync_once":1,"channel_type":"0","subscribers":["b"]}`, bad, invalid, "channel_type"},
		{"subscribers in place of a channel, with a channel of white space", `{"from_uid":"a","payload":"aGk=","sync_once":1,"channel_id":" ","channel_type":0,"subscribers":["b"]}`, bad, invalid, "channel_id,channel_type"},
		{"subscribers beside a channel without a type", `{"from_uid":"a","payload":"aGk=","sync_once":1,"channel_id":"g","channel_type":0,"subscribers":["b"]}`, bad, invalid, "channel_type"},
		{"zero values in place of a channel, and no subscribers", `{"from_uid":"a","payload":"aGk=","sync_once":1,"channel_id":"","channel_type":0,"subscribers":[]}`, bad, invalid, "channel_id,channel_type"},
		{"subscribers in place of a channel, plain message", `{"from_uid":"a","payload":"aGk=","subscribers":["b"]}`, bad, invalid, "subscribers"},
		{"empty subscribers in place of a channel", `{"from_uid":"a","payload":"aGk=","sync_once":1,"subscribers":[""]}`, bad, invalid, "channel_id,channel_type"},
		{"subscribers in place of a channel, with a bad type", `{"from_uid":"a","payload":"aGk=","sync_once":1,"channel_type":256,"subscribers":["b"]}`, bad, invalid, "channel_type"},

		{"everything missing", `{}`, bad, invalid, "payload,from_uid,channel_id,channel_type"},
		{
			"everything wrong",
			`{"payload":1,"from_uid":2,"channel_id":3,"channel_type":"4","header":{"no_persist":5,"red_dot":6,"sync_once":7},"client_msg_no":8,"stream_no":9,"tag_key":10,"expire":"11","subscribers":12}`,
			bad, invalid,
			"payload,from_uid,channel_id,channel_type,header.no_persist,header.red_dot,header.sync_once,client_msg_no,stream_no,tag_key,expire,subscribers",
		},
		{"a large payload and another fault", with(payload(512<<10+1) + `,"expire":-1`), bad, invalid, "payload,expire"},
		{"a wrong type mended by a second key", with(`"expire":"1","expire":1`), bad, invalid, "expire"},
		{"a key twice, the last one good", with(`"channel_type":99,"channel_type":2`), ok, "", ""},
		{"a key twice, the last one null", with(`"from_uid":null`), bad, invalid, "from_uid"},
		{"keys in capitals are other keys", `{"FROM_UID":"a","channel_id":"g","channel_type":2,"payload":"aGk="}`, bad, invalid, "from_uid"},
		{"an escaped key", `{"from\u005fuid":"a","channel_id":"g","channel_type":2,"payload":"aGk="}`, ok, "", ""},

		{"nothing", ``, bad, badJSON, ""},
		{"blank", ` `, bad, badJSON, ""},
		{"null", `null`, bad, badJSON, ""},
		{"an array", `[]`, bad, badJSON, ""},
		{"a string", `"x"`, bad, badJSON, ""},
		{"not JSON", `from_uid=a`, bad, badJSON, ""},
		{"cut", `{"from_uid":"a"`, bad, badJSON, ""},
		{"cut in a string", `{"from_uid":"a`, bad, badJSON, ""},
		{"a comma too many", `{"from_uid":"a",}`, bad, badJSON, ""},
		{"a byte too many", with(``) + `x`, bad, badJSON, ""},
		{"two objects", with(``) + with(``), bad, badJSON, ""},
		{"white space around", " \r\n\t" + with(``) + " \r\n\t", ok, "", ""},
		{"a byte order mark", "\ufeff" + with(``), ok, "", ""},
		{"a byte order mark and white space", "\ufeff \r\n" + with(``), ok, "", ""},
		{"a byte order mark alone", "\ufeff", bad, badJSON, ""},
		{"two byte order marks", "\ufeff\ufeff" + with(``), bad, badJSON, ""},
		{"a byte order mark after white space", " \ufeff" + with(``), bad, badJSON, ""},
		{"a byte order mark of UTF-16", "\xff\xfe" + with(``), bad, badJSON, ""},
		{"an array with a byte order mark", "\ufeff[]", bad, badJSON, ""},
		{"a comment", `/**/` + with(``), bad, badJSON, ""},
		{"not UTF-8", with(`"x":"` + "\xff" + `"`), bad, badJSON, ""},
		{"a raw control character", with(`"x":"` + "\x01" + `"`), bad, badJSON, ""},
		{"a number with a leading zero", with(`"x":01`), bad, badJSON, ""},
		{"a huge number that is ignored", with(`"x":1e999999`), ok, "", ""},
		{"NaN", with(`"x":NaN`), bad, badJSON, ""},
		{"deep", with(`"x":` + strings.Repeat("[", 62) + strings.Repeat("]", 62)), ok, "", ""},
		{"too deep", with(`"x":` + strings.Repeat("[", 70) + strings.Repeat("]", 70)), bad, badJSON, ""},
		{"much too deep", strings.Repeat(`{"x":`, 100_000), bad, badJSON, ""},
		{"too large", with(`"x":"` + x(4<<20) + `"`), tooLarge, "too_large", ""},
	}
	b := setup(t, options{})
	b.sequence()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g, err := b.try(row.body)
			require.NoError(t, err)
			require.Equal(t, row.status, g.status, g.raw)
			answersAsDescribed(t, http.MethodPost, "/message/send", g.status, g.header, []byte(g.raw))
			describedAsAnswered(t, row.name, row.body, g.status)
			if row.status == ok {
				requireReply(t, g)
				return
			}
			requireShape(t, g)
			require.Equal(t, row.code, g.body["code"], g.raw)
			require.Equal(t, row.field, g.body["field"], g.raw)
			first, _, _ := strings.Cut(row.field, ",")
			reason := map[string]json.Number{"payload": "9", "channel_id": "16", "channel_type": "23"}[first] // WuKongIM's
			if reason == "" {
				reason = "0"
			}
			require.Equal(t, reason, g.body["reason"])
			for name := range strings.SplitSeq(row.field, ",") {
				require.Contains(t, g.body["msg"], name)
			}
		})
	}
}

// TestContractPage checks the page that clients read against the code: it must have every field of a body, and every error
// with its status.
func TestContractPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/reference/api.md")
	require.NoError(t, err)
	var rows []string
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "| ") {
			rows = append(rows, line)
		}
	}
	has := func(words ...string) bool {
		return slices.ContainsFunc(rows, func(row string) bool {
			return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(row, word) })
		})
	}
	for f := range request.FieldsCount {
		name := f.String()
		if !slices.Contains([]string{"sender_uid", "header", "no_persist", "red_dot", "sync_once"}, name) { // they share rows with others
			require.True(t, has("`"+name), name)
		}
		require.Contains(t, string(page), strings.TrimPrefix(name, "header."))
	}
	for o := range outcome.Count {
		s := o.Spec()
		if o == outcome.Accepted || o == outcome.Duplicate || o == outcome.ClientGone { // not reported, or 200
			continue
		}
		require.True(t, has(strconv.Itoa(s.Status), "`"+s.Code+"`"), "%d %s", s.Status, s.Code)
	}
}

// requireReply checks the shape of a 200.
func requireReply(t *testing.T, g got) {
	t.Helper()
	fields := 4
	if g.body["channel_id"] != nil { // of a temporary channel
		fields = 6
	}
	require.Len(t, g.body, fields, g.raw)
	id, err := g.body["message_id"].(json.Number).Int64()
	require.NoError(t, err)
	require.Positive(t, id)
	require.Equal(t, strconv.FormatInt(id, 10), g.body["message_idstr"])
	require.NotEmpty(t, g.body["client_msg_no"])
	require.Contains(t, g.body, "message_seq")
}

// requireShape checks the shape of every other response.
func requireShape(t *testing.T, g got) {
	t.Helper()
	require.Equal(t, "application/json", g.header.Get("Content-Type"))
	require.Len(t, g.body, 5, g.raw)
	require.Equal(t, json.Number(strconv.Itoa(g.status)), g.body["status"])
	require.Regexp(t, `^[a-z_]+$`, g.body["code"])
	require.NotEmpty(t, g.body["msg"])
	require.IsType(t, "", g.body["field"])
	require.IsType(t, json.Number(""), g.body["reason"])
	if g.status == http.StatusServiceUnavailable || g.status == http.StatusTooManyRequests {
		require.NotEmpty(t, g.header.Get("Retry-After"))
	} else {
		require.Empty(t, g.header.Get("Retry-After"))
	}
}

// TestRequests covers the HTTP around the body.
func TestRequests(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.sequence()
	rows := []struct {
		name   string
		method string
		path   string
		header map[string]string
		body   io.Reader
		status int
		code   string
		allow  string
	}{
		{"JSON", "POST", "/message/send", map[string]string{"Content-Type": "application/json"}, strings.NewReader(example), 200, "", ""},
		{"JSON with charset", "POST", "/message/send", map[string]string{"Content-Type": `Application/JSON; charset="UTF-8"`}, strings.NewReader(example), 200, "", ""},
		{"JSON in another charset", "POST", "/message/send", map[string]string{"Content-Type": "application/json; charset=gbk"}, strings.NewReader(example), 415, "unsupported_media_type", ""},
		{"no type", "POST", "/message/send", nil, strings.NewReader(example), 415, "unsupported_media_type", ""},
		{"a form", "POST", "/message/send", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, strings.NewReader(example), 415, "unsupported_media_type", ""},
		{"text", "POST", "/message/send", map[string]string{"Content-Type": "text/plain"}, strings.NewReader(example), 415, "unsupported_media_type", ""},
		{"a broken type", "POST", "/message/send", map[string]string{"Content-Type": "application/json;;"}, strings.NewReader(example), 415, "unsupported_media_type", ""},
		{"compressed", "POST", "/message/send", map[string]string{"Content-Type": "application/json", "Content-Encoding": "gzip"}, strings.NewReader(example), 415, "unsupported_media_type", ""},
		{"chunked", "POST", "/message/send", map[string]string{"Content-Type": "application/json"}, io.MultiReader(strings.NewReader(example[:40]), strings.NewReader(example[40:])), 200, "", ""},
		{"chunked and too large", "POST", "/message/send", map[string]string{"Content-Type": "application/json"}, io.LimitReader(spaces{}, 5<<20), 413, "too_large", ""},
		{"no body", "POST", "/message/send", map[string]string{"Content-Type": "application/json"}, nil, 400, "invalid_json", ""},
		{"GET", "GET", "/message/send", nil, nil, 405, "method_not_allowed", "POST"},
		{"PUT", "PUT", "/message/send", map[string]string{"Content-Type": "application/json"}, strings.NewReader(example), 405, "method_not_allowed", "POST"},
		{"a method of one's own", "SEND", "/message/send", nil, nil, 405, "method_not_allowed", "POST"},
		{"POST to a probe", "POST", "/healthz", nil, nil, 405, "method_not_allowed", "GET, HEAD"},
		{"no such route", "POST", "/message/sent", map[string]string{"Content-Type": "application/json"}, strings.NewReader(example), 404, "not_found", ""},
		{"a slash at the end", "POST", "/message/send/", map[string]string{"Content-Type": "application/json"}, strings.NewReader(example), 200, "", ""},
		{"a slash at the end and a query", "POST", "/message/send/?x=/", map[string]string{"Content-Type": "application/json"}, strings.NewReader(example), 200, "", ""},
		{"a slash at the end, another method", "GET", "/message/send/", nil, nil, 405, "method_not_allowed", "POST"},
		{"two slashes at the end", "POST", "/message/send//", nil, nil, 404, "not_found", ""},
		{"an escaped slash at the end", "POST", "/message/send%2F", nil, nil, 404, "not_found", ""},
		{"two slashes", "GET", "//", nil, nil, 404, "not_found", ""},
		{"the root", "GET", "/", nil, nil, 404, "not_found", ""},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), row.method, b.url+row.path, row.body)
			require.NoError(t, err)
			for k, v := range row.header {
				req.Header.Set(k, v)
			}
			g, err := b.do(req)
			require.NoError(t, err)
			require.Equal(t, row.status, g.status, g.raw)
			if row.status != http.StatusOK {
				requireShape(t, g)
			}
			require.Equal(t, row.code, g.code())
			require.Equal(t, row.allow, g.header.Get("Allow"))
		})
	}
}

// spaces is an endless body of spaces.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestProbes(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	for _, path := range []string{"/healthz", "/readyz"} {
		res, err := b.client.Get(b.url + path)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
}

func TestClientMsgNo(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.sequence()

	t.Run("generated if there is none", func(t *testing.T) {
		t.Parallel()
		one, err := b.try(with(``))
		require.NoError(t, err)
		two, err := b.try(with(`"client_msg_no":""`))
		require.NoError(t, err)
		require.NotEqual(t, one.body["client_msg_no"], two.body["client_msg_no"])
		id, err := uuid.Parse(one.body["client_msg_no"].(string))
		require.NoError(t, err)
		require.Equal(t, uuid.Version(7), id.Version())
	})
	for _, no := range []string{`"`, `\`, "\x00\x1f\x7f", "\t\r\nx", strings.Repeat("😀", 64), "é中😀\u2028", "</script>", "\ufffd"} {
		t.Run(fmt.Sprintf("echoed %q", no), func(t *testing.T) {
			t.Parallel()
			g, err := b.try(with(`"client_msg_no":` + quoted(no)))
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, g.status, g.raw)
			require.Equal(t, no, g.body["client_msg_no"])
		})
	}
}

// TestPayloadRulesWarn: the default accepts everything, and counts violations.
func TestPayloadRulesWarn(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	require.Equal(t, http.StatusOK, b.post(example).status, "the page's example holds no JSON")
	require.Equal(t, http.StatusOK, b.post(with(`"payload":"`+base64.StdEncoding.EncodeToString([]byte(`{"type":99,"cmd":"c","param":{}}`))+`"`)).status)
	require.Equal(t, http.StatusOK, b.post(with(`"payload":"`+base64.StdEncoding.EncodeToString([]byte(`{"type":1,"content":"x"}`))+`"`)).status)
	require.InDelta(t, 1, b.metric("sendhouse_ingest_payload_violations_total", `rule="not_json"`), 0)
	require.InDelta(t, 1, b.metric("sendhouse_ingest_payload_violations_total", `rule="command_flags"`), 0)
	require.InDelta(t, 0, b.metric("sendhouse_ingest_payload_violations_total", `rule="text"`), 0)
}

func TestPayloadRulesOff(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, config: func(c *Config) { c.PayloadRules = request.PayloadRulesOff }})
	b.sequence()
	require.Equal(t, http.StatusOK, b.post(example).status)
	require.InDelta(t, 0, b.metric("sendhouse_ingest_payload_violations_total", `rule="not_json"`), 0)
}

func TestPayloadRulesEnforce(t *testing.T) {
	t.Parallel()
	b := setup(t, enforcing())
	b.sequence()
	g := b.post(with(`"payload":"` + base64.StdEncoding.EncodeToString([]byte(`{"type":1}`)) + `"`))
	require.Equal(t, http.StatusBadRequest, g.status, g.raw)
	requireShape(t, g)
	require.Equal(t, "invalid_payload", g.code())
	require.Equal(t, "payload", g.body["field"])
	require.Equal(t, json.Number("9"), g.body["reason"])
	require.Contains(t, g.body["msg"], `rule "text": content is required`)
}

func TestSendExample(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.sequence()

	first := b.post(example)
	require.Equal(t, http.StatusOK, first.status, first.raw)
	require.Equal(t, "application/json", first.header.Get("Content-Type"))
	require.Equal(t, json.Number("1"), first.body["message_seq"])
	require.Equal(t, "client_msg_123", first.body["client_msg_no"])
	require.Equal(t, first.body["message_id"], json.Number(first.body["message_idstr"].(string)))
	require.Empty(t, first.header.Get("Idempotent-Replayed"))

	again := b.post(example)
	require.Equal(t, first.raw, again.raw)
	require.Equal(t, http.StatusOK, again.status)
	require.Equal(t, "true", again.header.Get("Idempotent-Replayed"))

	other := b.post(`{"client_msg_no":"client_msg_123","from_uid":"user123","channel_id":"group123","channel_type":2,"payload":"aGk="}`)
	require.Equal(t, http.StatusConflict, other.status)
	require.Equal(t, "client_msg_no_conflict", other.code())
	require.Equal(t, "client_msg_no", other.body["field"])
	require.Equal(t, json.Number("28"), other.body["reason"])
}
