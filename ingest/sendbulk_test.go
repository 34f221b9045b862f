package ingest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/ingest/request"
)

const ndjson = "application/x-ndjson"

// many is the response to many sends.
type many struct {
	got
	items []got
}

// codes are the items' codes; "" is a 200.
func (m many) codes() []string {
	codes := make([]string, 0, len(m.items))
	for _, item := range m.items {
		codes = append(codes, item.code())
	}
	return codes
}

// bulk posts a bulk, and parses the response.
func (b *bundle) bulk(t *testing.T, contentType string, body io.Reader) many {
	t.Helper()
	return takeApart(t, b.tryBulk(contentType, body))
}

// asyncBulk is bulk in the background; the function it gives waits for the answer.
func (b *bundle) asyncBulk(t *testing.T, body io.Reader, set ...string) (answer func() many) {
	t.Helper()
	c := make(chan whole, 1)
	go func() { c <- b.tryBulk(ndjson, body, set...) }()
	return func() many { return takeApart(t, receive(t, c)) }
}

// whole is a response that has been read completely.
type whole struct {
	status int
	header http.Header
	raw    []byte
	err    error
}

// tryBulk is bulk for goroutines that may not end the test. The headers in set are 1.
func (b *bundle) tryBulk(contentType string, body io.Reader, set ...string) (w whole) {
	req, err := http.NewRequest(http.MethodPost, b.url+"/message/sendbulk", body)
	if err != nil {
		return whole{err: err}
	}
	req.Header.Set("Content-Type", contentType)
	for _, name := range set {
		req.Header.Set(name, "1")
	}
	res, err := b.client.Do(req)
	if err != nil {
		return whole{err: err}
	}
	defer res.Body.Close()
	w.status, w.header = res.StatusCode, res.Header
	w.raw, w.err = io.ReadAll(res.Body)
	return w
}

func takeApart(t *testing.T, w whole) many {
	t.Helper()
	require.NoError(t, w.err)
	answersAsDescribed(t, http.MethodPost, "/message/sendbulk", w.status, w.header, w.raw)
	raw := w.raw
	m := many{got: got{status: w.status, header: w.header, raw: string(raw)}}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var elements []map[string]any
	switch {
	case w.status != http.StatusOK:
		require.NoError(t, decoder.Decode(&m.body))
		requireShape(t, m.got)
		return m
	case w.header.Get("Content-Type") == ndjson:
		require.Equal(t, strings.Count(m.raw, "\n"), strings.Count(m.raw, `{"status":`), "a line each")
		for decoder.More() {
			var element map[string]any
			require.NoError(t, decoder.Decode(&element))
			elements = append(elements, element)
		}
	default:
		require.Equal(t, "application/json", w.header.Get("Content-Type"))
		require.NoError(t, decoder.Decode(&elements))
		require.True(t, json.Valid(raw))
	}
	for _, element := range elements {
		status, err := element["status"].(json.Number).Int64()
		require.NoError(t, err)
		item := got{status: int(status), body: element}
		if status == http.StatusOK {
			require.Equal(t, element["message_id"], json.Number(element["message_idstr"].(string)))
			require.Contains(t, element, "message_seq")
			require.Contains(t, element, "client_msg_no")
		} else {
			require.Len(t, element, 5)
			require.NotEmpty(t, element["msg"])
		}
		m.items = append(m.items, item)
	}
	return m
}

