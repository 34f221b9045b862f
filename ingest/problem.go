package ingest

import (
	"net/http"

	"github.com/sendhouse/sendhouse/pkg/api"
)

// outcome is what became of a request. It decides everything else about the
// answer: see spec.
type outcome uint8

const (
	outcomeAccepted outcome = iota
	outcomeDuplicate
	outcomeConflict
	outcomeInvalidJSON
	outcomeInvalidRequest
	outcomeInvalidPayload
	outcomeTooLarge
	outcomeMediaType
	outcomeMethod
	outcomeNotFound
	outcomeBodyUnread
	outcomeUnauthorized
	outcomeScope
	outcomeHost
	outcomeOrigin
	outcomeRateLimited
	outcomeMalformed
	outcomeHeaderTooLarge
	outcomeExpectation
	outcomeSenderBanned
	outcomeChannelBanned
	outcomeDisbanded
	outcomeDenylisted
	outcomeNotSubscribed
	outcomeNotAllowlisted
	outcomeUndefined
	outcomePermissionsAway
	outcomePermissionsUnknown
	outcomeOverloaded
	outcomeDraining
	outcomeWALUnavailable
	outcomeWALFull
	outcomeWALStalled
	outcomeWALRefused
	outcomePartitionRefused
	outcomeUnknown
	outcomeNoAnswer
	outcomeClientGone
	outcomeInternal
	outcomes // the number of them
)

// WuKongIM's reason codes, as far as they say something about a send
// (WuKongIM pkg/protocol/frame).
const (
	reasonNone          = 0
	reasonSuccess       = 1
	reasonAuthFail      = 2
	reasonPayloadDecode = 9
	reasonSystemError   = 15
	reasonChannelID     = 16
	reasonRateLimit     = 22
	reasonChannelType   = 23
	reasonConflict      = 28
)

// spec is how an outcome is told to the caller.
type spec struct {
	status     int
	code       string // stable; also the metrics' label
	reason     int    // WuKongIM's
	retryAfter int    // seconds; 0 means that trying again does not help
	msg        string // where the case has nothing better to say
}

