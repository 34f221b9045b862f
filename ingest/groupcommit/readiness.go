package groupcommit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Whether a partition would answer a send now is derived from, in this order:
//
//   - Its owner refuses the partition: a send would be refused.
//   - The last sends: one failed and none was answered since, or one has waited too long.
//   - A send was answered a moment ago: the partition works, whatever the other sources report.
//   - The owner's lease: there is none, it is not being renewed, or it reports that the owner cannot serve.
//   - A probe of the write-ahead log, if nothing was sent lately: a publish whose expected sequence no record can have. The
//     leader refuses it before writing, which shows that there is a reachable leader. Whether the leader can write is
//     monitored by the owner and reported in its lease, which is written to the same storage.
const (
	// probeInterval is how often an idle write-ahead log is probed.
	probeInterval = time.Second
	// probeLate is how long the response to a probe may take.
	probeLate = 3 * time.Second
	// answeredLately: a partition that answered a send this recently works.
	answeredLately = 2 * time.Second
	// failureCounts is how long a failed send counts when nothing else is sent. It is at least the acknowledgement timeout
	// plus failureMargin, so that a silent log does not look ready between two attempts.
	failureCounts = 4 * time.Second
	failureMargin = time.Second
	// waitLate is the wait after which a send is unlikely to be answered.
	waitLate = 4 * time.Second
	// ownerSilent bounds how long a lease may go without renewal before its holder counts as away: the larger of this time and
	// a part of the holder's time to live. A holder renews four times in its time to live.
	ownerSilent     = 4 * time.Second
	ownerSilentPart = 3. / 4
	// ownerBetween is how long a partition may be between two owners and still count as ready.
	ownerBetween = 2 * time.Second
	// unreadyShown bounds the partitions that an error lists.
	unreadyShown = 16
)

// expectedNever is a sequence that no record has.
const expectedNever = "18446744073709551615"

// probe is the state of a partition's probes, guarded by the partition's lock.
type probe struct {
	asked   time.Time // when the oldest unanswered probe was sent; zero if there is none
	problem string    // reported by the last response
	no      uint64
}

// Unready describes a partition that would not answer a send.
type Unready struct {
	Partition int
	Reason    string
	Outcome   outcome.Outcome // the probable outcome of the send
}

// PartitionsError lists the partitions that would not answer a send now, and why.
type PartitionsError struct{ Partitions []Unready }

// Error names each partition with its reason.
func (e *PartitionsError) Error() string {
	var text strings.Builder
	text.WriteString("ingest: not every send would be answered: ")
	for i, p := range e.Partitions {
		if i == unreadyShown {
			_, _ = fmt.Fprintf(&text, "; and %d more partitions", len(e.Partitions)-i)
			break
		}
		if i > 0 {
			text.WriteString("; ")
		}
		_, _ = fmt.Fprintf(&text, "partition %d: %s", p.Partition, p.Reason)
	}
	return text.String()
}

// CheckPartitions returns a PartitionsError if any partition would not answer a send.
func (c *Committer) CheckPartitions() error {
	var unready []Unready
	now := time.Now()
	for _, p := range c.partitions {
		if became, reason := p.unready(now); reason != "" {
			unready = append(unready, Unready{Partition: p.number, Reason: reason, Outcome: became})
		}
	}
	if len(unready) > 0 {
		return &PartitionsError{Partitions: unready}
	}
	return nil
}