// TestBulk: each item has its own outcome, in its place, in both forms.
func TestBulk(t *testing.T) {
	t.Parallel()
	conflict := `{"from_uid":"u","channel_id":"g","channel_type":2,"client_msg_no":"1","payload":"b3RoZXI="}`
	for _, form := range []string{ndjson, "application/json"} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			b := setup(t, options{})
			b.sequence()
			items := []string{
				send("g", "1"), `{"channel_type":2}`, send("g", "2"), `{"from_uid":tru}`, send("g", "1"), conflict, send("h", "3"),
				`"]},{["`, strings.Replace(send("g", "4"), "}", `,"x":"\"]}\\"}`, 1), `7`,
			}
			body := strings.Join(items, "\r\n\n") + "\n"
			if form != ndjson {
				body = " [" + strings.Join(items, " ,\n") + "] \n"
			}
			m := b.bulk(t, form, strings.NewReader(body))
			require.Equal(t, http.StatusOK, m.status, m.raw)
			require.Equal(t, form, m.header.Get("Content-Type"))
			require.Equal(t, []string{"", "invalid_request", "", "invalid_json", "", "client_msg_no_conflict", "", "invalid_json", "", "invalid_json"}, m.codes(), m.raw)
			for i, no := range map[int]string{0: "1", 2: "2", 4: "1", 6: "3", 8: "4"} {
				require.Equal(t, no, m.items[i].body["client_msg_no"])
			}
			require.Equal(t, m.items[0].body["message_id"], m.items[4].body["message_id"], "the same send twice in one bulk")
			require.Equal(t, true, m.items[4].body["idempotent_replayed"])
			require.NotContains(t, m.items[0].body, "idempotent_replayed")
			require.Equal(t, "payload,from_uid,channel_id", m.items[1].body["field"])
			require.Equal(t, json.Number("28"), m.items[5].body["reason"])
			for i, seq := range map[int]string{0: "1", 2: "2", 6: "1", 8: "3"} {
				require.Equal(t, json.Number(seq), m.items[i].body["message_seq"], "they keep their order")
			}
			require.InDelta(t, 4, b.metric("sendhouse_ingest_items_total", `reason="accepted"`), 0)
			require.InDelta(t, 3, b.metric("sendhouse_ingest_items_total", `reason="invalid_json"`), 0)
			require.InDelta(t, 1, b.metric("sendhouse_ingest_requests_total", `reason="accepted"`), 0)
			requireForgotten(t, b)
		})
	}
}

// TestBulkForms covers the syntax around the items.
func TestBulkForms(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	one := send("forms", "1")
	pretty := strings.ReplaceAll(one, ",", ",\n")
	for _, row := range []struct {
		name, form, body string
		code             string   // of the whole
		codes            []string // of the items
	}{
		{"empty lines", ndjson, "", "invalid_json", nil},
		{"blank lines", ndjson, " \n\r\n", "invalid_json", nil},
		{"nothing", "application/json", "", "invalid_json", nil},
		{"an empty array", "application/json", " [ ] ", "", []string{}},
		{"no last line feed", ndjson, one + "\n" + one, "", []string{"", ""}},
		{"lines that are called JSON", "application/json; charset=utf-8", one + "\n" + one + "\n", "", []string{"", ""}},
		{"another name for NDJSON", "application/jsonl", one, "", []string{""}},
		{"a line that is an array", ndjson, "[" + one + "]\n" + one, "", []string{"invalid_json", ""}},
		{"elements over many lines", "application/json", "[\n" + pretty + "\n,\n" + pretty + "\n]", "", []string{"", ""}},
		{"a bad line in the middle", ndjson, one + "\n{\"from_uid\":\n" + one + "\n", "", []string{"", "invalid_json", ""}},
		{"a bad element in the middle", "application/json", "[" + one + `,{"a":1]},` + one + "]", "", []string{"", "invalid_json", ""}},
		{"a comma too many", "application/json", "[" + one + ",]", "", []string{"", "invalid_json"}},
		{"two commas", "application/json", "[" + one + ",," + one + "]", "", []string{"", "invalid_json", ""}},
		{"only a comma", "application/json", "[,]", "", []string{"invalid_json", "invalid_json"}},
		{"data after the array", "application/json", "[" + one + "] x", "", []string{"", "invalid_json"}},
		{"another array after it", "application/json", "[" + one + "][" + one + "]", "", []string{"", "invalid_json"}},
		{"an array that does not end", "application/json", "[" + one + "," + one, "", []string{"", "invalid_json"}},
		{"invalid UTF-8", ndjson, one + "\n{\"from_uid\":\"\xff\"}\n" + one, "", []string{"", "invalid_json", ""}},
		{"brackets 100,000 deep", ndjson, strings.Repeat("[", 100_000) + "\n" + one, "", []string{"invalid_json", ""}},
		{"text", "text/plain", one, "unsupported_media_type", nil},
		{"no type", "", one, "unsupported_media_type", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			m := b.bulk(t, row.form, strings.NewReader(row.body))
			if row.code != "" {
				require.Equal(t, row.code, m.code(), m.raw)
				return
			}
			require.Equal(t, row.codes, m.codes(), m.raw)
		})
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/message/sendbulk", strings.NewReader(one))
	require.NoError(t, err)
	req.Header.Set("Content-Type", ndjson)
	req.Header.Set("Content-Encoding", "gzip")
	g, err := b.do(req)
	require.NoError(t, err)
	require.Equal(t, "unsupported_media_type", g.code())
}

