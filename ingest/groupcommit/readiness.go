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

// Whether a partition would answer a send now is known from, in this order:
//
//   - Its owner refuses it: a send would be refused.
//   - What became of the last sends: one failed, and none was answered since; or one has waited for long.
//   - A send was answered a moment ago: the partition works, whatever else is said.
//   - The owner's lease: there is none, it is not renewed, or the owner says that it cannot serve.
//   - A probe of the write-ahead log, if nothing was sent lately: a publish that the log must refuse, since the sequence
//     that it expects cannot be. The leader refuses it before it writes anything. It shows that there is a leader and that it
//     can be reached; that the leader can write, the owner looks after and says in its lease, which it writes to the same storage.
const (
	// probeInterval is how often a write-ahead log is probed to which nothing is sent.
	probeInterval = time.Second
	// probeLate is how long the answer to a probe may take.
	probeLate = 3 * time.Second
	// answeredLately: a partition that has answered a send so recently works.
	answeredLately = 2 * time.Second
	// failureCounts is how long a failed send counts if nothing is sent any more; at least for the time of an acknowledgement and
	// failureMargin, so that a log that stays silent is not ready between two attempts.
	failureCounts = 4 * time.Second
	failureMargin = time.Second
	// waitLate is how long a send waits that will hardly be answered.
	waitLate = 4 * time.Second
	// ownerSilent is how long a lease is not renewed, at least and in parts of the holder's time to live, until its
	// holder counts as away. A holder renews four times in its time to live.
	ownerSilent     = 4 * time.Second
	ownerSilentPart = 3. / 4
	// ownerBetween is how long a partition may be between two owners.
	ownerBetween = 2 * time.Second
	// unreadyShown bounds the partitions that an error names.
	unreadyShown = 16
)

// expectedNever is a sequence that no record has.
const expectedNever = "18446744073709551615"

// probe is what is known from probes; under the partition's lock.
type probe struct {
	asked   time.Time // when the oldest one was sent that is not answered; zero if all are
	problem string    // that the last answer told of
	no      uint64
}

// Unready is a partition that would not answer a send.
type Unready struct {
	Partition int
	Reason    string
	Outcome   outcome.Outcome // what the send would probably get
}

// PartitionsError says which partitions would not answer a send now, and why.
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

// CheckPartitions is a PartitionsError if there are such partitions.
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

// unready returns why a send to the partition would not be answered, and what it would get; the reason is "" if it would be.
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
		return "no sequencer has a lease of it, as far as was seen"
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

// noteFailure notes what became of sends that were not answered. Under the lock.
func (p *partition) noteFailure(became outcome.Outcome) {
	if became.Spec().Status >= http.StatusInternalServerError {
		p.failedAt, p.failed = time.Now(), became
	}
}

// probeIdle probes the write-ahead logs to which nothing is sent, until ctx ends.
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

// probeIfIdle sends a probe, unless sends show how the log is.
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
	// An error is one of the connection, which is followed by itself.
	_ = p.publisher.PublishMsg(&nats.Msg{
		Subject: topology.WALSubject(p.number),
		Reply:   p.inbox.subject(kindProbe, p.number, no),
		Header:  nats.Header{jetstream.ExpectedLastSeqHeader: {expectedNever}},
	})
}

// onProbe takes in the answer to a probe.
func (p *partition) onProbe(problem string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probe.asked, p.probe.problem = time.Time{}, problem
}

// probeProblem returns what the answer to a probe says is wrong, or "".
func (i *inbox) probeProblem(msg *nats.Msg) string {
	if noStream(msg) {
		return "no stream takes its subject: it is missing, or has no leader"
	}
	a, err := parseAck(&i.json, msg.Data)
	switch {
	case err != nil:
		return "the answer to a probe cannot be read: " + err.Error()
	case !a.refused():
		return fmt.Sprintf("it took a probe as record %d, which it must refuse", a.streamSeq)
	case a.errCode == int(jetstream.JSErrCodeStreamWrongLastSequence), a.errCode == int(jetstream.JSErrCodeStreamWrongLastSequenceConstant):
		return ""
	}
	return string(a.description)
}

const (
	// ownersAskTimeout is for one question to NATS about the bucket of the leases.
	ownersAskTimeout = 2 * time.Second
	// ownersPauseMin and ownersPauseMax bound the pauses between two watches, which double.
	ownersPauseMin = 250 * time.Millisecond
	ownersPauseMax = 2 * time.Second
)

// owner is what the sequencer of a partition said last in its lease.
type owner struct {
	lease.Owner
	at time.Time // when that came
}

// refuses reports whether the partition's owner refuses to serve it. A send that came now
// would be written and not answered. The word of an owner counts for its time to live.
func (p *partition) refuses() bool {
	o := p.owner.Load()
	return o != nil && o.Refused && o.refuses(time.Now())
}

func (o *owner) refuses(now time.Time) bool { return o != nil && o.Refused && now.Sub(o.at) < o.TTL }

// problem is the answer to a send that the partition did not take, or took.
func (p *partition) problem(became outcome.Outcome) outcome.Problem {
	if became != outcome.PartitionRefused {
		return outcome.Problem{Outcome: became}
	}
	return outcome.Problem{Outcome: became, Msg: fmt.Sprintf("partition %d is not served, because its logs or checkpoints are damaged or incomplete "+
		"(`sendhouse sequencer status` says more); nothing was written; channels of other partitions are served", p.number)}
}

// followOwners keeps known what the partitions' owners say in their leases, until ctx ends. While the leases cannot be watched
// this process is not ready, and a send to a partition that is refused is written, and answered 503 when no answer has come in time.
func (c *Committer) followOwners(ctx context.Context) {
	pause, said := ownersPauseMin, ""
	for ctx.Err() == nil {
		seen, err := c.watchOwners(ctx)
		if seen {
			pause = ownersPauseMin
		}
		if ctx.Err() != nil {
			return
		}
		if err.Error() != said && !errors.Is(err, jetstream.ErrBucketNotFound) && !errors.Is(err, errReconnected) { // once each; the first sequencer makes it
			said = err.Error()
			c.log.Warn("cannot watch the sequencers' leases; sends to a partition that is refused wait until their time is up; retrying", "error", err)
		}
		if lifecycle.Pause(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, ownersPauseMax)
	}
}

// errReconnected ends a watch that the server may have forgotten.
var errReconnected = errors.New("reconnected to NATS")

// watchOwners follows the leases until the watch breaks or the connection is made again; seen reports whether it had begun.
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

// see takes in what the owner says of the partition in its lease.
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
