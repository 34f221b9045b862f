package request

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/ingest/memory"
	"github.com/sendhouse/sendhouse/ingest/outcome"
)

// splits keeps the buffers of one split for the next, as the service does.
var splits = memory.NewBuffers(splitterBytesFirst)

// split splits a body read from in.
func split(in io.Reader, lines bool) (items []string, p outcome.Problem) {
	b := memory.NewBudget(1 << 40)
	s := newSplitter(in, lines, splits, b)
	defer s.Close()
	s.Before = func() {}
	if p := s.Begin(); !p.OK() {
		return nil, p
	}
	for {
		text, more, p := s.Next()
		if !more {
			return items, p
		}
		items = append(items, string(text))
	}
}

// TestSplitterProperty: any elements, in pieces of any size.
func TestSplitterProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.OneOf(
			rapid.Map(rapid.String(), func(s string) any { return s }),
			rapid.Map(rapid.SliceOf(rapid.StringMatching(`[\[\]{}",\\a]*`)), func(s []string) any { return s }),
			rapid.Map(rapid.MapOf(rapid.String(), rapid.Int()), func(m map[string]int) any { return m }),
		), 1, 10).Draw(t, "values")
		var want []string
		for _, v := range values {
			text, err := json.Marshal(v)
			require.NoError(t, err)
			want = append(want, string(text))
		}
		lines := rapid.Bool().Draw(t, "lines")
		body := strings.Join(want, "\n") + "\n"
		if !lines {
			body = "[" + strings.Join(want, ",") + "]"
		}
		for _, in := range []io.Reader{strings.NewReader(body), iotest.OneByteReader(strings.NewReader(body)), iotest.DataErrReader(strings.NewReader(body))} {
			items, p := split(in, lines)
			require.True(t, p.OK(), p.Msg)
			require.Equal(t, want, items)
		}
	})
}

// TestSplitterBuffer: items larger than the buffer, at every offset in it.
func TestSplitterBuffer(t *testing.T) {
	t.Parallel()
	var want []string
	for i := range 60 {
		want = append(want, strings.Repeat("x", 1+(i*7919)%(3*splitterBytesFirst)))
	}
	for _, in := range []io.Reader{strings.NewReader(strings.Join(want, "\n")), iotest.HalfReader(strings.NewReader(strings.Join(want, "\n")))} {
		items, p := split(in, true)
		require.True(t, p.OK())
		require.Equal(t, want, items)
	}
}

// TestSplitterBudget: a recycled buffer is charged as if it were new; if the budget has no room for it, a small one is
// used.
func TestSplitterBudget(t *testing.T) {
	t.Parallel()
	const grown = 8 * splitterBytesFirst
	for _, c := range []struct{ left, takes int64 }{
		{left: grown, takes: grown},
		{left: grown - 1, takes: splitterBytesFirst},
		{left: splitterBytesFirst, takes: splitterBytesFirst},
		{left: splitterBytesFirst - 1, takes: 0},
	} {
		b, pool := memory.NewBudget(c.left), memory.NewBuffers(grown)
		s := newSplitter(strings.NewReader("{}"), true, pool, b)
		s.Before = func() {}
		p := s.Begin()
		require.Equal(t, c.takes > 0, p.OK(), p.Msg)
		require.Equal(t, c.left-c.takes, b.Left())
		s.Close()
		require.Equal(t, c.left, b.Left())
	}
}

// FuzzSplitter: every array that encoding/json reads yields the same elements here, lines are lines, and the sizes of the
// pieces read make no difference.
func FuzzSplitter(f *testing.F) {
	for _, body := range []string{
		`[]`, `[1,{"a":["]"]},"\\\"]"]`, "{}\n{}\n", `[,]`, `[{]},1`, `["`, "\n[1] x",
		"\ufeff[1]", "\ufeff\n{}\n\ufeff{}\n", "\ufeff", "\ufeff \n", "\xef\xbb", "\ufeff\ufeff[]",
	} {
		f.Add([]byte(body), true)
		f.Add([]byte(body), false)
	}
	examples := exampleSends()
	f.Add([]byte(strings.Join(examples, "\n")), true)
	f.Add([]byte("["+strings.Join(examples, ",\n")+"]"), false)
	f.Fuzz(func(t *testing.T, body []byte, lines bool) {
		items, p := split(strings.NewReader(string(body)), lines)
		again, q := split(iotest.OneByteReader(strings.NewReader(string(body))), lines)
		require.Equal(t, items, again)
		require.Equal(t, p, q)
		body = bytes.TrimPrefix(body, []byte("\ufeff"))
		if lines {
			var want []string
			for line := range strings.SplitSeq(string(body), "\n") {
				if line = strings.Trim(line, " \t\r\n"); line != "" {
					want = append(want, line)
				}
			}
			require.Equal(t, want, items)
			require.Equal(t, want != nil, p.OK(), "only a body with no line at all is refused")
		}
		var want []json.RawMessage
		if lines || json.Unmarshal(body, &want) != nil || want == nil {
			return
		}
		require.True(t, p.OK())
		require.Len(t, items, len(want))
		for i := range want {
			require.Equal(t, string(want[i]), items[i])
		}
	})
}
