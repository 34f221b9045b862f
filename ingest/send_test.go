package ingest

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSendExample(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.sequence()

	first := b.post(example)
	require.Equal(t, http.StatusOK, first.status, first.raw)
	require.Equal(t, "application/json", first.header.Get("Content-Type"))
	require.Equal(t, json.Number("1"), first.body["message_seq"])
	require.Equal(t, "client_msg_123", first.body["client_msg_no"])
	require.Equal(t, first.body["message_id"], json.Number(first.body["message_idstr"].(string)))
	require.Empty(t, first.header.Get("Idempotent-Replayed"))

	again := b.post(example)
	require.Equal(t, first.raw, again.raw)
	require.Equal(t, http.StatusOK, again.status)
	require.Equal(t, "true", again.header.Get("Idempotent-Replayed"))

	other := b.post(`{"client_msg_no":"client_msg_123","from_uid":"user123","channel_id":"group123","channel_type":2,"payload":"aGk="}`)
	require.Equal(t, http.StatusConflict, other.status)
	require.Equal(t, "client_msg_no_conflict", other.code())
	require.Equal(t, "client_msg_no", other.body["field"])
	require.Equal(t, json.Number("28"), other.body["reason"])
}
