// Package outcome is the vocabulary of results: what can become of a request, and how each result is reported to the caller.
//
// An Outcome has one HTTP status, one stable code (also the label of the metrics), WuKongIM's reason and a default text; Spec is the only
// place that decides them. A Problem is an outcome other than 200 with the details of one request.
package outcome

import (
	"net/http"
	"strconv"

	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/pkg/api"
)

// Outcome is the result of a request. It determines everything else about the response: see Spec.
type Outcome uint8

// The outcomes. Which status, code and reason each has is in the table of spec.
const (
	Accepted Outcome = iota
	Duplicate
	Conflict
	InvalidJSON
	InvalidRequest
	InvalidPayload
	TooLarge
	MediaType
	MethodNotAllowed
	NotFound
	BodyUnreadable
	Unauthorized
	InsufficientScope
	UnknownHost
	CrossOrigin
	RateLimited
	Malformed
	HeaderTooLarge
	Expectation
	SenderBanned
	ChannelBanned
	Disbanded
	Denylisted
	NotSubscribed
	NotAllowlisted
	NoSuchChannel
	PermissionsUnavailable
	ChangeUnknown
	Overloaded
	Draining
	WALUnavailable
	WALFull
	WALStalled
	WALRefused
	PartitionRefused
	Unknown
	NoAnswer
	ClientGone
	Internal
	Count // the number of them
)

// WuKongIM's reason codes that apply to a send (WuKongIM pkg/protocol/frame).
const (
	ReasonNone          = 0
	ReasonSuccess       = 1
	ReasonAuthFail      = 2
	ReasonPayloadDecode = 9
	ReasonSystemError   = 15
	ReasonChannelID     = 16
	ReasonRateLimit     = 22
	ReasonChannelType   = 23
	ReasonConflict      = 28
)

// Spec is how an outcome is reported to the caller.
type Spec struct {
	Status     int
	Code       string // stable; also the label of the metrics
	Reason     int    // WuKongIM's
	RetryAfter int    // seconds; 0 means that retrying does not help
	Msg        string // the default text
}

