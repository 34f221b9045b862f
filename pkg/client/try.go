package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
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
	Code        string `json:"code"`
	Msg         string `json:"msg"`
	Field       string `json:"field"`
	Reason      int    `json:"reason"`
}

// result checks that a 200 answers the send that was made.
func (a *answerJSON) result(clientMsgNo string) (Result, error) {
	if a.MessageID <= 0 || a.ClientMsgNo != clientMsgNo {
		return Result{}, &tryError{written: true, err: fmt.Errorf(
			"the answer is not that of this send: message_id %d, client_msg_no %q", a.MessageID, a.ClientMsgNo)}
	}
	return Result{MessageID: a.MessageID, MessageSeq: a.MessageSeq, ClientMsgNo: a.ClientMsgNo, Replayed: a.Replayed}, nil
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

// request makes one request and gives its answer, which must be closed.
func (c *Client) request(ctx context.Context, timeout time.Duration, method, route, contentType string, body []byte) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	// Without a connection, and for HTTPS a handshake, nothing has left this machine.
	var connected atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	req, err := http.NewRequestWithContext(traced, method, c.base+route, bytes.NewReader(body))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("client: %w", err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if c.cfg.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.cfg.Token)
	}
	// A kept connection may be closed by the other side just now. With this net/http tries another one by itself, as it does for GET; an
	// empty list is not sent.
	req.Header["Idempotency-Key"] = []string{}
	res, err := c.http.Do(req) //nolint:bodyclose // reply.close does
	if err != nil {
		cancel()
		return nil, &tryError{err: err, written: connected.Load()}
	}
	return &reply{status: res.StatusCode, header: res.Header, body: res.Body, cancel: cancel}, nil
}

// trySend is one try of one send.
func (c *Client) trySend(ctx context.Context, clientMsgNo string, body []byte) (Result, error) {
	res, err := c.request(ctx, c.cfg.TryTimeout, http.MethodPost, "/message/send", "application/json", body)
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
		return time.Duration(seconds) * time.Second
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

// ended says whether a try failed because the caller's context did.
func ended(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}
