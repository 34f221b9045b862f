package sim

import (
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// client is ingest and its clients: it writes records, and sends again what
// was not answered.
type client struct {
	sends   []*clientSend // every send ever made
	records [][]*clientSend
	inboxes map[string]uint64 // the record that an answer on this subject is for
	made    int
}

type clientSend struct {
	send     *message.Send
	answered bool
}

// act writes a record.
func (c *client) act(w *world) {
	for range 1 + w.rand.IntN(2) {
		switch n := w.rand.IntN(100); {
		case n < 2:
			c.publishMalformed(w)
		case n < 3:
			c.publish(w, nil)
		default:
			batch := make([]*clientSend, 1+w.rand.IntN(w.plan.batchMax))
			for i := range batch {
				batch[i] = c.draw(w)
			}
			c.publish(w, batch)
		}
	}
}

// draw makes a send, or takes one that was made before.
func (c *client) draw(w *world) *clientSend {
	if n := len(c.sends); n > 0 {
		earlier := c.sends[n-1-w.rand.IntN(min(n, w.plan.recent))]
		switch p := w.rand.IntN(100); {
		case p < 25 && !earlier.answered, p < 12:
			return earlier
		case p < 30:
			other := proto.CloneOf(earlier.send)
			other.Payload = append(slices.Clone(other.Payload), 'x')
			return &clientSend{send: other}
		}
	}
	c.made++
	s := &clientSend{send: &message.Send{
		ChannelId:   "c." + strconv.Itoa(w.rand.IntN(6)),
		ChannelType: 1 + w.rand.Uint32N(3),
		FromUid:     "u" + strconv.Itoa(w.rand.IntN(2)),
		ClientMsgNo: strconv.Itoa(c.made),
		NoPersist:   w.rand.IntN(12) == 0,
		RedDot:      w.rand.IntN(2) == 0,
		Payload:     fmt.Appendf(nil, "payload %d", c.made),
	}}
	if w.rand.IntN(30) == 0 {
		s.send.ClientMsgNo = ""
	}
	c.sends = append(c.sends, s)
	return s
}

// publish writes a record of these sends, and has the reference fold it.
func (c *client) publish(w *world, batch []*clientSend) {
	var data []byte
	var sends []*message.Send
	for _, s := range batch {
		var err error
		if data, err = message.AppendSend(data, s.send); err != nil {
			w.fail("a send cannot be encoded: %v", err)
		}
		sends = append(sends, s.send)
	}
	c.write(w, data, batch, sends, false)
}

// publishMalformed writes a record that is no batch of sends.
func (c *client) publishMalformed(w *world) {
	good, err := message.AppendSend(nil, c.draw(w).send)
	if err != nil {
		w.fail("a send cannot be encoded: %v", err)
	}
	bad := [][]byte{[]byte("\xff\xff\xff"), append(good, 0x0a, 0x7f, 0x01), append(good, 0x0a, 0x02, 0x10, 0x0d)}
	c.write(w, bad[w.rand.IntN(len(bad))], nil, nil, true)
}

func (c *client) write(w *world, data []byte, batch []*clientSend, sends []*message.Send, malformed bool) {
	inbox := ""
	if w.rand.IntN(30) > 0 {
		inbox = "inbox." + strconv.Itoa(len(c.records)+1)
	}
	seq, err := w.publish(data, inbox)
	if err != nil {
		return // full, or the broker is away; ingest says 503
	}
	c.records = append(c.records, batch)
	if inbox != "" {
		c.inboxes[inbox] = seq
	}
	r := w.wal.records[seq-1]
	w.ref.fold(r.Time, r.Rule == message.RuleSteps, sends, malformed)
	w.event("record %d: %d sends, malformed %t, time %s, rule %d", seq, len(sends), malformed, r.Time.Format("2006-01-02 15:04:05.000"), r.Rule)
}

// answered takes the answer of a record, which the checker has seen.
func (c *client) answered(seq uint64) {
	for _, s := range c.records[seq-1] {
		s.answered = true
	}
}
