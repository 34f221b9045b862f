package ingest

import (
	"sync"
	"sync/atomic"

	"github.com/go-faster/jx"

	"github.com/sendhouse/sendhouse/pkg/message"
)

const (
	bodyBytesFirst  = 2 << 10   // what a buffer begins with; holds the usual body, and is not counted
	bodyBytesKept   = 128 << 10 // larger buffers go to the garbage collector; holds a payload of 64 KiB
	subscribersKept = 256
)

// request is one request from its first byte until its send is in the gathering
// batch; then it goes back to the pool.
//
// The strings of fields and send alias body and text. Nothing of them may be kept
// after release: what the answer needs is copied before (see Service.send).
type request struct {
	body    []byte // as it came
	text    []byte // strings that had escapes, unescaped
	payload []byte // decoded
	json    jx.Decoder
	fields  fields
	issues  []issue
	send    message.Send
	// generated says that client_msg_no was made here.
	generated bool

	reserved int64 // of budget, for the buffers
	budget   *budget
}

// fields is a decoded body. What is absent or null is zero, and not in given.
type fields struct {
	given       fieldSet
	fromUID     string
	senderUID   string
	channelID   string
	clientMsgNo string
	streamNo    string
	tagKey      string
	channelType int64
	expire      int64
	headerFlags [3]int64 // no_persist, red_dot, sync_once
	topFlags    [3]int64
	payload     []byte
	subscribers []string
}

// requestPool recycles requests, so that a usual one allocates no buffer.
type requestPool struct {
	pool   sync.Pool
	budget budget
}

func newRequestPool(bodiesBytesMax int64) *requestPool {
	p := &requestPool{}
	p.budget.left.Store(bodiesBytesMax)
	p.pool.New = func() any {
		return &request{body: make([]byte, 0, bodyBytesFirst), budget: &p.budget}
	}
	return p
}

// get hands out a request. Large buffers that it has from before count as if they
// were made now; where there is no room for them it gets small ones.
func (p *requestPool) get() *request {
	r := p.pool.Get().(*request) //nolint:forcetypeassert // the pool holds nothing else
	extra := int64(cap(r.body) + cap(r.payload) + cap(r.text) - bodyBytesFirst)
	if extra <= 0 {
		return r
	}
	if p.budget.take(extra) {
		r.reserved = extra
	} else {
		r.body, r.payload, r.text = make([]byte, 0, bodyBytesFirst), nil, nil
	}
	return r
}

// of is get with a body that has been read elsewhere; it is copied. There is none where
// there is no room for it.
func (p *requestPool) of(body []byte) (r *request, ok bool) {
	r = p.get()
	for cap(r.body) < len(body) {
		if !r.grow(len(body)) {
			p.put(r)
			return nil, false
		}
	}
	r.body = append(r.body, body...)
	return r, true
}

// put takes r back. The caller must not touch r, nor what aliases it, any more.
func (p *requestPool) put(r *request) {
	p.budget.giveBack(r.reserved)
	r.reserved = 0
	if cap(r.body) > bodyBytesKept || cap(r.text) > bodyBytesKept || cap(r.payload) > bodyBytesKept || cap(r.fields.subscribers) > subscribersKept {
		return
	}
	r.body, r.text, r.payload, r.issues = r.body[:0], r.text[:0], r.payload[:0], r.issues[:0]
	subscribers := r.fields.subscribers[:cap(r.fields.subscribers)]
	clear(subscribers) // they point into body
	r.fields = fields{subscribers: subscribers[:0]}
	r.generated = false
	r.json.ResetBytes(nil)
	resetSend(&r.send)
	p.pool.Put(r)
}

// resetSend empties s. Reset of the generated code also touches the message's
// reflection state, which costs more than the rest together.
func resetSend(s *message.Send) {
	s.ChannelId, s.ChannelType, s.FromUid, s.ClientMsgNo = "", 0, "", ""
	s.NoPersist, s.RedDot, s.SyncOnce = false, false, false
	s.StreamNo, s.TagKey, s.Expire, s.Subscribers, s.Payload = "", "", 0, nil, nil
}

// budget is memory that all requests share.
type budget struct{ left atomic.Int64 }

func (b *budget) take(n int64) bool {
	if b.left.Add(-n) < 0 {
		b.left.Add(n)
		return false
	}
	return true
}

func (b *budget) giveBack(n int64) {
	if n != 0 {
		b.left.Add(n)
	}
}
