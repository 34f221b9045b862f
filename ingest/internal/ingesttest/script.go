package ingesttest

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Timeout bounds every wait of a test; no test takes this long unless it fails.
const Timeout = 30 * time.Second

// Script plays the stream of a write-ahead log and its sequencer on a real server: the test decides when, and whether,
// each responds.
type Script struct {
	t       testing.TB
	nc      *nats.Conn
	Records chan *Record
}

// Record is one group commit as received.
type Record struct {
	*Script
	Msg   *nats.Msg
	Sends []*message.Send
}

// NewScript starts receiving the group commits of a partition. The test closes nc.
func NewScript(t testing.TB, nc *nats.Conn, partition int) *Script {
	t.Helper()
	s := &Script{t: t, nc: nc, Records: make(chan *Record, 1000)}
	_, err := s.nc.Subscribe(topology.WALSubject(partition), func(m *nats.Msg) {
		if m.Header.Get(jetstream.ExpectedLastSeqHeader) == strconv.FormatUint(math.MaxUint64, 10) {
			return // a probe
		}
		var batch message.SendBatch
		if err := proto.Unmarshal(m.Data, &batch); err != nil {
			t.Errorf("batch: %v", err)
		}
		s.Records <- &Record{Script: s, Msg: m, Sends: batch.GetSends()}
	})
	require.NoError(t, err)
	require.NoError(t, s.nc.Flush())
	return s
}

// Next returns the next group commit.
func (s *Script) Next() *Record {
	s.t.Helper()
	return Receive(s.t, s.Records)
}

// Ack sends JetStream's acknowledgement.
func (r *Record) Ack() {
	stream := "SENDS_" + strings.TrimPrefix(r.Msg.Subject, "sends.")
	r.must(r.Msg.Respond([]byte(`{"stream":"` + stream + `","seq":1}`)))
}

// Refuse sends JetStream's refusal.
func (r *Record) Refuse(code, errCode int, description string) {
	r.must(r.Msg.Respond(fmt.Appendf(nil, `{"error":{"code":%d,"err_code":%d,"description":%q},"stream":"SENDS_0","seq":0}`, code, errCode, description)))
}

// Answer sends the sequencer's answer, with sequences from first.
func (r *Record) Answer(first uint64) {
	answers := &message.AnswerBatch{}
	for i := range r.Sends {
		answers.Answers = append(answers.Answers, &message.Answer{MessageId: first + uint64(i), MessageSeq: first + uint64(i)})
	}
	data, err := proto.Marshal(answers)
	r.must(err)
	r.Say(data)
}

// Say sends arbitrary data as the sequencer's answer.
func (r *Record) Say(data []byte) {
	r.must(r.nc.Publish(r.Msg.Header.Get(topology.HeaderReply), data))
}

// must fails the test on an error, from any goroutine.
func (r *Record) must(err error) {
	if err != nil {
		r.t.Errorf("record: %v", err)
	}
}

// Receive receives from a channel, within the timeout of a test.
func Receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(Timeout):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}
