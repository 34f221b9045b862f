// Package request turns the body of a request into a checked message.Send.
//
// A body is read into a pooled buffer whose memory is taken from a budget shared by all requests; a request for which
// there is no memory is refused, not queued. Decoding accepts what encoding/json accepts, with the exceptions listed at
// Decode; bodies in the form that most clients send take a faster path (scan) with the same result. Validation reports
// every bad field in one error. The strings of a Request and its Send alias its buffers and must not be used after Put.
package request

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-faster/jx"

	"github.com/sendhouse/sendhouse/ingest/memory"
	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/pkg/message"
)

const (
	bodyBytesFirst  = 2 << 10   // initial size of a buffer; fits the usual body, and is not counted in the budget
	bodyBytesKept   = 128 << 10 // larger buffers go to the garbage collector; fits a payload of 64 KiB
	subscribersKept = 256
)

// Request holds one request from its first byte until its send is in the gathering batch; then it returns to the pool.
//
// The strings of fields and send alias body and text and must not be used after Put: copy what the response needs first
// (see Service.send).
type Request struct {
	body    []byte // as received
	text    []byte // unescaped copies of strings with escapes
	payload []byte // decoded
	json    jx.Decoder
	fields  fields
	issues  []issue
	Send    message.Send
	// Generated reports that the service generated client_msg_no.
	Generated bool

	reserved int64 // taken from the budget for the buffers
	budget   *memory.Budget
}

// Pool recycles requests, so that a typical one allocates no buffer.
type Pool struct {
	pool         sync.Pool
	Budget       *memory.Budget
	splits       *memory.Buffers // buffers of splitters
	bodyBytesMax int             // of one request
	Uploading    atomic.Int64    // requests waiting for the next part of their body
}

// NewPool returns a pool for bodies of up to bodyBytesMax each and bodiesBytesMax in total.
func NewPool(bodyBytesMax int, bodiesBytesMax int64) *Pool {
	p := &Pool{Budget: memory.NewBudget(bodiesBytesMax), bodyBytesMax: bodyBytesMax, splits: memory.NewBuffers(splitterBytesFirst)}
	p.pool.New = func() any {
		return &Request{body: make([]byte, 0, bodyBytesFirst), budget: p.Budget}
	}
	return p
}

// Get returns a request from the pool. Its large recycled buffers are charged to the budget as if they were new; if there
// is no room for them, it gets small ones.
func (p *Pool) Get() *Request {
	r := p.pool.Get().(*Request) //nolint:forcetypeassert // the pool holds nothing else
	extra := int64(cap(r.body) + cap(r.payload) + cap(r.text) - bodyBytesFirst)
	if extra <= 0 {
		return r
	}
	if p.Budget.Take(extra) {
		r.reserved = extra
	} else {
		r.body, r.payload, r.text = make([]byte, 0, bodyBytesFirst), nil, nil
	}
	return r
}

// GetWith returns a request with a copy of a body that was read elsewhere, or false if the budget has no room for it.
func (p *Pool) GetWith(body []byte) (r *Request, ok bool) {
	r = p.Get()
	for cap(r.body) < len(body) {
		if !r.grow(len(body)) {
			p.Put(r)
			return nil, false
		}
	}
	r.body = append(r.body, body...)
	return r, true
}

// Put returns r to the pool. The caller must no longer use r or anything that aliases it.
func (p *Pool) Put(r *Request) {
	p.Budget.GiveBack(r.reserved)
	r.reserved = 0
	if cap(r.body) > bodyBytesKept || cap(r.text) > bodyBytesKept || cap(r.payload) > bodyBytesKept || cap(r.fields.subscribers) > subscribersKept {
		return
	}
	r.body, r.text, r.payload, r.issues = r.body[:0], r.text[:0], r.payload[:0], r.issues[:0]
	subscribers := r.fields.subscribers[:cap(r.fields.subscribers)]
	clear(subscribers) // they point into body
	r.fields = fields{subscribers: subscribers[:0]}
	r.Generated = false
	r.json.ResetBytes(nil)
	resetSend(&r.Send)
	p.pool.Put(r)
}

// SendAs makes uid the sender of a decoded request that names none. Blanks name none.
func (r *Request) SendAs(uid string) {
	f := &r.fields
	if strings.TrimSpace(f.fromUID) == "" && strings.TrimSpace(f.senderUID) == "" {
		f.fromUID = uid
	}
}

// ForPermission returns the send as the permissions see it. Its strings alias the request. A command falls under the
// policy of its channel.
func (r *Request) ForPermission() permission.Send {
	send := &r.Send
	name := send.ChannelId
	if send.SyncOnce {
		name = strings.TrimSuffix(name, message.CommandSuffix)
	}
	channelType := message.ChannelType(send.ChannelType)
	if channelType == message.ChannelPerson {
		name = otherSide(send.FromUid, name)
	}
	return permission.Send{
		From: send.FromUid, Type: channelType, Name: name,
		ReceiversNamed: r.TemporaryChannel() != "",
	}
}

// TemporaryChannel returns the channel_id of the temporary channel that a validated send goes to, or "" if the request names a channel. It
// aliases the request.
func (r *Request) TemporaryChannel() string {
	if r.fields.channelID != "" || len(r.Send.Subscribers) == 0 {
		return ""
	}
	return strings.TrimSuffix(r.Send.ChannelId, message.CommandSuffix)
}

// otherSide returns the other uid of a canonical person channel, of which the sender is one side.
func otherSide(from, channel string) string {
	left, right, _ := strings.Cut(channel, "@")
	if left == from {
		return right
	}
	return left
}
