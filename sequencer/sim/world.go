package sim

import (
	"container/heap"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// pausesMax is how deep pauses nest: an owner that is paused inside a call while
// another is.
const pausesMax = 2

// world is one run.
type world struct {
	seed  uint64
	rand  *rand.Rand
	plan  plan
	bug   bug
	trace trace

	now    time.Duration // since start
	step   int
	pauses int
	healed bool // no more trouble
	net    network
	broker broker
	wal    wal
	log    messageLog
	store  store
	lease  leaseKey
	owners []*owner
	client client
	ref    *reference
	check  checker

	logger  *slog.Logger
	metrics *runner.PartitionMetrics
}

// start is the moment at which simulated time begins.
func start() time.Time { return time.Date(2025, time.March, 1, 12, 0, 0, 0, time.UTC) }

// broker is the server that all simulated stores live on.
type broker struct {
	downUntil   time.Duration
	outputUntil time.Duration // until then the message log alone takes nothing
	clockOff    time.Duration // of its wall clock
	odd         time.Duration // besides, at the next record alone
	frozen      time.Time     // if set, its wall clock stands still
}

// Options say what to run.
type Options struct {
	Seed uint64
	// Metrics, if given, are shared by many runs: making new ones costs more than a run.
	Metrics *runner.PartitionMetrics
	// Trace, if given, gets every event.
	Trace io.Writer
}

// Result is what a run came to.
type Result struct {
	Hash        uint64 // over all events
	Steps       int
	Records     int
	Messages    int
	Checkpoints int
	PowerLosses int
	Recoveries  int
	Refused     bool // the run had destroyed the checkpoints, and a fresh owner said so
	RefusedRuns int  // where results are added up
}

// RuleError is a run that broke a rule.
type RuleError struct {
	Seed   uint64
	Step   int
	Reason string
	Events []string // the last ones
}

// Error tells the rule, the last events, and how to see it again.
func (e *RuleError) Error() string {
	return fmt.Sprintf("seed %d, step %d: %s\n\nlast events (time, step):\n%s\n\nreplay with: make sim SEED=%d RUNS=1   (SIM_TRACE=1 shows every event)",
		e.Seed, e.Step, e.Reason, strings.Join(e.Events, "\n"), e.Seed)
}

// Run runs one simulation to its end. The error is a *RuleError.
func Run(o Options) (Result, error) { return run(o, bug{}) }

func run(o Options, b bug) (result Result, err error) {
	w := newWorld(o, b)
	defer func() {
		reason := recover()
		if reason == nil {
			return
		}
		text, ours := reason.(violation)
		if !ours {
			text = violation(fmt.Sprintf("panic: %v\n%s", reason, debug.Stack()))
		}
		result, err = w.result(), &RuleError{Seed: o.Seed, Step: w.step, Reason: string(text), Events: w.trace.tail()}
	}()
	for w.step < w.plan.steps {
		w.doStep()
	}
	w.finish()
	return w.result(), nil
}

func newWorld(o Options, b bug) *world {
	r := rand.New(rand.NewPCG(o.Seed, 0x53656e64))
	w := &world{
		seed: o.Seed, rand: r, plan: drawPlan(r), bug: b, trace: trace{out: o.Trace},
		logger: slog.New(slog.DiscardHandler), metrics: o.Metrics,
	}
	if w.metrics == nil {
		w.metrics = runner.NewMetrics(prometheus.NewRegistry()).Partition(0)
	}
	w.wal.first, w.log.first, w.log.exists = 1, 1, true
	w.ref = newReference(w.plan.params)
	w.client.inboxes = make(map[string]uint64)
	for i := range w.plan.owners {
		w.owners = append(w.owners, &owner{w: w, id: i, process: i, clockRate: 1 + clockRateMost*(2*r.Float64()-1)})
	}
	w.event("run of %d steps, %d owners, %+v, checkpoints every %s, lease %s", w.plan.steps, w.plan.owners, w.plan.params, w.plan.cfg.CheckpointInterval, w.plan.leaseTTL)
	return w
}

func (w *world) result() Result {
	return Result{
		Hash: w.trace.hash, Steps: w.step, Records: len(w.wal.records), Messages: int(w.ref.output),
		Checkpoints: w.check.checkpoints, PowerLosses: w.check.powerLosses, Recoveries: w.check.recoveries, Refused: w.check.refused,
	}
}

// violation is a broken rule, thrown to run.
type violation string

func (w *world) fail(format string, args ...any) {
	panic(violation(fmt.Sprintf(format, args...)))
}

func (w *world) event(format string, args ...any) {
	w.trace.add(w.now, w.step, format, args...)
}

// chance is true with probability p.
func (w *world) chance(p float64) bool { return p > 0 && w.rand.Float64() < p }

// upTo draws a duration below d.
func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.rand.Int64N(int64(d))) }

// doStep lets time pass and everybody act. It runs inside itself while an owner
// is paused in the middle of a call.
func (w *world) doStep() {
	w.step++
	w.passTime(w.drawTime())
	if w.chance(0.5) {
		w.client.act(w)
	}
	for _, o := range w.owners {
		if w.chance(0.6) {
			o.act()
		}
	}
	if len(w.plan.events) > 0 && w.rand.IntN(w.plan.eventEvery) == 0 {
		w.drawEvent()(w)
	}
}

func (w *world) drawTime() time.Duration {
	switch n := w.rand.IntN(1000); {
	case n < 600:
		return w.upTo(50 * time.Millisecond)
	case n < 850:
		return w.upTo(time.Second)
	default:
		return w.upTo(4 * time.Second)
	}
}

// passTime moves the clock on and delivers what is due meanwhile.
func (w *world) passTime(d time.Duration) {
	end := w.now + d
	for len(w.net.queue) > 0 && w.net.queue[0].due <= end {
		p := heap.Pop(&w.net.queue).(packet)
		w.now = max(w.now, p.due)
		p.deliver()
	}
	w.now = max(w.now, end)
}

// brokerTime is the broker's wall clock.
func (w *world) brokerTime() time.Time {
	if !w.broker.frozen.IsZero() {
		return w.broker.frozen
	}
	return start().Add(w.now + w.broker.clockOff)
}

func (w *world) brokerUp() bool { return w.now >= w.broker.downUntil }

// network holds what is on its way.
type network struct {
	queue packets
	sent  uint64
}

type packet struct {
	due     time.Duration
	number  uint64 // by which those due at once are in order
	deliver func()
}

// send delivers something at the given time.
func (w *world) send(due time.Duration, deliver func()) {
	w.net.sent++
	heap.Push(&w.net.queue, packet{due: due, number: w.net.sent, deliver: deliver})
}

type packets []packet

func (q packets) Len() int { return len(q) }
func (q packets) Less(i, j int) bool {
	return q[i].due < q[j].due || (q[i].due == q[j].due && q[i].number < q[j].number)
}
func (q packets) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *packets) Push(p any)   { *q = append(*q, p.(packet)) }
func (q *packets) Pop() any {
	last := len(*q) - 1
	p := (*q)[last]
	(*q)[last] = packet{}
	*q = (*q)[:last]
	return p
}