func TestBulkOfTooMany(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 2})
	b.sequence()
	var body strings.Builder
	for i := range bulkItemsMax + 1 {
		body.WriteString(send(fmt.Sprintf("g%d", i%7), fmt.Sprint(i)) + "\n")
	}
	m := b.bulk(t, ndjson, strings.NewReader(body.String()))
	require.Len(t, m.items, bulkItemsMax+1)
	for i, item := range m.items[:bulkItemsMax] {
		require.Equal(t, http.StatusOK, item.status, item.body)
		require.Equal(t, fmt.Sprint(i), item.body["client_msg_no"])
		require.Equal(t, json.Number(fmt.Sprint(i/7+1)), item.body["message_seq"])
	}
	require.Equal(t, "too_large", m.items[bulkItemsMax].code())
	require.Contains(t, m.items[bulkItemsMax].body["msg"], "10000 items")

	before := b.service.requests.Budget.Left()
	require.Equal(t, int64(defaultConfig(t).BodiesBytesMax), before, "all of it was given back")
}

func TestBulkTooLarge(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	line := send("large", "1") + "\n"
	padded := line + strings.Repeat(" ", request.BulkBytesMax-len(line))

	m := b.bulk(t, ndjson, strings.NewReader(padded))
	require.Equal(t, []string{""}, m.codes(), "16 MiB are taken")
	m = b.bulk(t, ndjson, strings.NewReader(padded+" "))
	require.Equal(t, "too_large", m.code(), "said by Content-Length, so nothing is read")
	m = b.bulk(t, ndjson, io.MultiReader(strings.NewReader(padded), strings.NewReader(" ")))
	require.Equal(t, []string{"", "too_large"}, m.codes(), "found out on the way")

	large := `{"x":"` + strings.Repeat("x", 5<<20) + `"}` + "\n"
	m = b.bulk(t, ndjson, strings.NewReader(line+large+line))
	require.Equal(t, []string{"", "too_large", ""}, m.codes(), "an item that is too large is one item")
	require.Equal(t, int64(b.service.cfg.BodiesBytesMax), b.service.requests.Budget.Left(), "all of it was given back")
}

// splitterBytesFirst is what a bulk takes from the budget at its start.
const splitterBytesFirst = 32 << 10

// TestBulkSharesTheBudget: without memory a bulk, or its items, are refused.
func TestBulkSharesTheBudget(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, config: func(c *Config) { c.BodiesBytesMax = 8 << 20 }})
	b.sequence()
	budget := b.service.requests.Budget
	line := send("g", "1") + "\n"
	require.True(t, budget.Take(8<<20))
	require.Equal(t, "overloaded", b.bulk(t, ndjson, strings.NewReader(line)).code())
	budget.GiveBack(splitterBytesFirst + 600) // the buffer, and one item
	require.Equal(t, []string{"", "overloaded"}, b.bulk(t, ndjson, strings.NewReader(line+line)).codes())
	budget.GiveBack(8<<20 - splitterBytesFirst - 600)
	require.Equal(t, int64(8<<20), budget.Left())
}

