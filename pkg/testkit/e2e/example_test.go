package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// exampleBody is the first example of the page that describes the API.
const exampleBody = `{"header":{"no_persist":0,"red_dot":1,"sync_once":0},"client_msg_no":"client_msg_123","from_uid":"user123",` +
	`"channel_id":"group123","channel_type":2,"expire":0,"payload":"SGVsbG8gV29ybGQ=","tag_key":"important"}`

// posted is the body of a 200.
type posted struct {
	MessageID    int64  `json:"message_id"`
	MessageIDStr string `json:"message_idstr"`
	MessageSeq   int64  `json:"message_seq"`
	ClientMsgNo  string `json:"client_msg_no"`
}

func post(t *testing.T, h *node, body string) (answer posted) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+h.api+"/message/send", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer))
	return answer
}

func TestEndToEndExample(t *testing.T) {
	t.Parallel()
	up := newUp(t)
	up.Start()

	answer := post(t, up, exampleBody)
	require.Positive(t, answer.MessageID)
	require.Equal(t, strconv.FormatInt(answer.MessageID, 10), answer.MessageIDStr)
	require.EqualValues(t, 1, answer.MessageSeq)
	require.Equal(t, "client_msg_123", answer.ClientMsgNo)

	testkit.WaitFor(t, arriveTimeout, "the row", func(context.Context) error {
		if up.query(t, "SELECT * FROM sendhouse.messages FORMAT Vertical") == "" {
			return errors.New("the table is empty")
		}
		return nil
	})
	row := up.query(t, "SELECT message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, red_dot, sync_once, "+
		"stream_no, tag_key, expire, subscribers, payload FROM sendhouse.messages FORMAT TSV")
	require.Equal(t, answer.MessageIDStr+"\t1\tgroup123\t2\tuser123\tclient_msg_123\t1\t0\t\timportant\t0\t[]\tHello World\n", row)

	for page, want := range map[string]string{
		"http://" + up.api + "/healthz":   "ok",
		"http://" + up.api + "/readyz":    "ready",
		"http://" + up.admin + "/healthz": "ok",
		"http://" + up.admin + "/readyz":  `{"ready":true,`,
		"http://" + up.admin + "/metrics": "sendhouse_writer_",
	} {
		status, body, err := ask(t.Context(), page)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, page)
		require.Contains(t, body, want, page)
	}
	require.Equal(t, 0, up.Stop())
}

// TestEndToEndNoPersist: a message that is not to be stored gets an ID, comes on its live subject, and leaves
// no trace.
func TestEndToEndNoPersist(t *testing.T) {
	t.Parallel()
	up := newUp(t)
	up.Start()
	nc, err := nats.Connect("nats://" + up.nats)
	require.NoError(t, err)
	defer nc.Close()
	live, err := nc.SubscribeSync("live.>")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())

	fleeting := post(t, up, `{"header":{"no_persist":1},"client_msg_no":"typing","from_uid":"u","channel_id":"g","channel_type":2,"payload":"aGk="}`)
	require.Positive(t, fleeting.MessageID)
	require.Zero(t, fleeting.MessageSeq)
	m, err := live.NextMsg(arriveTimeout)
	require.NoError(t, err)
	require.Equal(t, "live.2.g", m.Subject)
	var decoded message.Message
	require.NoError(t, decoded.UnmarshalVT(m.Data))
	require.Equal(t, "hi", string(decoded.GetPayload()))
	require.EqualValues(t, fleeting.MessageID, decoded.GetMessageId())

	stored := post(t, up, `{"client_msg_no":"text","from_uid":"u","channel_id":"g","channel_type":2,"payload":"aGk="}`)
	require.EqualValues(t, 1, stored.MessageSeq)
	embeddedTable(t, up).await(t, 1)
	require.Equal(t, "text\t1\n", up.query(t, "SELECT client_msg_no, message_seq FROM sendhouse.messages FORMAT TSV"))
}

// command runs the binary to its end.
func command(t *testing.T, args ...string) (status int, output string) {
	t.Helper()
	p := testkit.StartProcess(t, testkit.ProcessConfig{Name: "sendhouse", Path: binary(t), Args: asOperator(args)})
	status = p.Wait(time.Minute)
	return status, p.Output()
}

func TestEndToEndCommandLine(t *testing.T) {
	t.Parallel()
	settings := filepath.Join(t.TempDir(), "sendhouse.yaml")
	require.NoError(t, os.WriteFile(settings, []byte("log-level: warn\npartition: 4\n"), 0o600))
	for name, c := range map[string]struct {
		args   []string
		status int
		want   []string
	}{
		"version":      {args: []string{"version"}, want: []string{"sendhouse ", "go1."}},
		"help":         {args: []string{"--help"}, want: []string{"up", "ingest", "sequencer", "writer", "SENDHOUSE_"}},
		"help of up":   {args: []string{"up", "--help"}, want: []string{"--data-dir", "--partitions", "$SENDHOUSE_API_ADDR"}},
		"no command":   {args: nil, status: 2, want: []string{"sendhouse: ", "--help"}},
		"unknown flag": {args: []string{"up", "--partition=4"}, status: 2, want: []string{"--partition"}},
		"unknown key":  {args: []string{"up", "--config=" + settings}, status: 2, want: []string{settings, `partition`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, output := command(t, c.args...)
			require.Equal(t, c.status, status, output)
			for _, want := range c.want {
				require.Contains(t, output, want)
			}
		})
	}
}
