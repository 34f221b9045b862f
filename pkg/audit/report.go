package audit

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// Status is what an audit came to.
type Status string

// The states, and the exit status of the command line.
const (
	Clean      Status = "clean"       // 0: all that was compared is right
	Differs    Status = "differs"     // 1: something is not
	CannotTell Status = "cannot_tell" // 2: something could not be compared that should have been, and the rest is right
)

// firstKept is how many differences of a part are described; all are counted.
const firstKept = 20

// AllPartitions stands for the partition of a part that is not of one.
const AllPartitions = -1

// Part is what one check of one partition, or of all, came to.
type Part struct {
	Check       string   `json:"check"`
	Partition   int      `json:"partition"`
	Compared    uint64   `json:"compared"` // messages
	Differences uint64   `json:"differences"`
	First       []string `json:"first_differences,omitempty"`
	// NotCompared says what was left out for a reason that is no fault: retention, expiry.
	NotCompared []string `json:"not_compared,omitempty"`
	// Repairs are the commands or statements that mend what differs.
	Repairs []string `json:"repairs,omitempty"`
	// Failure says why the check could not be finished.
	Failure string `json:"failure,omitempty"`
	Details any    `json:"details,omitempty"`
}

// Differ notes a difference.
func (p *Part) Differ(format string, args ...any) {
	p.Differences++
	if len(p.First) < firstKept {
		p.First = append(p.First, fmt.Sprintf(format, args...))
	}
}

// Describing reports whether the next difference will be described, and not only counted.
func (p *Part) Describing() bool { return len(p.First) < firstKept }

// Mend notes what mends a difference; the same is noted once.
func (p *Part) Mend(format string, args ...any) {
	if repair := fmt.Sprintf(format, args...); !slices.Contains(p.Repairs, repair) {
		p.Repairs = append(p.Repairs, repair)
	}
}

// MessageName names a message for a report: its channel and its message_seq there, by which people know it, and its
// partition_seq.
func MessageName(m *message.Message, partitionSeq uint64) string {
	return fmt.Sprintf("message_seq %d of channel %d/%s (partition_seq %d, message_id %d)", m.GetMessageSeq(), m.GetChannelType(), m.GetChannelId(), partitionSeq, m.GetMessageId())
}

// Take notes the differences of another part.
func (p *Part) Take(other *Part) {
	p.Differences += other.Differences
	p.First = append(p.First, other.First[:min(len(other.First), firstKept-len(p.First))]...)
	for _, repair := range other.Repairs {
		p.Mend("%s", repair)
	}
}

// Omit notes what was not compared.
func (p *Part) Omit(format string, args ...any) {
	p.NotCompared = append(p.NotCompared, fmt.Sprintf(format, args...))
}

// Report is a whole audit.
type Report struct {
	Status  Status    `json:"status"`
	Start   time.Time `json:"start"`
	Seconds float64   `json:"seconds"`
	Parts   []*Part   `json:"parts"`
	Failure string    `json:"failure,omitempty"` // of the audit as a whole
}

// NewReport begins an audit now.
func NewReport() *Report { return &Report{Start: time.Now().UTC(), Parts: []*Part{}} }

// Add adds a part and logs what it found; err is why it could not be finished, if it could not.
func (r *Report) Add(log *slog.Logger, p *Part, err error) {
	if err != nil {
		p.Failure = err.Error()
	}
	r.Parts = append(r.Parts, p)
	level := slog.LevelInfo
	if p.Failure != "" || p.Differences > 0 {
		level = slog.LevelError
	}
	args := []any{"check", p.Check, "partition", p.Partition, "compared", p.Compared, "differences", p.Differences}
	if len(p.First) > 0 {
		args = append(args, "first", p.First[0])
	}
	if len(p.Repairs) > 0 {
		args = append(args, "repairs", p.Repairs)
	}
	if p.Failure != "" {
		args = append(args, "failure", p.Failure)
	}
	for _, text := range p.NotCompared {
		args = append(args, "not_compared", text)
	}
	log.Log(nil, level, "audited", args...) //nolint:staticcheck // no context is looked at
}

// Finish decides the status. failure is why not even all parts could be begun, or nil.
func (r *Report) Finish(failure error) {
	r.Seconds = time.Since(r.Start).Seconds()
	r.Status = Clean
	if failure != nil {
		r.Failure, r.Status = failure.Error(), CannotTell
	}
	for _, p := range r.Parts {
		if p.Failure != "" {
			r.Status = CannotTell
		}
	}
	for _, p := range r.Parts {
		if p.Differences > 0 {
			r.Status = Differs
		}
	}
}

// Write writes the report as JSON.
func (r *Report) Write(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// Error is the error of an audit that was not clean. Its ExitCode is the exit status.
type Error struct{ Report *Report }

// Err is nil if the audit was clean.
func (r *Report) Err() error {
	if r.Status == Clean {
		return nil
	}
	return &Error{Report: r}
}

// Error says what differs first, or why that could not be determined.
func (e *Error) Error() string {
	var differences uint64
	first := ""
	for _, p := range e.Report.Parts {
		differences += p.Differences
		if first == "" && len(p.First) > 0 {
			first = fmt.Sprintf("%s, partition %d: %s", p.Check, p.Partition, p.First[0])
		}
	}
	if e.Report.Status == Differs {
		return fmt.Sprintf("audit: %d differences, the first: %s", differences, first)
	}
	failure := e.Report.Failure
	for _, p := range e.Report.Parts {
		if failure == "" && p.Failure != "" {
			failure = fmt.Sprintf("%s, partition %d: %s", p.Check, p.Partition, p.Failure)
		}
	}
	return "audit: could not tell: " + failure
}

// ExitCode is 1 if something differs and 2 if that could not be determined.
func (e *Error) ExitCode() int {
	if e.Report.Status == Differs {
		return 1
	}
	return 2
}

// progressInterval is how often a check says how far it is.
const progressInterval = 5 * time.Second

// Progress logs now and then how far a check of a partition is.
type Progress struct {
	log  *slog.Logger
	last time.Time
	n    uint
}

// NewProgress logs for a check of a partition.
func NewProgress(log *slog.Logger, check string, partition int) *Progress {
	return &Progress{log: log.With("check", check, "partition", partition), last: time.Now()}
}

// At says that it is at one of so many messages. It may be called for each.
func (p *Progress) At(at, of uint64) {
	if p.n++; p.n%1024 != 0 {
		return
	}
	if now := time.Now(); now.Sub(p.last) >= progressInterval {
		p.last = now
		p.log.Info("auditing", "at", at, "of", of)
	}
}