// TestBulkEndsWithoutMemory: if the budget has no room for an item the bulk ends there, whatever else follows, and the
// items accepted before are answered.
func TestBulkEndsWithoutMemory(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	budget := b.service.requests.Budget
	all := budget.Left()
	line := send("g", "1") + "\n"
	const rest = 100
	conn := b.dial(t)
	_, err := fmt.Fprintf(conn, "POST /message/sendbulk HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", ndjson, len(line)+2*rest+1, line)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return budget.Left() < all-splitterBytesFirst }, testTimeout, time.Millisecond)
	left := budget.Left()
	require.True(t, budget.Take(left))
	// One byte of the body is missing, so the bulk does not end because its body does.
	_, err = io.WriteString(conn, strings.Repeat("x\n", rest))
	require.NoError(t, err)

	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	m := takeApart(t, whole{status: res.StatusCode, header: res.Header, raw: raw})
	require.Equal(t, []string{"", "overloaded"}, m.codes())
	require.Equal(t, "1", m.items[0].body["client_msg_no"])
	require.True(t, res.Close, "the rest of the body is not read")

	budget.GiveBack(left)
	require.Eventually(t, func() bool { return budget.Left() == all }, testTimeout, time.Millisecond)
	requireForgotten(t, b)
}

// TestFlightCountsWhatItKeeps: recycled memory of an earlier flight is charged too.
func TestFlightCountsWhatItKeeps(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	budget := b.service.requests.Budget
	all := budget.Left()
	reused := 0
	for range 100 { // the pool may lose some
		f := b.service.newFlight()
		kept := int64(cap(f.items))*int64(unsafe.Sizeof(item{})) + int64(cap(f.text))
		require.Equal(t, all-kept, budget.Left())
		if kept > 0 {
			reused++
		}
		require.True(t, f.tryPush(t.Context(), nil, outcome.Problem{Outcome: outcome.InvalidJSON}))
		f.end()
		require.Equal(t, all, budget.Left())
	}
	require.NotZero(t, reused)

	require.True(t, budget.Take(all))
	f := b.service.newFlight()
	require.Zero(t, cap(f.items), "if the budget has no room for it, it is released")
	require.False(t, f.tryPush(t.Context(), nil, outcome.Problem{Outcome: outcome.InvalidJSON}))
	require.Empty(t, f.items)
	f.end()
}

// TestBulkLeavesTogether: a bulk does not start with a group commit of one.
func TestBulkLeavesTogether(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)
	answer := b.asyncBulk(t, strings.NewReader(strings.Repeat(with(``)+"\n", 40)))
	r := wal.Next()
	require.Len(t, r.Sends, 40, "they come in one packet")
	r.Answer(1)
	for i, item := range answer().items {
		require.Equal(t, json.Number(fmt.Sprint(i+1)), item.body["message_seq"])
	}
}

// TestBulkOverload: items for which the queue has no room wait for the bulk's own queued items, as long as these are
// answered.
func TestBulkOverload(t *testing.T) {
	t.Parallel()
	fill := func(t *testing.T, items int) (b *bundle, wal *scripted, second *record, answer func() many) {
		b = setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) { c.QueueSendsMax = 10 }})
		t.Cleanup(func() { requireForgotten(t, b) })
		wal = b.script(0)
		first := b.async(send("g", "first"))
		r := wal.Next()
		answer = b.asyncBulk(t, strings.NewReader(strings.Repeat(with(``)+"\n", items)))
		b.queued(0, 10)
		r.Answer(1)
		require.Equal(t, http.StatusOK, receive(t, first).status)
		second = wal.Next()
		require.Len(t, second.Sends, 10)
		return b, wal, second, answer
	}
	t.Run("answered", func(t *testing.T) {
		t.Parallel()
		_, wal, r, answer := fill(t, 15)
		r.Answer(2)
		r = wal.Next()
		require.Len(t, r.Sends, 5)
		r.Answer(12)
		require.Equal(t, make([]string, 15), answer().codes())
	})
	t.Run("failing", func(t *testing.T) {
		t.Parallel()
		b, wal, r, answer := fill(t, 35)
		r.Refuse(503, 10008, "JetStream system temporarily unavailable")
		r = wal.Next()
		require.Len(t, r.Sends, 10)
		require.Eventually(t, func() bool { // then the response has started, and all items have been enqueued
			return b.metric("sendhouse_ingest_items_total", `reason="wal_unavailable"`) == 10
		}, testTimeout, time.Millisecond)
		r.Answer(2)
		r = wal.Next()
		require.Len(t, r.Sends, 10)
		r.Answer(12)
		codes := answer().codes()
		require.Equal(t, slices.Repeat([]string{"wal_unavailable"}, 10), codes[:10])
		require.Equal(t, make([]string, 20), codes[10:30])
		require.Equal(t, slices.Repeat([]string{"overloaded"}, 5), codes[30:])
	})
}

