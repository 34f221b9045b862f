package request

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/internal/ingesttest"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// FuzzManage: any body is either refused or names a channel and uids that can be stored.
func FuzzManage(f *testing.F) {
	for _, body := range []string{
		`{"channel_id":"g","channel_type":2,"subscribers":["a"],"reset":1,"ban":1}`, `{"uids":["a","b"]}`, `{"channel_id":"p","channel_type":1,"uids":[]}`,
		`{"channel_id":"g","channel_type":2,"subscribers":null,"temp_subscriber":0}`, `[]`, ``, `{"reset":1e9}`, `{"uids":["\ud800"]}`,
	} {
		f.Add(body)
	}
	takes := []Accepts{
		{Uids: FieldSubscribers, UidsMayLack: true, Flags: true, Reset: true}, {Uids: FieldsCount, NoPerson: true},
		{Uids: FieldSubscribers, Reset: true, GroupUnsaid: true, NoPerson: true}, {Uids: FieldUIDs}, {NoChannel: true, Uids: FieldUIDs},
	}
	pool := NewPool(4<<20, 1<<30)
	f.Fuzz(func(t *testing.T, body string) {
		for _, takes := range takes {
			req, ok := pool.GetWith([]byte(body))
			require.True(t, ok)
			m, p := req.DecodeManaged(takes)
			pool.Put(req)
			if !p.OK() {
				require.NotEmpty(t, p.Msg)
				require.Equal(t, http.StatusBadRequest, p.Outcome.Spec().Status)
				continue
			}
			require.True(t, takes.NoChannel || m.Channel.Type.Valid() && m.Channel.Name != "")
			require.True(t, takes.UidsMayLack || takes.Uids == FieldsCount || len(m.Uids) > 0)
			for _, uid := range m.Uids {
				require.Empty(t, message.UIDRule(uid, 0))
			}
		}
	})
}

// BenchmarkDecode measures decoding and validating the example body of the seed page.
func BenchmarkDecode(b *testing.B) {
	bodies := map[string]string{
		"example":   ingesttest.Example,
		"person":    `{"header":{"no_persist":0,"red_dot":1,"sync_once":0},"client_msg_no":"1712-1-77","from_uid":"u13","channel_id":"c4711","channel_type":1,"expire":0,"payload":"eyJ0eXBlIjoxLCJjb250ZW50IjoiSGVsbG8gV29ybGQsIHRoaXMgaXMgYSB0ZXN0IG1lc3NhZ2UgZm9yIGJlbmNoIn0="}`,
		"generated": `{"from_uid":"u13","channel_id":"c4711","channel_type":2,"payload":"aGk="}`,
		"64KiB":     `{"from_uid":"u13","channel_id":"c4711","channel_type":2,"client_msg_no":"1","payload":"` + strings.Repeat("aaaa", 64<<10/3) + `"}`,
	}
	for name, body := range bodies {
		b.Run(name, func(b *testing.B) {
			pool := NewPool(4<<20, 1<<30)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				r := pool.Get()
				r.body = append(r.body, body...)
				if p := r.Decode(); !p.OK() {
					b.Fatal(p)
				}
				if p := r.Validate(64 << 10); !p.OK() {
					b.Fatal(p)
				}
				pool.Put(r)
			}
		})
	}
}

// BenchmarkEncodingJSON measures decoding the same body with the standard library, without validation.
func BenchmarkEncodingJSON(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := referenceDecode([]byte(ingesttest.Example)); err != nil {
			b.Fatal(err)
		}
	}
}

func TestEveryFieldHasAName(t *testing.T) {
	t.Parallel()
	for f := range FieldsCount {
		require.NotEmpty(t, f.String())
	}
}

// Large recycled buffers are charged to the budget as soon as they are handed out.
func TestLargeBuffersCount(t *testing.T) {
	t.Parallel()
	pool := NewPool(4<<20, 100<<10)
	r := pool.Get()
	require.Equal(t, bodyBytesFirst, cap(r.body))
	for cap(r.body) < 64<<10 {
		r.body = r.body[:cap(r.body)]
		require.True(t, r.grow(1<<20))
	}
	pool.Put(r)
	require.Equal(t, int64(100<<10), pool.Budget.Left())
	require.True(t, pool.Budget.Take(90<<10))
	require.Equal(t, bodyBytesFirst, cap(pool.Get().body))
}
