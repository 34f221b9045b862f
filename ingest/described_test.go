package ingest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// requestOf returns a send with a distinct value in every described field, and those values as they appear in the
// write-ahead log.
func requestOf() (body map[string]any, want map[string]any) {
	body, want = make(map[string]any), make(map[string]any)
	header := make(map[string]any)
	for i, f := range message.Fields() {
		if f.Origin != message.FromSend {
			continue
		}
		switch f.Kind {
		case message.Flag:
			header[f.Name], want[f.Name] = 1, uint64(1)
		case message.Text:
			text := fmt.Sprint("value-", i)
			body[f.Name], want[f.Name] = text, text
		case message.Bytes:
			text := fmt.Sprint("value-", i)
			body[f.Name], want[f.Name] = base64.StdEncoding.EncodeToString([]byte(text)), text
		case message.Texts:
			list := []string{fmt.Sprint("value-", i)}
			body[f.Name], want[f.Name] = list, list
		default:
			body[f.Name], want[f.Name] = i, uint64(i)
		}
	}
	body["header"] = header
	body["channel_type"], want["channel_type"] = 2, uint64(2)
	want["channel_id"] = fmt.Sprint(body["channel_id"], message.CommandSuffix) // it is a command
	return body, want
}

// Every field that message.Fields describes as a send's is read from a request, validated, and stored in the write-ahead
// log as sent.
func TestEveryFieldOfASendIsTaken(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	sequencers := b.sequence()
	body, want := requestOf()
	text, err := json.Marshal(body)
	require.NoError(t, err)
	answer := b.post(string(text))
	require.Equal(t, http.StatusOK, answer.status, answer.raw)

	var sends []*message.Send
	for _, s := range sequencers {
		s.mu.Lock()
		for _, batch := range s.batches {
			sends = append(sends, batch.sends...)
		}
		s.mu.Unlock()
	}
	require.Len(t, sends, 1)
	encoded, err := sends[0].MarshalVT()
	require.NoError(t, err)
	var logged message.Stored
	require.NoError(t, logged.Decode(encoded))
	for _, f := range message.Fields() {
		switch {
		case f.Origin != message.FromSend:
		case f.Text != nil:
			require.Equal(t, want[f.Name], f.Text(&logged), "%s was not taken", f.Name)
		case f.Texts != nil:
			require.Equal(t, want[f.Name], f.Texts(&logged), "%s was not taken", f.Name)
		default:
			require.Equal(t, want[f.Name], f.Number(&logged), "%s was not taken", f.Name)
		}
	}

	// A value of another type is refused, with the field's name.
	for name := range body {
		wrong, _ := requestOf()
		wrong[name] = map[string]any{"no_persist": map[string]any{}}
		text, err := json.Marshal(wrong)
		require.NoError(t, err)
		answer := b.post(string(text))
		require.Equal(t, http.StatusBadRequest, answer.status, "%s: %s", name, answer.raw)
		require.Contains(t, answer.body["field"], name)
	}
}

// The document has every field of a send, and every field that readers of a channel receive.
func TestEveryFieldIsInTheDocument(t *testing.T) {
	t.Parallel()
	schemas := description(t).Components.Schemas
	has := func(s *openapi3.SchemaRef, name string) bool {
		if header := s.Value.Properties["header"]; header != nil && header.Value.Properties[name] != nil {
			return true
		}
		return s.Value.Properties[name] != nil
	}
	for _, f := range message.Fields() {
		if f.Origin == message.FromSend {
			require.True(t, has(schemas["Send"], f.Name), "schema Send has no %s", f.Name)
		}
		require.Equal(t, f.Synced, has(schemas["Message"], f.Name), "%s in the schema Message, of an answer of /channel/messagesync", f.Name)
	}
}