// unready returns why a send to the partition would not be answered, and its probable outcome; the reason is "" if it
// would be answered.
func (p *partition) unready(now time.Time) (became outcome.Outcome, reason string) {
	o := p.owner.Load()
	if o.refuses(now) {
		return outcome.PartitionRefused, "its sequencer refuses it: " + o.Problem
	}
	p.mu.Lock()
	waits, answeredAt, failedAt, failed, probed := p.longestWait(), p.answeredAt, p.failedAt, p.failed, p.probe
	p.mu.Unlock()
	switch {
	case failedAt.After(answeredAt) && now.Sub(failedAt) < max(failureCounts, p.AckTimeout+failureMargin):
		return failed, fmt.Sprintf("the last send to it failed %s ago, %s: %s", round(now.Sub(failedAt)), failed.Spec().Code, failed.Spec().Msg)
	case waits > waitLate:
		return outcome.NoAnswer, fmt.Sprintf("a send has waited %s for its answer", round(waits))
	case now.Sub(answeredAt) < answeredLately:
		return outcome.Accepted, ""
	}
	if reason := o.unready(now); reason != "" {
		return outcome.NoAnswer, reason
	}
	switch {
	case probed.problem != "":
		return outcome.WALUnavailable, "its write-ahead log: " + probed.problem
	case !probed.asked.IsZero() && now.Sub(probed.asked) > probeLate:
		return outcome.WALUnavailable, fmt.Sprintf("its write-ahead log has not answered for %s", round(now.Sub(probed.asked)))
	}
	return outcome.Accepted, ""
}

// unready returns why the owner of a partition would not answer a send, or "".
func (o *owner) unready(now time.Time) string {
	if o == nil {
		return "no sequencer has a lease of it, as far as is known"
	}
	age := now.Sub(o.at)
	silent := max(ownerSilent, time.Duration(float64(o.TTL)*ownerSilentPart))
	switch {
	case o.Instance == "" && age > ownerBetween:
		return fmt.Sprintf("no sequencer has owned it for %s", round(age))
	case o.Instance == "":
		return ""
	case age > silent:
		return fmt.Sprintf("its sequencer %s has not renewed its lease for %s", o.Instance, round(age))
	case o.Problem != "":
		return fmt.Sprintf("its sequencer %s: %s", o.Instance, o.Problem)
	case o.Behind:
		return fmt.Sprintf("its sequencer %s has not read its write-ahead log to the end yet", o.Instance)
	}
	return ""
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }

// noteFailure records the outcome of sends that failed. The caller holds the lock.
func (p *partition) noteFailure(became outcome.Outcome) {
	if became.Spec().Status >= http.StatusInternalServerError {
		p.failedAt, p.failed = time.Now(), became
	}
}

// probeIdle probes the idle write-ahead logs until ctx ends.
func (c *Committer) probeIdle(ctx context.Context) {
	for lifecycle.Pause(ctx, probeInterval) == nil {
		if !c.connected.Load() {
			continue
		}
		for _, p := range c.partitions {
			p.probeIfIdle(time.Now())
		}
	}
}

// probeIfIdle sends a probe, unless recent sends show the state of the log.
func (p *partition) probeIfIdle(now time.Time) {
	p.mu.Lock()
	if now.Sub(p.answeredAt) < answeredLately {
		p.probe = probe{no: p.probe.no}
		p.mu.Unlock()
		return
	}
	p.probe.no++
	no := p.probe.no
	if p.probe.asked.IsZero() {
		p.probe.asked = now
	}
	p.mu.Unlock()
	// An error concerns the connection, whose state is followed separately.
	_ = p.publisher.PublishMsg(&nats.Msg{
		Subject: topology.WALSubject(p.number),
		Reply:   p.inbox.subject(kindProbe, p.number, no),
		Header:  nats.Header{jetstream.ExpectedLastSeqHeader: {expectedNever}},
	})
}

// onProbe handles the response to a probe.
func (p *partition) onProbe(problem string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probe.asked, p.probe.problem = time.Time{}, problem
}

// probeProblem returns the problem that the response to a probe shows, or "".
func (i *inbox) probeProblem(msg *nats.Msg) string {
	if noStream(msg) {
		return "no stream takes its subject: it is missing, or has no leader"
	}
	a, err := parseAck(&i.json, msg.Data)
	switch {
	case err != nil:
		return "cannot parse the response to a probe: " + err.Error()
	case !a.refused():
		return fmt.Sprintf("it stored a probe as record %d instead of refusing it", a.streamSeq)
	case a.errCode == int(jetstream.JSErrCodeStreamWrongLastSequence), a.errCode == int(jetstream.JSErrCodeStreamWrongLastSequenceConstant):
		return ""
	}
	return string(a.description)
}