// TestBulkWindow: a bulk waits for its first answers before it takes more than the window.
func TestBulkWindow(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)
	const total = flightItemsMax + 500
	answer := b.asyncBulk(t, strings.NewReader(strings.Repeat(with(``)+"\n", total)))
	seen := 0
	for seen < total {
		r := wal.Next()
		if seen == 0 {
			b.queued(0, flightItemsMax-len(r.Sends)) // and no more
		}
		r.Answer(uint64(seen + 1))
		seen += len(r.Sends)
	}
	m := answer()
	require.Len(t, m.items, total)
	require.Equal(t, json.Number(fmt.Sprint(total)), m.items[total-1].body["message_seq"])
	requireForgotten(t, b)
}

// TestBulkWithoutAnswers: the items' timeouts run concurrently, not one after the other.
func TestBulkWithoutAnswers(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, config: func(c *Config) { c.AckTimeout, c.AnswerTimeout = 200*time.Millisecond, 200*time.Millisecond }})
	m := b.bulk(t, ndjson, strings.NewReader(strings.Repeat(with(``)+"\n", 300)))
	require.Len(t, m.items, 300)
	for _, item := range m.items {
		require.Equal(t, http.StatusServiceUnavailable, item.status)
		require.Contains(t, item.body["msg"], "made for this request")
	}
	requireForgotten(t, b)
}

// TestBulkClientGoesAway: the client disconnects in the middle of its body, or while it waits. Complete items are
// committed, and nothing is leaked.
func TestBulkClientGoesAway(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("whole=%t", whole), func(t *testing.T) {
			t.Parallel()
			b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) {
				c.AckTimeout, c.AnswerTimeout = shortTimeout, shortTimeout
			}})
			wal := b.script(0)
			conn, err := net.Dial("tcp", b.service.Addr().String())
			require.NoError(t, err)
			line := send("g", "1") + "\n"
			length := len(line) * 2
			if !whole {
				length += 100
			}
			_, err = fmt.Fprintf(conn, "POST /message/sendbulk HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s%s", ndjson, length, line, line)
			require.NoError(t, err)
			r := wal.Next()
			require.NoError(t, conn.Close())
			require.Eventually(t, func() bool { return b.service.inFlight.Load() == 0 }, testTimeout, time.Millisecond)
			r.Answer(1)
			require.NotEmpty(t, r.Sends)
			requireForgotten(t, b)
			require.Equal(t, int64(b.service.cfg.BodiesBytesMax), b.service.requests.Budget.Left())
		})
	}
}

// TestBulkDrain: a bulk that has started when the process stops is answered.
func TestBulkDrain(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	wal := b.script(0)
	reader, writer := io.Pipe()
	answer := b.asyncBulk(t, reader)
	_, err := io.WriteString(writer, send("g", "1")+"\n")
	require.NoError(t, err)
	r := wal.Next()
	b.service.uploadGrace = testTimeout
	b.stop()
	require.Eventually(t, func() bool { return errors.Is(b.service.Check(), ErrNotServing) }, testTimeout, time.Millisecond)
	_, err = io.WriteString(writer, send("g", "2")+"\n")
	require.NoError(t, err)
	require.NoError(t, writer.Close())
	r.Answer(1)
	require.Equal(t, []string{"", "draining"}, answer().codes())
}
