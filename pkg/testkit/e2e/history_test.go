package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// synced is a message as messagesync returns it.
type synced struct {
	Header struct {
		NoPersist int `json:"no_persist"`
		RedDot    int `json:"red_dot"`
		SyncOnce  int `json:"sync_once"`
	} `json:"header"`
	ID          int64  `json:"message_id"`
	IDStr       string `json:"message_idstr"`
	Seq         uint64 `json:"message_seq"`
	ClientMsgNo string `json:"client_msg_no"`
	FromUID     string `json:"from_uid"`
	ChannelID   string `json:"channel_id"`
	ChannelType uint8  `json:"channel_type"`
	Expire      uint32 `json:"expire"`
	Timestamp   int64  `json:"timestamp"`
	Payload     []byte `json:"payload"`
}

// asked is an answer of the routes that clients read by.
type asked struct {
	status   int
	text     string
	Code     string   `json:"code"`
	More     int      `json:"more"`
	Messages []synced `json:"messages"`
	State    string   `json:"state"`
	ID       int64    `json:"message_id"`
	Seq      uint64   `json:"message_seq"`
	Complete bool     `json:"complete"`
}

// read makes a request to the API and decodes the answer; an error is one of the transport.
func (h *node) read(ctx context.Context, method, path string, body any) (asked, error) {
	return h.readBy(ctx, http.DefaultClient, method, path, body)
}

func (h *node) readBy(ctx context.Context, client *http.Client, method, path string, body any) (asked, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	encoded, err := json.Marshal(body)
	if err != nil {
		return asked{}, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+h.api+path, bytes.NewReader(encoded))
	if err != nil {
		return asked{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return asked{}, err
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return asked{}, err
	}
	a := asked{status: resp.StatusCode, text: string(text)}
	return a, json.Unmarshal(text, &a)
}

// syncRequest is the body of messagesync.
type syncRequest struct {
	LoginUID    string              `json:"login_uid"`
	ChannelID   string              `json:"channel_id"`
	ChannelType message.ChannelType `json:"channel_type"`
	Start       uint64              `json:"start_message_seq"`
	Limit       int                 `json:"limit"`
	PullMode    int                 `json:"pull_mode"`
}

// pages follows the pages of the channel of a send from one end to the other, as the sender.
func (h *node) pages(t *testing.T, s *send, limit, mode int) (all []synced) {
	t.Helper()
	request := syncRequest{s.fromUID, s.channelID, s.channelType, 1 << 40 * uint64(1-mode), limit, mode}
	if s.syncOnce {
		request.ChannelID += message.CommandSuffix
	}
	request.Start = max(request.Start, 1)
	for {
		a, err := h.read(t.Context(), http.MethodPost, "/channel/messagesync", request)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, a.status, a.text)
		if mode == 1 {
			all = append(all, a.Messages...)
		} else {
			all = append(a.Messages, all...)
		}
		if a.More == 0 {
			return all
		}
		require.Len(t, a.Messages, limit)
		if request.Start = a.Messages[limit-1].Seq + 1; mode == 0 {
			request.Start = a.Messages[0].Seq - 1
		}
	}
}

// statusOf asks what became of a send.
func (h *node) statusOf(ctx context.Context, s *send) (asked, error) {
	return h.read(ctx, http.MethodGet, statusPath(s), nil)
}

func statusPath(s *send) string {
	return "/message/status?" + url.Values{
		"client_msg_no": {s.clientMsgNo}, "from_uid": {s.fromUID}, "channel_id": {s.channelID},
		"channel_type": {strconv.Itoa(int(s.channelType))}, "sync_once": {strconv.Itoa(flag(s.syncOnce))},
	}.Encode()
}

// is compares a message with what was sent and answered.
func (m *synced) is(r *record) bool {
	return m.ID == r.id && m.IDStr == strconv.FormatInt(r.id, 10) && m.Seq == r.seq && m.ClientMsgNo == r.clientMsgNo && m.FromUID == r.fromUID &&
		m.ChannelID == r.channelID+map[bool]string{true: message.CommandSuffix}[r.syncOnce] && m.ChannelType == uint8(r.channelType) &&
		m.Header.NoPersist == 0 && m.Header.RedDot == flag(r.redDot) && m.Header.SyncOnce == flag(r.syncOnce) &&
		m.Expire == r.expire && m.Timestamp == message.ID(r.id).UnixMilli()/1000 && bytes.Equal(m.Payload, r.payload)
}

