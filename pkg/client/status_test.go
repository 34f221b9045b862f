package client_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/message"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	s := script(t, says(503, "history_unavailable"), text(200, `{"state":"unheard of","client_msg_no":"no-1"}`), text(200, `{"state":"stored","client_msg_no":"other"}`),
		text(200, `{"state":"accepted","client_msg_no":"no-1","message_id":7,"message_idstr":"7","message_seq":3}`), text(200, `{"state":"unknown","client_msg_no":"no-1","complete":true}`))
	c := newClient(t, s.URL, nil)
	one := hello("no-1")
	one.SyncOnce = true
	status, err := c.Status(t.Context(), one)
	require.NoError(t, err)
	require.Equal(t, client.Status{State: client.StateAccepted, MessageID: 7, MessageSeq: 3}, status)
	require.Equal(t, []string{"GET /message/status "}, s.seen()[:1])
	status, err = c.Status(t.Context(), one)
	require.NoError(t, err)
	require.Equal(t, client.Status{State: client.StateUnknown, Complete: true}, status)

	// A server that has no ClickHouse says so.
	_, err = newClient(t, house.URL(), nil).Status(t.Context(), one)
	answered := (*client.Error)(nil)
	require.ErrorAs(t, err, &answered)
	require.Equal(t, http.StatusNotFound, answered.Status)
	require.Equal(t, "history_not_served", answered.Code)
}

// A command that names its receivers and no channel is asked for by its temporary channel, whose name is the server's.
func TestStatusOfATemporaryChannel(t *testing.T) {
	t.Parallel()
	asked := make(chan url.Values, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Query()
		_, err := io.WriteString(w, `{"state":"stored","client_msg_no":"no-1","channel_id":"x","channel_type":8,"message_id":7,"message_idstr":"7","message_seq":3}`)
		assert.NoError(t, err)
	}))
	t.Cleanup(server.Close)
	c := newClient(t, server.URL, nil)
	one := hello("no-1")
	one.ChannelID, one.ChannelType, one.SyncOnce, one.Subscribers = "", 0, true, []string{"c", "b", "", "c"}
	_, err := c.Status(t.Context(), one)
	require.NoError(t, err)
	query := <-asked
	require.Equal(t, message.TemporaryChannel([]string{"b", "c"}), query.Get("channel_id"))
	require.Equal(t, "8", query.Get("channel_type"))
	require.Equal(t, "1", query.Get("sync_once"))
	require.Equal(t, []string{"c", "b", "", "c"}, one.Subscribers, "the send is not changed")
}
