package history

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// gotItem is an item of the answer to a batch.
type gotItem struct {
	ChannelID   string `json:"channel_id"`
	ChannelType int    `json:"channel_type"`
	got
}

// batch posts items to /channel/messagesyncbatch.
func (b *bundle) batch(items ...string) []gotItem {
	b.t.Helper()
	g := b.post(pathSyncBatch, `{"login_uid":"u","items":[`+strings.Join(items, ",")+`]}`)
	require.Equal(b.t, http.StatusOK, g.status, g.raw)
	var reply struct {
		Items []json.RawMessage `json:"items"`
	}
	require.NoError(b.t, json.Unmarshal([]byte(g.raw), &reply))
	require.Len(b.t, reply.Items, len(items))
	found := make([]gotItem, len(items))
	for i, raw := range reply.Items {
		require.NoError(b.t, json.Unmarshal(raw, &found[i]))
		found[i].raw = string(raw)
	}
	return found
}

// Each item is answered as messagesync answers it, in its place.
func TestBatch(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	for _, channel := range []string{"g", "h"} {
		var all []*message.Message
		for seq := 1; seq <= 30; seq++ {
			all = append(all, sample(channel, seq))
		}
		b.insert(all...)
	}
	m := sample(message.PersonChannel("u", "bob"), 1)
	m.ChannelType = 1
	b.insert(m)
	items := []string{
		`{"channel_id":"g","channel_type":2,"limit":3}`,
		`{"channel_id":"unknown","channel_type":2}`,
		`{"channel_id":"h","channel_type":2,"start_message_seq":4,"end_message_seq":9,"pull_mode":1,"include_event_meta":1,"event_summary_mode":"basic"}`,
		`{"channel_id":"g","channel_type":2,"start_message_seq":7,"end_message_seq":7}`,
		`{"login_uid":"carol","channel_id":"bob","channel_type":1}`,
		`{"channel_id":"bob@u","channel_type":1}`,
		`{"channel_id":"g","channel_type":2,"start_message_seq":5,"limit":9}`,
	}
	for i, item := range b.batch(items...) {
		var asked struct {
			ChannelID   string `json:"channel_id"`
			ChannelType int    `json:"channel_type"`
		}
		require.NoError(t, json.Unmarshal([]byte(items[i]), &asked))
		require.Equal(t, asked.ChannelID, item.ChannelID)
		require.Equal(t, asked.ChannelType, item.ChannelType)
		one := b.sync(`{` + strings.TrimPrefix(items[i], `{`)[:len(items[i])-2] + `,"login_uid":"u"}`)
		require.Equal(t, http.StatusOK, one.status, one.raw)
		rest := strings.Replace(item.raw, fmt.Sprintf(`"channel_id":%q,"channel_type":%d,`, asked.ChannelID, asked.ChannelType), "", 1)
		require.JSONEq(t, one.raw, rest)
	}
}

// Together the pages are no larger than one: what has no room is asked for again, and all of it comes.
func TestBatchLarge(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.service.cfg.HistoryTimeout = time.Minute // more than the setting allows: with the race detector 8 MiB take a while
	const channels, each = 5, 40
	for n := range channels {
		var all []*message.Message
		for seq := 1; seq <= each; seq++ {
			m := sample(fmt.Sprint("g", n), seq)
			m.Payload = make([]byte, 64<<10)
			all = append(all, m)
		}
		b.insert(all...)
	}
	have := make([]int, channels)
	for rounds := 0; ; rounds++ {
		require.Less(t, rounds, 4)
		var items []string
		var of []int
		for n := range channels {
			if have[n] < each {
				items = append(items, fmt.Sprintf(`{"channel_id":"g%d","channel_type":2,"start_message_seq":%d,"pull_mode":1,"limit":1000}`, n, have[n]+1))
				of = append(of, n)
			}
		}
		if len(items) == 0 {
			break
		}
		bytes := 0
		for i, item := range b.batch(items...) {
			bytes += len(item.raw)
			for _, seq := range item.seqs() {
				have[of[i]]++
				require.EqualValues(t, have[of[i]], seq)
			}
			require.Equal(t, have[of[i]] < each, item.More == 1, item.ChannelID)
		}
		require.LessOrEqual(t, bytes, 8<<20)
	}
}

