package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sendhouse/sendhouse/pkg/client/internal/age"
)

const (
	// answerBytesMax is how much of the answer to one send is read.
	answerBytesMax = 1 << 20
	// excerptBytesMax is how much of an answer that is not the server's an Error quotes.
	excerptBytesMax = 200
)

// answerJSON is the server's word on one send: the body of a 200 or an error, or an element of the answer to a bulk.
type answerJSON struct {
	Status      int    `json:"status"`
	MessageID   int64  `json:"message_id"`
	MessageSeq  int64  `json:"message_seq"`
	ClientMsgNo string `json:"client_msg_no"`
	Replayed    bool   `json:"idempotent_replayed"`

	ChannelID   string      `json:"channel_id"`
	ChannelType ChannelType `json:"channel_type"`

	Code   string `json:"code"`
	Msg    string `json:"msg"`
	Field  string `json:"field"`
	Reason int    `json:"reason"`
}

// result checks that a 200 answers the send that was made.
func (a *answerJSON) result(clientMsgNo string) (Result, error) {
	if a.MessageID <= 0 || a.ClientMsgNo != clientMsgNo {
		return Result{}, &tryError{written: true, err: fmt.Errorf(
			"the answer is not that of this send: message_id %d, client_msg_no %q", a.MessageID, a.ClientMsgNo)}
	}
	return Result{
		MessageID: a.MessageID, MessageSeq: a.MessageSeq, ClientMsgNo: a.ClientMsgNo, Replayed: a.Replayed,
		ChannelID: a.ChannelID, ChannelType: a.ChannelType,
	}, nil
}

func (a *answerJSON) problem() *Error {
	return &Error{Status: a.Status, Code: a.Code, Msg: a.Msg, Field: a.Field, Reason: a.Reason}
}

// reply is an answer, whatever its status.
type reply struct {
	status int
	header http.Header
	body   io.ReadCloser
	cancel context.CancelFunc
}

// close ends the try's time too.
func (r *reply) close() {
	// What is left of a small answer is read, or the connection could not be used again.
	_, _ = io.CopyN(io.Discard, r.body, answerBytesMax)
	_ = r.body.Close()
	r.cancel()
}

// all reads the whole body.
func (r *reply) all() ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r.body, answerBytesMax))
	if err != nil {
		return nil, &tryError{written: true, err: fmt.Errorf("read the answer: %w", err)}
	}
	return text, nil
}

// errTryLate says that a try's time was over by the wall clock before it was on its way.
var errTryLate = errors.New("the machine was suspended, or its clock set, and the time of this try is over")

// errTryOver says that a try has failed already; only net/http sees it.
var errTryOver = errors.New("the try is over")

// tryBody is the body of one try. It is handed out only while the try's time is not over by the wall clock either: while the machine is
// suspended a context's time stands still, and a request that waits for a connection, or that net/http repeats on another one, would be
// sent when the server has long forgotten an earlier one.
type tryBody struct {
	text    []byte
	start   time.Time
	timeout time.Duration
	state   atomic.Int32 // bodyUnread, and from there one of the others
}

const (
	bodyUnread int32 = iota
	bodyRead         // some of it may have left this machine
	bodyOver         // none of it has, and none will
)

// written reports whether the body may have left this machine. It is asked when the try has failed; if it has not by then, it never will.
func (b *tryBody) written() bool { return !b.state.CompareAndSwap(bodyUnread, bodyOver) }

// open returns the body from its beginning.
func (b *tryBody) open() io.ReadCloser {
	return io.NopCloser(&tryReader{b: b, rest: bytes.NewReader(b.text)})
}

// tryReader is the body, read once.
type tryReader struct {
	b    *tryBody
	rest *bytes.Reader
}

// Read is for net/http.
func (r *tryReader) Read(p []byte) (int, error) {
	if age.Of(r.b.start, time.Now()) > r.b.timeout {
		return 0, errTryLate
	}
	if !r.b.state.CompareAndSwap(bodyUnread, bodyRead) && r.b.state.Load() == bodyOver {
		return 0, errTryOver
	}
	return r.rest.Read(p)
}

