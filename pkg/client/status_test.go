package client_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
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
