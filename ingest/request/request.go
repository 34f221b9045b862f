// Package request turns the body of a request into a checked message.Send.
//
// A body is read into a pooled buffer whose memory is taken from a budget shared by all requests; a request for which there is no memory is
// refused, not queued. Decoding accepts what encoding/json accepts, except as the comment of Decode lists; a form that most clients send is
// scanned faster, with the same result. Validation reports every bad field in one error. Strings of a Request and its Send alias its
// buffers: nothing of them may be kept after Put.
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
	bodyBytesFirst  = 2 << 10   // what a buffer begins with; holds the usual body, and is not counted
	bodyBytesKept   = 128 << 10 // larger buffers go to the garbage collector; holds a payload of 64 KiB
	subscribersKept = 256
)

// Request is one request from its first byte until its send is in the gathering
// batch; then it goes back to the pool.
//
// The strings of fields and send alias body and text. Nothing of them may be kept
// after release: what the answer needs is copied before (see Service.send).
type Request struct {
	body    []byte // as it came
	text    []byte // strings that had escapes, unescaped
	payload []byte // decoded
	json    jx.Decoder
	fields  fields
	issues  []issue
	Send    message.Send
	// generated says that client_msg_no was made here.
	Generated bool

	reserved int64 // of budget, for the buffers
	budget   *memory.Budget
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

// Pool recycles requests, so that a usual one allocates no buffer.
type Pool struct {
	pool         sync.Pool
	Budget       *memory.Budget
	splits       *memory.Buffers // what splitters read into
	bodyBytesMax int             // of one request
	Uploading    atomic.Int64    // requests whose client has not sent the next part of its body yet
}

// NewPool makes a pool for bodies of up to bodyBytesMax each and bodiesBytesMax altogether.
func NewPool(bodyBytesMax int, bodiesBytesMax int64) *Pool {
	p := &Pool{Budget: memory.NewBudget(bodiesBytesMax), bodyBytesMax: bodyBytesMax, splits: memory.NewBuffers(splitterBytesFirst)}
	p.pool.New = func() any {
		return &Request{body: make([]byte, 0, bodyBytesFirst), budget: p.Budget}
	}
	return p
}

// Get hands out a request. Large buffers that it has from before count as if they
// were made now; where there is no room for them it gets small ones.
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

// GetWith is Get with a body that was read elsewhere; it is copied. There is none where
// there is no room for it.
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

// Put takes r back. The caller must not touch r, nor what aliases it, any more.
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

// resetSend empties s. Reset of the generated code also touches the message's
// reflection state, which costs more than the rest together.
func resetSend(s *message.Send) {
	s.ChannelId, s.ChannelType, s.FromUid, s.ClientMsgNo = "", 0, "", ""
	s.NoPersist, s.RedDot, s.SyncOnce = false, false, false
	s.StreamNo, s.TagKey, s.Expire, s.Subscribers, s.Payload = "", "", 0, nil, nil
}

// ForPermission is what the permissions are asked about a send. Its strings alias the request. A
// command has the policy of its channel.
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
		ReceiversNamed: r.fields.channelID == "" && len(send.Subscribers) > 0,
	}
}

// otherSide is the uid at the other side of a canonical person channel, which the sender is
// one side of.
func otherSide(from, channel string) string {
	left, right, _ := strings.Cut(channel, "@")
	if left == from {
		return right
	}
	return left
}
