package request

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/internal/ingesttest"
)

// scan accepts what clients send, and leaves what it cannot read to the decoder.
func TestScanTakesTheUsual(t *testing.T) {
	t.Parallel()
	pool := NewPool(4<<20, 1<<30)
	for _, body := range []string{
		ingesttest.Example, ingesttest.BenchBody(1), ingesttest.BenchBody(2_000_000),
		`{}`, ` { } `, `{"header":{}}`, "\r\n{\t\"from_uid\" : \"u\" , \"channel_type\" : 2 }\n",
		`{"from_uid":"","channel_id":"日本","payload":"","tag_key":"t","stream_no":"s"}`,
		`{"expire":999999999999999999}`, `{"expire":0,"expire":10}`, `{"payload":"eA==","payload":"eXk="}`,
		`{"header":{"red_dot":1},"header":{"sync_once":1}}`, `{"no_persist":1,"header":{"red_dot":1}}`,
	} {
		require.True(t, compareScan(t, pool, []byte(body)), body)
	}
	for _, body := range []string{
		``, ` `, `{`, `}`, `{}x`, `{} {}`, `[]`, `{"from_uid":"u"`, `{"from_uid":"u"}}`, `{"from_uid":"u",}`, `{,"from_uid":"u"}`, `{"from_uid" "u"}`, `{"from_uid":"u" "expire":1}`,
		`{"from_uid":null}`, `{"from_uid":1}`, `{"from_uid":"\n"}`, "{\"from_uid\":\"\n\"}", "{\"from_uid\":\"\xff\"}", `{"from_ui\u0064":"u"}`, `{"from_uid":"u}`,
		`{"expire":-1}`, `{"expire":01}`, `{"expire":1.0}`, `{"expire":1e2}`, `{"expire":}`, `{"expire":1000000000000000000}`, `{"expire":12`, `{"expire":1x}`, `{"expire":"1"}`,
		`{"payload":"eA"}`, `{"payload":"*"}`, "{\"payload\":\"eA\n==\"}", `{"subscribers":[]}`, `{"x":1}`, `{"no_persist":null}`,
		`{"header":null}`, `{"header":{"x":1}}`, `{"header":{"red_dot":1,}}`, `{"header":{"red_dot":1}`, `{"header":{"red_dot":1`,
	} {
		require.False(t, compareScan(t, pool, []byte(body)), body)
	}
}

// Every byte at every position of a word, since eight are examined together.
func TestPlainBytes(t *testing.T) {
	t.Parallel()
	for length := range 20 {
		for at := range length {
			for c := range 256 {
				for _, filler := range []string{"a", " ", "!", "#", "[", "]", "\x7f", "\x80", "\xa2", "\xdc", "\xff"} {
					text := []byte(strings.Repeat(filler, length))
					text[at] = byte(c)
					want := length
					if c < 0x20 || c == '"' || c == '\\' {
						want = at
					}
					require.Equal(t, want, plainBytes(text), "%q", text)
				}
			}
			text := []byte(strings.Repeat("\"", length))
			copy(text, strings.Repeat("!", at)) // one less than a quote, which a borrow could turn into a match
			require.Equal(t, at, plainBytes(text), "%q", text)
		}
	}
}

// A key names the field whose errors name the key.
func TestFieldOf(t *testing.T) {
	t.Parallel()
	for f := range FieldUIDs {
		switch f {
		case fieldHeaderNoPersist, fieldHeaderRedDot, fieldHeaderSyncOnce: // no keys of the top-level object
			require.Equal(t, FieldsCount, fieldOf([]byte(f.String())))
		default:
			require.Equal(t, f, fieldOf([]byte(f.String())))
		}
	}
	require.Equal(t, FieldsCount, fieldOf([]byte("uids")), "no field of a send")
}
