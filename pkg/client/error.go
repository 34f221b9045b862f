package client

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Error is an answer of the server other than 200.
type Error struct {
	// Status is the HTTP status.
	Status int
	// Code is the server's name for the case (docs/reference/api.md lists them). It is "" where something between here and the server answered.
	Code string
	// Msg says what is wrong, for people.
	Msg string
	// Field names the bad fields, separated by commas.
	Field string
	// Reason is WuKongIM's reason code, or 0.
	Reason int
	// RetryAfter is how long the server asks to wait before another try; 0 means that it did not say.
	RetryAfter time.Duration
}

// Error is the status, the code and the message.
func (e *Error) Error() string {
	code := e.Code
	if code == "" {
		code = http.StatusText(e.Status)
	}
	return fmt.Sprintf("%d %s: %s", e.Status, code, e.Msg)
}

// Retryable reports whether the same request can succeed later, without anybody changing anything.
func (e *Error) Retryable() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	default:
		return e.Code == "body_unreadable"
	}
}

// Refused reports whether the server has looked at this send and will not have it: it is malformed, too large, not permitted, or another
// message has its client_msg_no. A wrong token or route says nothing about the send, and does not count.
func (e *Error) Refused() bool {
	switch e.Status {
	case http.StatusRequestEntityTooLarge:
		return true // also where a proxy says it
	case http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity:
		return e.Code != "" && e.Code != "body_unreadable"
	case http.StatusForbidden:
		return e.Code != "" && e.Code != "insufficient_scope"
	default:
		return false
	}
}

// MaybeStored reports whether the send may be stored in spite of the error. The codes are those of docs/reference/api.md after which nothing is written.
func (e *Error) MaybeStored() bool {
	switch e.Code {
	case "overloaded", "draining", "wal_unavailable", "wal_full", "wal_stalled", "wal_refused", "partition_refused", "permissions_unavailable", "out_of_order":
		return false
	}
	return e.Status >= http.StatusInternalServerError || e.Status == http.StatusRequestTimeout || e.Status < http.StatusMultipleChoices
}

// SendError is a send that did not succeed, with what is needed to try it again.
type SendError struct {
	// ClientMsgNo is the send's; trying again under it is safe while the server remembers it.
	ClientMsgNo string
	// Tries is how often it was tried.
	Tries int
	// MaybeStored: at least one of the tries may have been stored.
	MaybeStored bool
	since       time.Time // the start of the first try that may have been
	// Err is what became of the last try: an *Error, or what the network or the context had to say.
	Err error
}

// Error names the send and the last try's error.
func (e *SendError) Error() string {
	stored := "not stored"
	if e.MaybeStored {
		stored = "may be stored"
	}
	tries := "tries"
	if e.Tries == 1 {
		tries = "try"
	}
	return fmt.Sprintf("client: send %s: %s after %d %s: %v", e.ClientMsgNo, stored, e.Tries, tries, e.Err)
}

// Unwrap is the last try's error.
func (e *SendError) Unwrap() error { return e.Err }

// add notes that a try that began at start has failed.
func (e *SendError) add(start time.Time, err error) {
	e.Tries++
	e.Err = err
	if !e.MaybeStored && MaybeStored(err) {
		e.MaybeStored, e.since = true, start
	}
}

// tryError is a try that got no answer.
type tryError struct {
	err     error
	written bool // the request may have reached the server
}

func (e *tryError) Error() string { return e.err.Error() }
func (e *tryError) Unwrap() error { return e.err }

// IsRetryable reports whether trying again later can help: the server was not reached, did not answer, or said that it cannot now.
func IsRetryable(err error) bool {
	var answered *Error
	var unanswered *tryError
	switch {
	case errors.As(err, &answered):
		return answered.Retryable()
	case errors.As(err, &unanswered):
		return true
	default:
		return false
	}
}

// IsRefused reports whether the server will not have this send, now or later; see [Error.Refused].
func IsRefused(err error) bool {
	var answered *Error
	return errors.As(err, &answered) && answered.Refused()
}

// MaybeStored reports whether the send may be stored in spite of err.
func MaybeStored(err error) bool {
	var sent *SendError
	var answered *Error
	var unanswered *tryError
	switch {
	case errors.As(err, &sent):
		return sent.MaybeStored
	case errors.As(err, &answered):
		return answered.MaybeStored()
	case errors.As(err, &unanswered):
		return unanswered.written
	default:
		return false
	}
}

// RetryAfter is how long the server asked to wait before another try; 0 if it did not.
func RetryAfter(err error) time.Duration {
	var answered *Error
	if errors.As(err, &answered) {
		return answered.RetryAfter
	}
	return 0
}
