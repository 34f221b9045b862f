package messagelog_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// A line has each field that has a column, in the order of the columns, and message_idstr besides.
func TestEveryFieldIsInALine(t *testing.T) {
	t.Parallel()
	encoded, err := testkit.FullMessage(1).MarshalVT()
	require.NoError(t, err)
	var encoder messagelog.Encoder
	_, err = encoder.Append(nil, messagelog.Entry{Partition: 3, PartitionSeq: 7, Data: []byte("\xff")})
	require.ErrorContains(t, err, "message 7 of partition 3")
	line, err := encoder.Append([]byte("before\n"), messagelog.Entry{Partition: 3, PartitionSeq: 7, Data: encoded})
	require.NoError(t, err)

	want := message.Stored{Partition: 3, PartitionSeq: 7}
	require.NoError(t, want.Decode(encoded))
	var fields []string
	text := func(value any) string {
		encoded, err := json.Marshal(value)
		require.NoError(t, err)
		return string(encoded)
	}
	for _, f := range message.Fields() {
		if f.Column == "" {
			continue
		}
		var value any
		switch f.Kind {
		case message.Text:
			value = f.Text(&want)
		case message.Bytes:
			value = base64.StdEncoding.EncodeToString([]byte(f.Text(&want)))
		case message.Texts:
			value = f.Texts(&want)
		case message.Time:
			value = time.UnixMilli(int64(f.Number(&want))).UTC().Format("2006-01-02T15:04:05.000Z")
		default:
			value = f.Number(&want)
		}
		fields = append(fields, text(f.Name)+":"+text(value))
		if f.Name == "message_id" {
			fields = append(fields, fmt.Sprintf(`"message_idstr":"%d"`, value))
		}
	}
	require.Equal(t, "before\n{"+strings.Join(fields, ",")+"}\n", string(line))
}
