package ingest

import (
	"fmt"
	"runtime"
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

// scripted stands where the stream of a write-ahead log and its sequencer would be,
// on a real server: the test decides when, and whether, each speaks.
type scripted struct {
	t       testing.TB
	nc      *nats.Conn
	records chan *record
}

// record is one group commit as it came.
type record struct {
	*scripted
	msg   *nats.Msg
	sends []*message.Send
}

func (b *bundle) script(partition int) *scripted {
	b.t.Helper()
	s := &scripted{t: b.t, nc: connect(b.t, b.server), records: make(chan *record, 1000)}
	_, err := s.nc.Subscribe(topology.WALSubject(partition), func(m *nats.Msg) {
		if m.Header.Get(jetstream.ExpectedLastSeqHeader) == expectedNever {
			return // a probe
		}
		var batch message.SendBatch
		if err := proto.Unmarshal(m.Data, &batch); err != nil {
			b.t.Errorf("batch: %v", err)
		}
		s.records <- &record{scripted: s, msg: m, sends: batch.GetSends()}
	})
	require.NoError(b.t, err)
	require.NoError(b.t, s.nc.Flush())
	return s
}

func (s *scripted) next() *record {
	s.t.Helper()
	return receive(s.t, s.records)
}

// ack is JetStream's acknowledgement.
func (r *record) ack() {
	stream := "SENDS_" + strings.TrimPrefix(r.msg.Subject, "sends.")
	r.must(r.msg.Respond([]byte(`{"stream":"` + stream + `","seq":1}`)))
}

// refuse is JetStream's refusal.
func (r *record) refuse(code, errCode int, description string) {
	r.must(r.msg.Respond(fmt.Appendf(nil, `{"error":{"code":%d,"err_code":%d,"description":%q},"stream":"SENDS_0","seq":0}`, code, errCode, description)))
}

// answer is the sequencer's, with sequences from first.
func (r *record) answer(first uint64) {
	answers := &message.AnswerBatch{}
	for i := range r.sends {
		answers.Answers = append(answers.Answers, &message.Answer{MessageId: first + uint64(i), MessageSeq: first + uint64(i)})
	}
	data, err := proto.Marshal(answers)
	r.must(err)
	r.say(data)
}

func (r *record) say(data []byte) {
	r.must(r.nc.Publish(r.msg.Header.Get(topology.HeaderReply), data))
}

// must is for any goroutine.
func (r *record) must(err error) {
	if err != nil {
		r.t.Errorf("record: %v", err)
	}
}

func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(testTimeout):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}

// async posts in the background.
func (b *bundle) async(body string) <-chan got {
	c := make(chan got, 1)
	go func() {
		g, err := b.try(body)
		if err != nil {
			b.t.Errorf("post: %v", err)
		}
		c <- g
	}()
	return c
}

// queued waits until n sends wait in partition p. It looks again and again, since a
// queue that fills has nobody to tell.
func (b *bundle) queued(p, n int) {
	b.t.Helper()
	deadline := time.Now().Add(testTimeout)
	for {
		b.service.partitions[p].mu.Lock()
		have := b.service.partitions[p].sends
		b.service.partitions[p].mu.Unlock()
		if have == n {
			return
		}
		require.True(b.t, time.Now().Before(deadline), "%d of %d sends are queued", have, n)
		runtime.Gosched()
	}
}
