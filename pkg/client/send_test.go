package client_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// Every field of a send that message.Fields describes can be sent with this package, and the queue's copy on disk has it.
func TestEveryFieldOfASendCanBeSent(t *testing.T) {
	t.Parallel()
	var s client.Send
	v := reflect.ValueOf(&s).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString(v.Type().Field(i).Name)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		default:
			f.SetUint(uint64(i))
		}
	}
	text, err := json.Marshal(s)
	require.NoError(t, err)
	var body struct {
		Header map[string]any `json:"header"`
	}
	require.NoError(t, json.Unmarshal(text, &body))
	fields := make(map[string]any)
	require.NoError(t, json.Unmarshal(text, &fields))
	for _, f := range message.Fields() {
		switch {
		case f.Origin != message.FromSend:
		case f.Kind == message.Flag:
			require.Contains(t, body.Header, f.Name)
		default:
			require.Contains(t, fields, f.Name, "client.Send lacks %s", f.Name)
		}
	}
	var again client.Send
	require.NoError(t, json.Unmarshal(text, &again))
	require.Equal(t, s, again)
}
