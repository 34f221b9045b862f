package ingest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/request"
)

func (b *bundle) postBatch(t *testing.T, body string) got {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/message/sendbatch", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	g, err := b.do(req)
	require.NoError(t, err)
	return g
}

// TestSendBatch: each receiver gets the message in the channel of the two.
func TestSendBatch(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	sequencers := b.sequence()
	g := b.postBatch(t, `{"header":{"red_dot":1},"from_uid":"alice","subscribers":["bob","carol","bob","","alice"],"payload":"aGk="}`)
	require.Equal(t, http.StatusOK, g.status, g.raw)
	require.JSONEq(t, `{"fail_uids":[],"reason":[]}`, g.raw)

	var channels []string
	sequencers[0].mu.Lock()
	defer sequencers[0].mu.Unlock()
	for _, batch := range sequencers[0].batches {
		for _, s := range batch.sends {
			channels = append(channels, s.GetChannelId())
			require.Equal(t, uint32(1), s.GetChannelType())
			require.Equal(t, "alice", s.GetFromUid())
			require.Equal(t, "hi", string(s.GetPayload()))
			require.True(t, s.GetRedDot())
			require.Empty(t, s.GetSubscribers())
			require.NotEmpty(t, s.GetClientMsgNo())
		}
	}
	require.ElementsMatch(t, []string{"bob@alice", "carol@alice", "alice@alice"}, normal(channels))
	require.InDelta(t, 3, b.metric("sendhouse_ingest_items_total", `reason="accepted"`), 0)
}

// normal reorders a person's channel so that alice is last.
func normal(channels []string) []string {
	var out []string
	for _, c := range channels {
		if left, right, _ := strings.Cut(c, "@"); left == "alice" {
			c = right + "@" + left
		}
		out = append(out, c)
	}
	return out
}

func enforcing() options {
	return options{partitions: 1, config: func(c *Config) { c.PayloadRules = request.PayloadRulesEnforce }}
}

// TestSendBatchFails: a receiver to whom the message cannot be sent is named, and the others receive it.
func TestSendBatchFails(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	long := strings.Repeat("x", 257)
	g := b.postBatch(t, `{"from_uid":"alice","client_msg_no":"n","subscribers":["bob"," b","alice@bob","`+long+`","x____cmd"],"payload":"aGk="}`)
	require.Equal(t, http.StatusOK, g.status, g.raw)
	require.ElementsMatch(t, []any{" b", "alice@bob", long, "x____cmd"}, g.body["fail_uids"])
	reasons := g.body["reason"].([]any)
	require.Len(t, reasons, 4)
	for i, uid := range g.body["fail_uids"].([]any) {
		says := map[any]string{" b": "white space", "alice@bob": "'@'", long: "257 bytes", "x____cmd": "____cmd"}[uid]
		require.Contains(t, reasons[i], says)
	}

	g = b.postBatch(t, `{"from_uid":"alice","client_msg_no":"n","subscribers":["bob"],"payload":"aGk="}`)
	require.JSONEq(t, `{"fail_uids":[],"reason":[]}`, g.raw, "the same again is no failure")
	g = b.postBatch(t, `{"from_uid":"alice","client_msg_no":"n","subscribers":["bob","dave"],"payload":"b3RoZXI="}`)
	require.Equal(t, []any{"bob"}, g.body["fail_uids"], "another content is")
	require.Contains(t, g.raw, "was used for another message")
}

func TestSendBatchRefused(t *testing.T) {
	t.Parallel()
	b := setup(t, enforcing())
	b.sequence()
	const text = `"payload":"eyJ0eXBlIjoxLCJjb250ZW50IjoiIn0="`
	for _, row := range []struct{ name, body, code, field string }{
		{"fine", `{"from_uid":"a","subscribers":["b"],` + text + `}`, "", ""},
		{"a channel of no meaning", `{"from_uid":"a","subscribers":["b"],"channel_id":7,"channel_type":"x",` + text + `}`, "", ""},
		{"nothing", `{}`, "invalid_request", "payload,from_uid,subscribers"},
		{"no receivers", `{"from_uid":"a","subscribers":[""],` + text + `}`, "invalid_request", "subscribers"},
		{"receivers of another type", `{"from_uid":"a","subscribers":[1],` + text + `}`, "invalid_request", "subscribers"},
		{"a sender that cannot have a person's channel", `{"from_uid":"a@b","subscribers":["b"],` + text + `}`, "invalid_request", "from_uid"},
		{"a wrong flag", `{"header":{"red_dot":2},"from_uid":"a","subscribers":["b"],` + text + `}`, "invalid_request", "header.red_dot"},
		{"a payload against the rules", `{"from_uid":"a","subscribers":["b"],"payload":"aGk="}`, "invalid_payload", "payload"},
		{"no JSON", `[`, "invalid_json", ""},
		{"no body", ``, "invalid_json", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := b.postBatch(t, row.body)
			require.Equal(t, row.code, g.code(), g.raw)
			if row.code != "" {
				requireShape(t, g)
				require.Equal(t, row.field, g.body["field"])
			}
		})
	}
}

// TestSendBatchOfMany: more receivers than may be unsettled at a time.
func TestSendBatchOfMany(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 2})
	b.sequence()
	var uids []string
	for i := range 3 * flightItemsMax {
		uids = append(uids, fmt.Sprintf("%q", fmt.Sprintf("u%d", i)))
	}
	g := b.postBatch(t, `{"from_uid":"alice","subscribers":[`+strings.Join(uids, ",")+`],"payload":"aGk="}`)
	require.JSONEq(t, `{"fail_uids":[],"reason":[]}`, g.raw)
	require.InDelta(t, len(uids), b.metric("sendhouse_ingest_items_total", `reason="accepted"`), 0)
	requireForgotten(t, b)
	require.Equal(t, int64(b.service.cfg.BodiesBytesMax), b.service.requests.Budget.Left())
}

// TestSendBatchWithoutMemory: if the budget has no room for all receivers, nothing is sent.
func TestSendBatchWithoutMemory(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	sequencers := b.sequence()
	budget := b.service.requests.Budget
	all := budget.Left()
	const body = `{"from_uid":"alice","subscribers":["bob","carol"],"payload":"aGk="}`
	require.True(t, budget.Take(all-2*receiverBytes+1))
	g := b.postBatch(t, body)
	require.Equal(t, http.StatusServiceUnavailable, g.status, g.raw)
	require.Equal(t, "overloaded", g.code())
	require.Equal(t, "1", g.header.Get("Retry-After"))
	requireShape(t, g)

	budget.GiveBack(1 + 100) // the request kept its buffer for the payload
	g = b.postBatch(t, body)
	require.JSONEq(t, `{"fail_uids":[],"reason":[]}`, g.raw)
	sequencers[0].mu.Lock()
	defer sequencers[0].mu.Unlock()
	require.Len(t, sequencers[0].seqs, 2)
	for channel, seq := range sequencers[0].seqs {
		require.Equal(t, uint64(1), seq, channel)
	}
	require.Equal(t, int64(2*receiverBytes+100), budget.Left())
}