// outgoing is a request to be made.
type outgoing struct {
	method, route, contentType string
	body                       []byte
	timeout                    time.Duration
	ordered                    bool // the header of a bulk whose order is to be kept
}

// orderHeader asks that a send of a bulk is not stored unless those of its channel before it are.
const orderHeader = "Sendhouse-Ordered"

// request makes one request and returns its answer, which must be closed.
func (c *Client) request(ctx context.Context, out outgoing) (*reply, error) {
	base, token, err := c.endpoint(ctx)
	if err != nil {
		return nil, &tryError{err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, out.timeout)
	req, err := http.NewRequestWithContext(ctx, out.method, base+out.route, http.NoBody)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("client: %w", err)
	}
	// The body is read when there is a connection, and for HTTPS a handshake: before that nothing has left this machine.
	sent := &tryBody{text: out.body, start: time.Now(), timeout: out.timeout}
	if len(out.body) > 0 {
		req.Body, req.ContentLength = sent.open(), int64(len(out.body))
		req.GetBody = func() (io.ReadCloser, error) { return sent.open(), nil }
	}
	if out.contentType != "" {
		req.Header.Set("Content-Type", out.contentType)
	}
	if out.ordered {
		req.Header.Set(orderHeader, "1")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	// A kept connection may be closed by the other side just now. With this net/http tries another one by itself, as it does for GET; an
	// empty list is not sent.
	req.Header["Idempotency-Key"] = []string{}
	res, err := c.http.Do(req) //nolint:bodyclose // reply.close does
	if err != nil {
		cancel()
		return nil, &tryError{err: err, written: sent.written()}
	}
	return &reply{status: res.StatusCode, header: res.Header, body: res.Body, cancel: cancel}, nil
}

// endpoint is where the server is now, and the token.
func (c *Client) endpoint(ctx context.Context) (base, token string, err error) {
	base, token = c.base, c.cfg.Token
	if c.cfg.URLFrom != nil {
		text, err := c.cfg.URLFrom(ctx)
		if err == nil {
			base, err = checkURL(text)
		}
		if err != nil {
			return "", "", fmt.Errorf("URLFrom: %w", err)
		}
	}
	if c.cfg.TokenFrom != nil {
		if token, err = c.cfg.TokenFrom(ctx); err == nil {
			err = checkToken(token)
		}
		if err != nil {
			return "", "", fmt.Errorf("TokenFrom: %w", err)
		}
	}
	return base, token, nil
}

// trySend is one try of one send.
func (c *Client) trySend(ctx context.Context, clientMsgNo string, body []byte, timeout time.Duration) (Result, error) {
	res, err := c.request(ctx, outgoing{method: http.MethodPost, route: "/message/send", contentType: "application/json", body: body, timeout: timeout})
	if err != nil {
		return Result{}, err
	}
	defer res.close()
	text, err := res.all()
	switch {
	case err != nil:
		return Result{}, err
	case res.status != http.StatusOK:
		return Result{}, res.problem(text)
	}
	var a answerJSON
	if err := json.Unmarshal(text, &a); err != nil {
		return Result{}, &tryError{written: true, err: fmt.Errorf("the answer is no JSON object: %w: %s", err, excerpt(text))}
	}
	a.Replayed = res.header.Get("Idempotent-Replayed") == "true"
	return a.result(clientMsgNo)
}

// problem makes an Error of an answer other than 200.
func (r *reply) problem(text []byte) *Error {
	var a answerJSON
	if err := json.Unmarshal(text, &a); err != nil || a.Code == "" {
		a = answerJSON{Msg: excerpt(text)} // not from the server itself
	}
	a.Status = r.status
	e := a.problem()
	e.RetryAfter = retryAfter(r.header)
	return e
}

// retryAfter reads Retry-After: seconds, or a date.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil && seconds >= 0 {
		return time.Duration(seconds) * time.Second // 32 bits of seconds are no overflow
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

func excerpt(text []byte) string {
	if len(text) > excerptBytesMax {
		text = text[:excerptBytesMax]
	}
	if text := strings.ToValidUTF8(strings.TrimSpace(string(text)), "\ufffd"); text != "" {
		return strconv.Quote(text)
	}
	return "the answer has no body"
}

// ended reports whether a try failed because the caller's context did.
func ended(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}
