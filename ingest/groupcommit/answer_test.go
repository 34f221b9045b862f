package groupcommit

import (
	"fmt"
	"testing"

	"github.com/go-faster/jx"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/pkg/message"
)

func TestParseAnswersReadsWhatProtobufWrites(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		batch := &message.AnswerBatch{}
		for range rapid.IntRange(0, 5).Draw(t, "answers") {
			batch.Answers = append(batch.Answers, &message.Answer{
				MessageId:  rapid.Uint64Range(1, 1<<63-1).Draw(t, "id"),
				MessageSeq: rapid.Uint64().Draw(t, "seq"),
				Outcome:    message.Outcome(rapid.Int32Range(0, 2).Draw(t, "outcome")),
			})
		}
		data, err := proto.Marshal(batch)
		require.NoError(t, err)
		answers, err := parseAnswers(data, len(batch.GetAnswers()))
		require.NoError(t, err)
		for i, a := range batch.GetAnswers() {
			require.Equal(t, Answer{MessageID: a.GetMessageId(), MessageSeq: a.GetMessageSeq(), Outcome: a.GetOutcome()}, answers[i])
		}
		_, err = parseAnswers(data, len(batch.GetAnswers())+1)
		require.ErrorIs(t, err, errNotAnAnswer)
	})
}

// FuzzParseAnswers compares the parser with the generated code for any bytes.
func FuzzParseAnswers(f *testing.F) {
	data, err := proto.Marshal(&message.AnswerBatch{Answers: []*message.Answer{{MessageId: 1, MessageSeq: 2, Outcome: 1}, {MessageId: 3}}})
	require.NoError(f, err)
	f.Add(data)
	f.Add([]byte("\x0a\x09\x09\x01\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x12\x01x\x0a\x00"))
	f.Add([]byte("\x91\xfa\xf3\xe6000000000"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var batch message.AnswerBatch
		wrong := proto.Unmarshal(data, &batch)
		answers, err := parseAnswers(data, len(batch.GetAnswers()))
		if err != nil || wrong != nil { // the parser accepts field numbers that are out of range
			return
		}
		for i, a := range batch.GetAnswers() {
			require.Equal(t, a.GetMessageId(), answers[i].MessageID)
			require.Equal(t, a.GetMessageSeq(), answers[i].MessageSeq)
		}
	})
}

func TestParseAck(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name string
		data string
		want ack
		err  bool
	}{
		{"taken", `{"stream":"SENDS_0","seq":17}`, ack{stream: []byte("SENDS_0"), streamSeq: 17}, false},
		{"taken, with what newer servers say", `{"stream":"SENDS_0","domain":"hub","seq":17,"duplicate":true,"x":[{}]}`, ack{stream: []byte("SENDS_0"), streamSeq: 17}, false},
		{
			"refused", `{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"SENDS_0","seq":0}`,
			ack{stream: []byte("SENDS_0"), code: 503, errCode: 10077, description: []byte("maximum bytes exceeded")}, false,
		},
		{"nothing", ``, ack{}, true},
		{"no JSON", `+OK`, ack{}, true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseAck(new(jx.Decoder), []byte(row.data))
			if row.err {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, row.want, got)
			require.Equal(t, row.want.code != 0, got.refused())
		})
	}
}

// BenchmarkParseAnswers measures decoding the answer to a group commit.
func BenchmarkParseAnswers(b *testing.B) {
	for _, sends := range []int{1, 64, batchSendsMax} {
		batch := &message.AnswerBatch{}
		for i := range sends {
			batch.Answers = append(batch.Answers, &message.Answer{MessageId: 1<<55 + uint64(i), MessageSeq: 1000 + uint64(i)})
		}
		data, err := batch.MarshalVT()
		require.NoError(b, err)
		b.Run(fmt.Sprint(sends), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parseAnswers(data, sends); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
