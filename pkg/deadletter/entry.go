package deadletter

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Headers of a dead letter.
const (
	// HeaderError is why it could not be processed, in words.
	HeaderError = "Sendhouse-Error"
	// HeaderStream is the stream that it is from.
	HeaderStream = "Sendhouse-Stream"
	// HeaderPartitionSeq is its sequence in that stream; of a range, the first.
	HeaderPartitionSeq = "Sendhouse-Partition-Seq"
	// HeaderToken, on a row that ClickHouse refused, is the deduplication token that it was to be inserted under.
	HeaderToken = "Sendhouse-Deduplication-Token" //nolint:gosec // no secret: the name of a header
)

// Entry is one dead letter.
type Entry struct {
	ID           uint64    `json:"id"` // sequence in the stream of dead letters
	Role         string    `json:"role"`
	Reason       string    `json:"reason"`
	Time         time.Time `json:"time"`             // when it was put there
	Stream       string    `json:"stream,omitempty"` // that it is from
	PartitionSeq uint64    `json:"partition_seq,omitempty"`
	Token        string    `json:"token,omitempty"`
	Error        string    `json:"error"`
	ContentType  string    `json:"content_type"`
	Bytes        int       `json:"bytes"` // of the body
	Body         []byte    `json:"-"`
}

// read makes a letter of what the stream holds. A header that is missing leaves its field empty: others than
// this program may have put it there.
func read(id uint64, subject string, at time.Time, header nats.Header, body []byte) Entry {
	role, reason := topology.ParseDeadLetterSubject(subject)
	seq, _ := strconv.ParseUint(header.Get(HeaderPartitionSeq), 10, 64) // 0 if there is none
	return Entry{
		ID: id, Role: role, Reason: reason, Time: at.UTC(),
		Stream: header.Get(HeaderStream), PartitionSeq: seq, Token: header.Get(HeaderToken), Error: header.Get(HeaderError),
		ContentType: header.Get(topology.HeaderContentType), Bytes: len(body), Body: body,
	}
}

// Filter says which letters are meant; what is empty allows all.
type Filter struct {
	Role      string        `help:"Only letters of this role." placeholder:"ROLE" env:"-"`
	Reason    string        `help:"Only letters with this reason." placeholder:"REASON" env:"-"`
	Stream    string        `help:"Only letters about records of this stream." placeholder:"MESSAGES_0" env:"-"`
	Since     time.Duration `help:"Only letters that are at most so old." placeholder:"24h" env:"-"`
	OlderThan time.Duration `help:"Only letters that are older." placeholder:"24h" env:"-"`
}

// Check reports what is wrong with the filter.
func (f Filter) Check() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	const notInWord = ".*> \t\r\n"
	check(!strings.ContainsAny(f.Role, notInWord), "--role %q: must be one word of a subject", f.Role)
	check(!strings.ContainsAny(f.Reason, notInWord), "--reason %q: must be one word of a subject", f.Reason)
	check(f.Since >= 0, "--since %s: must not be negative", f.Since)
	check(f.OlderThan >= 0, "--older-than %s: must not be negative", f.OlderThan)
	return errors.Join(errs...)
}

// empty says that the filter allows all letters.
func (f Filter) empty() bool { return f == Filter{} }

// bySubject says that the subject alone tells which letters are meant.
func (f Filter) bySubject() bool { return f.Stream == "" && f.Since == 0 && f.OlderThan == 0 }

// subject is the narrowest subject that all letters meant are on.
func (f Filter) subject() string {
	role, reason := f.Role, f.Reason
	if role == "" {
		role = "*"
	}
	if reason == "" {
		reason = ">"
	}
	return topology.DeadLetterSubject(role, reason)
}

func (f Filter) allows(l Entry, now time.Time) bool {
	age := now.Sub(l.Time)
	return (f.Role == "" || l.Role == f.Role) && (f.Reason == "" || l.Reason == f.Reason) && (f.Stream == "" || l.Stream == f.Stream) &&
		(f.Since == 0 || age <= f.Since) && (f.OlderThan == 0 || age > f.OlderThan)
}