// askers ask what became of the latest sends that were answered, until the test is over, and note answers that cannot be right.
func (l *load) askers(ctx context.Context, h *node, n int) (states func() map[string]int) {
	counts := make(map[string]int)
	for range n {
		l.clients.Go(func() {
			for l.going.Err() == nil && ctx.Err() == nil {
				l.mu.Lock()
				var r *record
				if len(l.records) > 0 {
					r = l.records[len(l.records)-1]
				}
				l.mu.Unlock()
				var a asked
				err := errors.New("nothing to ask for")
				if r != nil {
					a, err = h.statusOf(ctx, &r.send)
				}
				if err != nil { // the process is being killed
					timer := time.NewTimer(tryAgainAfter)
					select {
					case <-timer.C:
					case <-ctx.Done():
					}
					continue
				}
				l.mu.Lock()
				switch {
				case a.status == http.StatusServiceUnavailable:
					counts[a.Code]++
				case a.status != http.StatusOK, a.State != "stored" && a.State != "accepted":
					l.fault("%s was answered %v, and its status is %d %s", r.clientMsgNo, r.answer, a.status, a.text)
				case a.ID == 0 && a.State == "accepted": // in the write-ahead log alone
					counts["not folded"]++
				case a.ID != r.id || a.Seq != r.seq:
					l.fault("%s was answered %v, and its status is %s", r.clientMsgNo, r.answer, a.text)
				default:
					counts[a.State]++
				}
				l.mu.Unlock()
			}
		})
	}
	return func() map[string]int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return counts
	}
}

// TestEndToEndHistory reads back by the API what was sent, each message once and whole, while and after the process is killed under
// load. A send that was answered 200 is never reported as unknown.
func TestEndToEndHistory(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	up := newUp(t, "--flush-interval=300ms")
	up.Start()
	table := embeddedTable(t, up)
	table.keepDuplicates(t)
	load := startLoad(t, up.api, loadConfig{seed: seed, clients: 8})
	states := load.askers(t.Context(), up, 3)
	for range 3 {
		load.await(700)
		up.Kill9()
		up.Start()
	}
	load.await(700)
	records := load.finish()
	verify(t, table, records)
	t.Logf("%d sends; the answers about them: %v", len(records), states())
	require.NotZero(t, states()["accepted"])

	// Sides of a person's channel see the same messages under different names, so each sender asks for his own.
	type view struct {
		from, channel string
		kind          message.ChannelType
		command       bool
	}
	views := make(map[view][]*record)
	for _, r := range records {
		v := view{channel: r.channelID, kind: r.channelType, command: r.syncOnce}
		if r.channelType == message.ChannelPerson {
			v.from = r.fromUID
		}
		views[v] = append(views[v], r)
	}
	n := 0
	for _, own := range views {
		n++
		all := up.pages(t, &own[0].send, 1+n%50, n%2)
		for i := range all {
			require.EqualValues(t, i+1, all[i].Seq, "each once, and in order")
		}
		for _, r := range own {
			i := slices.IndexFunc(all, func(m synced) bool { return m.ID == r.id })
			require.GreaterOrEqual(t, i, 0, "%s is not in its channel", r.clientMsgNo)
			require.True(t, all[i].is(r), "%+v, sent %+v", all[i], r)
		}
	}
	for i := 0; i < len(records); i += 20 {
		a, err := up.statusOf(t.Context(), &records[i].send)
		require.NoError(t, err)
		require.Equal(t, "stored", a.State, a.text)
		want := records[i].answer
		require.Equal(t, want, answer{a.ID, a.Seq}, a.text)
	}
}

// TestEndToEndHistoryApart reads by an ingest of its own: without ClickHouse it says so, and while ClickHouse is away it says what it knows.
func TestEndToEndHistoryApart(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	a := startApart(t)
	load := startLoad(t, a.ingest.api, loadConfig{seed: seed, clients: 4})
	load.await(200)
	early := load.records[0]
	for _, try := range []func() (asked, error){
		func() (asked, error) { return a.ingest.statusOf(t.Context(), &early.send) },
		func() (asked, error) {
			return a.ingest.read(t.Context(), http.MethodPost, "/channel/messagesync", struct{}{})
		},
	} {
		answer, err := try()
		require.NoError(t, err)
		require.Equal(t, http.StatusNotFound, answer.status)
		require.Equal(t, "history_not_served", answer.Code)
	}

	reader := newRole(t, "ingest", into(a.clickHouse), "--nats-url="+a.natsURL, "--history-timeout=2s")
	reader.Start()
	becomes := func(r *record, state string) {
		testkit.WaitFor(t, arriveTimeout, r.clientMsgNo+" to be "+state, func(ctx context.Context) error {
			answer, err := reader.statusOf(ctx, &r.send)
			if err == nil && (answer.State != state || answer.ID != r.id) {
				err = fmt.Errorf("%d %s", answer.status, answer.text)
			}
			return err
		})
	}
	becomes(early, "stored")
	a.clickHouse.Kill9()
	load.await(200)
	records := load.finish()
	late := records[len(records)-1]
	becomes(late, "accepted")
	answer, err := reader.read(t.Context(), http.MethodPost, "/channel/messagesync", syncRequest{LoginUID: "u", ChannelID: "g1", ChannelType: 2})
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, answer.status, answer.text)
	reader.requireRuns(t)

	a.clickHouse.Start()
	becomes(late, "stored")
	require.NotEmpty(t, reader.pages(t, &late.send, 10, 0))
	require.Equal(t, 0, reader.Stop())
	a.verify(t, records)
}