// slowAfter is a table that hangs from the n-th page on.
type slowAfter struct {
	table
	n int
}

func (s *slowAfter) Page(ctx context.Context, channel clickhouse.Channel, r clickhouse.Range, each func(*clickhouse.Row) error) error {
	if s.n--; s.n < 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.table.Page(ctx, channel, r, each)
}

// What was read in time is answered, and the rest says that there is more.
func TestBatchOutOfTime(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.insert(sample("g", 1))
	whole := b.service.table
	b.service.table = &slowAfter{table: whole, n: 2}
	b.service.cfg.HistoryTimeout = 2 * time.Second
	const item = `{"channel_id":"g","channel_type":2}`
	items := b.batch(item, item, item, item)
	require.Equal(t, []uint64{1}, items[0].seqs())
	require.Equal(t, []uint64{1}, items[1].seqs())
	require.Zero(t, items[1].More)
	for _, late := range items[2:] {
		require.Empty(t, late.seqs())
		require.Equal(t, 1, late.More)
		require.Equal(t, "history_timeout", late.Code)
		require.Contains(t, late.raw, `"error":"ClickHouse did not answer in time"`)
	}
	require.NotContains(t, items[1].raw, `"error"`)
	b.service.table = &slowAfter{table: whole}
	g := b.post(pathSyncBatch, `{"login_uid":"u","items":[`+item+`]}`)
	require.Equal(t, http.StatusServiceUnavailable, g.status)
	require.Equal(t, "history_timeout", g.Code)
}

func TestBatchRefuses(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	const good = `{"channel_id":"g","channel_type":2}`
	for _, row := range []struct {
		body, code, field, msg string
		reason                 int
	}{
		{`{}`, "invalid_request", "items", "items is required", 0},
		{`{"items":null,"login_uid":"u"}`, "invalid_request", "items", "items is required", 0},
		{`{"items":[` + good + `]}`, "invalid_request", "login_uid", "login_uid is required", 0},
		{`{"login_uid":"u","items":{}}`, "invalid_request", "items", "must be a list of objects", 0},
		{`{"login_uid":"u","items":[` + good + `,7]}`, "invalid_request", "items", "must be a list of objects", 0},
		{`{"login_uid":"u","items":[` + good + `,{"channel_id":"a b","channel_type":2},{"channel_id":"g","limit":"x"}]}`, "invalid_request",
			"items[1].channel_id,items[2].limit,items[2].channel_type", "items[1].channel_id must not hold white space; items[2].limit must be an integer; items[2].channel_type is required", reasonChannelID},
		{`{"login_uid":"u@v","items":[{"channel_id":"b","channel_type":1},{"channel_id":"c","channel_type":1}]}`, "invalid_request", "login_uid", "must not hold '@'", 0},
		{`{"login_uid":"u","items":[` + good + strings.Repeat(","+good, batchItemsMax) + `]}`, "invalid_request", "items", "200", 0},
		{`{"login_uid":"u","items":[` + good, "invalid_json", "", "object", 0},
		{`{"x":"` + strings.Repeat("x", batchBodyBytesMax) + `"}`, "too_large", "", "262144", 0},
	} {
		g := b.post(pathSyncBatch, row.body)
		require.Equal(t, row.code, g.Code, g.raw)
		require.Equal(t, row.field, g.Field, g.raw)
		require.Contains(t, g.Msg, row.msg)
		require.Equal(t, row.reason, g.Reason, g.raw)
	}
	require.Len(t, b.batch(strings.Split(strings.TrimSuffix(strings.Repeat(good+"\n", batchItemsMax), "\n"), "\n")...), batchItemsMax)
}