// Spec is the only place that decides the status of a response.
func (o Outcome) Spec() Spec {
	const safe = "; sending it again with the same client_msg_no is safe"
	switch o {
	case Accepted:
		return Spec{Status: http.StatusOK, Code: "accepted", Reason: ReasonSuccess}
	case Duplicate:
		return Spec{Status: http.StatusOK, Code: "duplicate", Reason: ReasonSuccess}
	case Conflict:
		return Spec{Status: http.StatusConflict, Code: "client_msg_no_conflict", Reason: ReasonConflict}
	case InvalidJSON:
		return Spec{Status: http.StatusBadRequest, Code: "invalid_json"}
	case InvalidRequest:
		return Spec{Status: http.StatusBadRequest, Code: "invalid_request"}
	case InvalidPayload:
		return Spec{Status: http.StatusBadRequest, Code: "invalid_payload", Reason: ReasonPayloadDecode}
	case TooLarge:
		return Spec{Status: http.StatusRequestEntityTooLarge, Code: "too_large",
			Msg: "the send is larger than a record of the write-ahead log may be"}
	case MediaType:
		return Spec{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type"}
	case MethodNotAllowed:
		return Spec{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Msg: "this route does not support this method; see Allow"}
	case NotFound:
		return Spec{Status: http.StatusNotFound, Code: "not_found", Msg: "no such route"}
	case BodyUnreadable:
		return Spec{Status: http.StatusBadRequest, Code: "body_unreadable"}
	case Unauthorized, InsufficientScope, UnknownHost, CrossOrigin:
		return o.accessSpec()
	case RateLimited:
		return Spec{Status: http.StatusTooManyRequests, Code: "rate_limited", Reason: ReasonRateLimit, RetryAfter: 1}
	case Malformed:
		return Spec{Status: http.StatusBadRequest, Code: "malformed_request", Msg: "the request is not valid HTTP/1.1"}
	case HeaderTooLarge:
		return Spec{Status: http.StatusRequestHeaderFieldsTooLarge, Code: "header_too_large", Msg: "the header of the request is too large"}
	case Expectation:
		return Spec{Status: http.StatusExpectationFailed, Code: "expectation_failed", Msg: "Expect may only be 100-continue"}
	case SenderBanned, ChannelBanned, Disbanded, Denylisted, NotSubscribed, NotAllowlisted, NoSuchChannel,
		PermissionsUnavailable, ChangeUnknown:
		return o.permissionSpec()
	case Overloaded:
		return Spec{Status: http.StatusServiceUnavailable, Code: "overloaded", Reason: ReasonRateLimit, RetryAfter: 1,
			Msg: "the service is overloaded; nothing was written"}
	case Draining:
		return Spec{Status: http.StatusServiceUnavailable, Code: "draining", Reason: ReasonSystemError, RetryAfter: 1,
			Msg: "this process is not serving: it is starting or stopping; nothing was written"}
	case WALUnavailable:
		return Spec{Status: http.StatusServiceUnavailable, Code: "wal_unavailable", Reason: ReasonSystemError, RetryAfter: 1,
			Msg: "the write-ahead log is unreachable; nothing was written"}
	case WALFull:
		return Spec{Status: http.StatusServiceUnavailable, Code: "wal_full", Reason: ReasonSystemError, RetryAfter: 5,
			Msg: "the write-ahead log is full; nothing was written"}
	case WALStalled:
		return Spec{Status: http.StatusServiceUnavailable, Code: "wal_stalled", Reason: ReasonSystemError, RetryAfter: 3,
			Msg: "the write-ahead log does not acknowledge writes: its disk may be full or too slow; nothing was written"}
	case WALRefused:
		return Spec{Status: http.StatusServiceUnavailable, Code: "wal_refused", Reason: ReasonSystemError, RetryAfter: 1,
			Msg: "the write-ahead log refused the send; nothing was written"}
	case PartitionRefused:
		return Spec{Status: http.StatusServiceUnavailable, Code: "partition_refused", Reason: ReasonSystemError, RetryAfter: 5,
			Msg: "the channel's partition is not served; nothing was written"}
	case Unknown:
		return Spec{Status: http.StatusServiceUnavailable, Code: "outcome_unknown", Reason: ReasonSystemError, RetryAfter: 1,
			Msg: "the write-ahead log did not acknowledge the send, so it may have been written or not" + safe}
	case NoAnswer:
		return Spec{Status: http.StatusServiceUnavailable, Code: "no_answer", Reason: ReasonSystemError, RetryAfter: 1,
			Msg: "the send is stored, but no sequencer answered in time" + safe}
	case ClientGone:
		// The client is gone and receives nothing; the status, nginx's, is for the metrics.
		return Spec{Status: 499, Code: "client_gone"}
	default:
		return Spec{Status: http.StatusInternalServerError, Code: "internal", Reason: ReasonSystemError,
			Msg: "internal error; see the log of the service"}
	}
}

// accessSpec is the spec of outcomes that refuse a caller regardless of the request.
func (o Outcome) accessSpec() Spec {
	switch o {
	case Unauthorized:
		return Spec{Status: http.StatusUnauthorized, Code: "unauthorized", Reason: ReasonAuthFail}
	case InsufficientScope:
		return Spec{Status: http.StatusForbidden, Code: "insufficient_scope", Reason: ReasonAuthFail, Msg: "the token does not allow this"}
	case UnknownHost:
		return Spec{Status: http.StatusForbidden, Code: "unknown_host", Reason: ReasonAuthFail}
	default: // CrossOrigin
		return Spec{Status: http.StatusForbidden, Code: "cross_origin", Reason: ReasonAuthFail}
	}
}

// Problem is a response other than 200. The zero value means that there is none.
type Problem struct {
	Outcome Outcome
	Msg     string // "" means the outcome's own
	Field   string // names of the bad fields, separated by commas
	Reason  int    // 0 means the outcome's own
	// RetryAfter is in seconds; 0 means the outcome's own.
	RetryAfter int
	// Sends is the number of sends in the request, if that may be more than one. They count against the caller's rate.
	Sends int
}

// OK reports whether there is no problem.
func (p Problem) OK() bool { return p.Outcome == Accepted }

// Message returns the problem's text.
func (p Problem) Message() string {
	if p.Msg != "" {
		return p.Msg
	}
	return p.Outcome.Spec().Msg
}

// shape converts the problem to the API's error shape.
func (p Problem) shape() api.Problem {
	s := p.Outcome.Spec()
	if p.Reason != ReasonNone {
		s.Reason = p.Reason
	}
	return api.Problem{Status: s.Status, Code: s.Code, Msg: p.Message(), Field: p.Field, Reason: s.Reason, RetryAfter: max(s.RetryAfter, p.RetryAfter)}
}

// Append appends the problem's JSON.
func (p Problem) Append(body []byte) []byte { return p.shape().Append(body) }

// Write answers with the problem.
func (p Problem) Write(w http.ResponseWriter) { p.shape().Write(w) }

// Response returns the problem as a complete HTTP response, for use without a ResponseWriter. The connection is closed
// after it.
func (p Problem) Response() []byte {
	s := p.Outcome.Spec()
	body := p.Append(make([]byte, 0, 256))
	out := append(make([]byte, 0, 512), "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(s.Status), 10)
	out = append(append(out, ' '), http.StatusText(s.Status)...)
	out = append(out, "\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n"...)
	if s.RetryAfter > 0 {
		out = append(out, "Retry-After: "...)
		out = append(strconv.AppendInt(out, int64(s.RetryAfter), 10), "\r\n"...)
	}
	out = append(out, "Content-Length: "...)
	out = strconv.AppendInt(out, int64(len(body)), 10)
	return append(append(out, "\r\n\r\n"...), body...)
}

// Of returns the outcome of a send for the verdict v.
func Of(v permission.Verdict) Outcome {
	switch v {
	case permission.Allowed:
		return Accepted
	case permission.SenderBanned:
		return SenderBanned
	case permission.ChannelBanned:
		return ChannelBanned
	case permission.Disbanded:
		return Disbanded
	case permission.Denylisted:
		return Denylisted
	case permission.NotSubscribed:
		return NotSubscribed
	case permission.NotAllowlisted:
		return NotAllowlisted
	case permission.Undefined:
		return NoSuchChannel
	default:
		return PermissionsUnavailable
	}
}

// permissionSpec is Spec for the outcomes of permissions.
func (o Outcome) permissionSpec() Spec {
	refusal := func(v permission.Verdict, code, msg string) Spec {
		return Spec{Status: http.StatusForbidden, Code: code, Reason: v.Reason(), Msg: msg}
	}
	switch o {
	case SenderBanned:
		return refusal(permission.SenderBanned, "sender_banned", "the sender is banned from sending")
	case ChannelBanned:
		return refusal(permission.ChannelBanned, "channel_banned", "the channel is banned")
	case Disbanded:
		return refusal(permission.Disbanded, "channel_disbanded", "the channel is disbanded")
	case Denylisted:
		return refusal(permission.Denylisted, "denylisted", "the sender is on the channel's denylist")
	case NotSubscribed:
		return refusal(permission.NotSubscribed, "not_subscribed", "the sender is not a subscriber of the channel")
	case NotAllowlisted:
		return refusal(permission.NotAllowlisted, "not_allowlisted", "the sender is not on the channel's allowlist")
	case NoSuchChannel:
		return refusal(permission.Undefined, "no_such_channel", "the channel is not defined")
	case ChangeUnknown:
		return Spec{Status: http.StatusServiceUnavailable, Code: "change_unknown", Reason: ReasonSystemError, RetryAfter: 1,
			Msg: "the change may be in force or not; repeating it is safe"}
	default:
		return Spec{Status: http.StatusServiceUnavailable, Code: "permissions_unavailable", Reason: ReasonSystemError, RetryAfter: 1,
			Msg: "the permissions are not available; nothing was written"}
	}
}