// spec is the one place where the status of an answer is decided.
func (o outcome) spec() spec {
	const safe = "; sending it again with the same client_msg_no is safe"
	switch o {
	case outcomeAccepted:
		return spec{status: http.StatusOK, code: "accepted", reason: reasonSuccess}
	case outcomeDuplicate:
		return spec{status: http.StatusOK, code: "duplicate", reason: reasonSuccess}
	case outcomeConflict:
		return spec{status: http.StatusConflict, code: "client_msg_no_conflict", reason: reasonConflict}
	case outcomeInvalidJSON:
		return spec{status: http.StatusBadRequest, code: "invalid_json"}
	case outcomeInvalidRequest:
		return spec{status: http.StatusBadRequest, code: "invalid_request"}
	case outcomeInvalidPayload:
		return spec{status: http.StatusBadRequest, code: "invalid_payload", reason: reasonPayloadDecode}
	case outcomeTooLarge:
		return spec{status: http.StatusRequestEntityTooLarge, code: "too_large",
			msg: "the send is larger than the write-ahead log takes in one record"}
	case outcomeMediaType:
		return spec{status: http.StatusUnsupportedMediaType, code: "unsupported_media_type"}
	case outcomeMethod:
		return spec{status: http.StatusMethodNotAllowed, code: "method_not_allowed", msg: "this route does not take this method; see Allow"}
	case outcomeNotFound:
		return spec{status: http.StatusNotFound, code: "not_found", msg: "no such route"}
	case outcomeBodyUnread:
		return spec{status: http.StatusBadRequest, code: "body_unreadable"}
	case outcomeUnauthorized, outcomeScope, outcomeHost, outcomeOrigin:
		return o.accessSpec()
	case outcomeRateLimited:
		return spec{status: http.StatusTooManyRequests, code: "rate_limited", reason: reasonRateLimit, retryAfter: 1}
	case outcomeMalformed:
		return spec{status: http.StatusBadRequest, code: "malformed_request", msg: "the request is not valid HTTP/1.1"}
	case outcomeHeaderTooLarge:
		return spec{status: http.StatusRequestHeaderFieldsTooLarge, code: "header_too_large", msg: "the header of the request is larger than is taken"}
	case outcomeExpectation:
		return spec{status: http.StatusExpectationFailed, code: "expectation_failed", msg: "Expect may only be 100-continue"}
	case outcomeSenderBanned, outcomeChannelBanned, outcomeDisbanded, outcomeDenylisted, outcomeNotSubscribed, outcomeNotAllowlisted, outcomeUndefined,
		outcomePermissionsAway, outcomePermissionsUnknown:
		return o.permissionSpec()
	case outcomeOverloaded:
		return spec{status: http.StatusServiceUnavailable, code: "overloaded", reason: reasonRateLimit, retryAfter: 1,
			msg: "more is being sent than can be taken; nothing was written"}
	case outcomeDraining:
		return spec{status: http.StatusServiceUnavailable, code: "draining", reason: reasonSystemError, retryAfter: 1,
			msg: "this process is not serving: it is starting or stopping; nothing was written"}
	case outcomeWALUnavailable:
		return spec{status: http.StatusServiceUnavailable, code: "wal_unavailable", reason: reasonSystemError, retryAfter: 1,
			msg: "the write-ahead log cannot be reached; nothing was written"}
	case outcomeWALFull:
		return spec{status: http.StatusServiceUnavailable, code: "wal_full", reason: reasonSystemError, retryAfter: 5,
			msg: "the write-ahead log is full; nothing was written"}
	case outcomeWALStalled:
		return spec{status: http.StatusServiceUnavailable, code: "wal_stalled", reason: reasonSystemError, retryAfter: 3,
			msg: "the write-ahead log does not acknowledge what is written to it: its disk may be full, or too slow; nothing was written"}
	case outcomeWALRefused:
		return spec{status: http.StatusServiceUnavailable, code: "wal_refused", reason: reasonSystemError, retryAfter: 1,
			msg: "the write-ahead log refused the send; nothing was written"}
	case outcomePartitionRefused:
		return spec{status: http.StatusServiceUnavailable, code: "partition_refused", reason: reasonSystemError, retryAfter: 5,
			msg: "the channel's partition is not served; nothing was written"}
	case outcomeUnknown:
		return spec{status: http.StatusServiceUnavailable, code: "outcome_unknown", reason: reasonSystemError, retryAfter: 1,
			msg: "the write-ahead log did not acknowledge the send, so it may have been written or not" + safe}
	case outcomeNoAnswer:
		return spec{status: http.StatusServiceUnavailable, code: "no_answer", reason: reasonSystemError, retryAfter: 1,
			msg: "the send is stored, but no sequencer answered in time" + safe}
	case outcomeClientGone:
		// Nobody reads this; the status, nginx's, is for the metrics.
		return spec{status: 499, code: "client_gone"}
	default:
		return spec{status: http.StatusInternalServerError, code: "internal", reason: reasonSystemError,
			msg: "a fault in this service; its log says more"}
	}
}

// accessSpec is the spec of what refuses a caller whatever he asks for.
func (o outcome) accessSpec() spec {
	switch o {
	case outcomeUnauthorized:
		return spec{status: http.StatusUnauthorized, code: "unauthorized", reason: reasonAuthFail}
	case outcomeScope:
		return spec{status: http.StatusForbidden, code: "insufficient_scope", reason: reasonAuthFail, msg: "the token does not allow this"}
	case outcomeHost:
		return spec{status: http.StatusForbidden, code: "unknown_host", reason: reasonAuthFail}
	default: // outcomeOrigin
		return spec{status: http.StatusForbidden, code: "cross_origin", reason: reasonAuthFail}
	}
}

// problem is an answer other than 200. The zero value means that there is none.
type problem struct {
	outcome outcome
	msg     string // "" means the outcome's own
	field   string // names of the bad fields, separated by commas
	reason  int    // 0 means the outcome's own
	// retryAfter is in seconds; 0 means the outcome's own.
	retryAfter int
	// sends is how many sends the request held, where that may be more than one. They count
	// against the caller's rate.
	sends int
}

func (p problem) ok() bool { return p.outcome == outcomeAccepted }

// message is what the problem says.
func (p problem) message() string {
	if p.msg != "" {
		return p.msg
	}
	return p.outcome.spec().msg
}

// shape is the problem as the contract wants it.
func (p problem) shape() api.Problem {
	s := p.outcome.spec()
	if p.reason != reasonNone {
		s.reason = p.reason
	}
	return api.Problem{Status: s.status, Code: s.code, Msg: p.message(), Field: p.field, Reason: s.reason, RetryAfter: max(s.retryAfter, p.retryAfter)}
}

// append appends the problem's JSON.
func (p problem) append(body []byte) []byte { return p.shape().Append(body) }

// write answers with the problem.
func (p problem) write(w http.ResponseWriter) { p.shape().Write(w) }