const (
	// ownersAskTimeout bounds one request to NATS about the lease bucket.
	ownersAskTimeout = 2 * time.Second
	// ownersPauseMin and ownersPauseMax bound the pause between two watches.
	ownersPauseMin = 250 * time.Millisecond
	ownersPauseMax = 2 * time.Second
)

// owner is what the sequencer of a partition last reported in its lease.
type owner struct {
	lease.Owner
	at time.Time // when it was received
}

// refuses reports whether the partition's owner refuses to serve it: a new send would be written and not answered. A
// report counts for the owner's time to live.
func (p *partition) refuses() bool {
	o := p.owner.Load()
	return o != nil && o.Refused && o.refuses(time.Now())
}

func (o *owner) refuses(now time.Time) bool { return o != nil && o.Refused && now.Sub(o.at) < o.TTL }

// problem returns the problem to answer a send with, if the partition did not take it.
func (p *partition) problem(became outcome.Outcome) outcome.Problem {
	if became != outcome.PartitionRefused {
		return outcome.Problem{Outcome: became}
	}
	return outcome.Problem{Outcome: became, Msg: fmt.Sprintf("partition %d is not served, because its logs or checkpoints are damaged or incomplete "+
		"(`sendhouse sequencer status` shows why); nothing was written; channels of other partitions are served", p.number)}
}

// followOwners follows the leases of the partitions' owners until ctx ends. While the leases cannot be watched, this
// process is not ready, and a send to a refused partition is written and answered 503 when its time is up.
func (c *Committer) followOwners(ctx context.Context) {
	backoff, failures, said := lifecycle.Backoff{Min: ownersPauseMin, Max: ownersPauseMax}, 0, ""
	for ctx.Err() == nil {
		seen, err := c.watchOwners(ctx)
		if seen {
			failures = 0
		}
		if ctx.Err() != nil {
			return
		}
		if err.Error() != said && !errors.Is(err, jetstream.ErrBucketNotFound) && !errors.Is(err, errReconnected) { // once each; the first sequencer makes it
			said = err.Error()
			c.log.Warn("cannot watch the sequencers' leases; sends to a refused partition wait for --ingest-answer-timeout; retrying", "error", err)
		}
		failures++
		if backoff.Wait(ctx, failures) != nil {
			return
		}
	}
}

// errReconnected ends a watch that the server may have dropped.
var errReconnected = errors.New("reconnected to NATS")

// watchOwners follows the leases until the watch breaks or the connection is re-established; seen reports whether the
// watch had started.
func (c *Committer) watchOwners(ctx context.Context) (seen bool, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	c.endWatch.Store(&end)
	asking, cancel := context.WithTimeout(ctx, ownersAskTimeout)
	defer cancel()
	kv, err := c.js.KeyValue(asking, topology.LeaseBucket)
	if err != nil {
		return false, fmt.Errorf("open bucket %s: %w", topology.LeaseBucket, err)
	}
	err = lease.Watch(ctx, kv, lease.RoleSequencer, func(number int, o lease.Owner) {
		seen = true
		if number >= 0 && number < len(c.partitions) {
			c.partitions[number].see(o)
		}
	})
	return seen, err
}

// see applies the state in the owner's lease.
func (p *partition) see(o lease.Owner) {
	before := p.owner.Load()
	p.owner.Store(&owner{Owner: o, at: time.Now()})
	switch was := before != nil && before.Refused; {
	case o.Refused && !was:
		p.log.Error("partition is refused by its sequencer; its sends are answered 503 at once", "partition", p.number, "error", o.Problem)
	case was && !o.Refused:
		p.log.Info("partition takes sends again", "partition", p.number)
	}
}
