package sim

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// syncInterval is the age behind which a power loss takes nothing of the message
// log: the broker's, which architecture.md sets to 10 seconds.
const syncInterval = 10 * time.Second

// outputAckTimeout is the runner's default.
const outputAckTimeout = 5 * time.Second

// plan is what a run is like. Each kind of trouble is absent from about half of
// all runs, since trouble of one kind may hide what another would show.
type plan struct {
	steps  int
	owners int
	params fold.Params
	cfg    runner.Config

	batchMax   int // sends in a record
	recent     int // sends that may be sent again
	leaseTTL   time.Duration
	walRecords int // that fit into the write-ahead log
	clockSkew  time.Duration
	newRule    uint64 // the record from which on ingest names the newest rule for time

	// Chances at each call of a port.
	crash, pause, fail float64
	keepTimes          float64 // as likely in calls for the sake of checkpoints
	// Of the network, for each message on it.
	appendLost, ackLost, ackRepeated, ackSlow, answerLost, answerRepeated float64
	// Of reading the write-ahead log, for each record.
	readBack, readSkip, readStall float64

	// events are drawn by weight, once in eventEvery steps on the average.
	eventEvery int
	events     []weighted
}

type weighted struct {
	weight int
	do     func(*world)
}

// drawPlan draws the kind of run.
func drawPlan(r *rand.Rand) plan {
	p := plan{
		steps:  400 + r.IntN(800),
		owners: 1 + r.IntN(3),
		params: fold.Params{
			Partition:       r.IntN(1024),
			DedupWindow:     time.Duration(5+r.IntN(120)) * time.Second,
			DedupEntriesMax: 4 + r.IntN(60),
		},
		cfg: runner.Config{
			CheckpointInterval: time.Duration(30+r.IntN(31)) * time.Second,
			OutboxMessagesMax:  []int{8, 64, 65536}[r.IntN(3)],
			OutboxBytesMax:     64 << 20,
			OutputAckTimeout:   outputAckTimeout,
		},
		leaseTTL:   time.Duration(5+r.IntN(12)) * time.Second,
		batchMax:   5,
		recent:     100, // so that some lie within the window and some behind it
		walRecords: []int{60, 200, 1 << 30}[r.IntN(3)],
		eventEvery: 10 + r.IntN(90),
	}
	if r.IntN(30) == 0 { // enough for chunks to fill, and for IDs to borrow from the next millisecond
		p.batchMax, p.steps = 60, 300
	}
	sometimes := func(most float64) float64 {
		if r.IntN(2) == 0 {
			return 0
		}
		return most * r.Float64()
	}
	if r.IntN(10) == 0 { // sends grow too old for the window before they are too many for it
		p.params.DedupWindow, p.params.DedupEntriesMax, p.recent = time.Duration(1+r.IntN(8))*time.Second, 600, 600
	}
	p.newRule = 1
	if r.IntN(4) == 0 { // an older version has begun it
		p.newRule = uint64(1 + r.IntN(600))
	}
	p.clockSkew = time.Duration(sometimes(120) * float64(time.Second))
	p.crash, p.pause, p.fail = sometimes(0.005), sometimes(0.01), sometimes(0.05)
	p.keepTimes = []float64{1, 5, 30}[r.IntN(3)]
	p.appendLost, p.ackLost, p.ackRepeated, p.ackSlow = sometimes(0.03), sometimes(0.1), sometimes(0.2), sometimes(0.1)
	p.answerLost, p.answerRepeated = sometimes(0.2), sometimes(0.1)
	p.readBack, p.readSkip, p.readStall = sometimes(0.05), sometimes(0.02), sometimes(0.005)
	for _, e := range allEvents() {
		if r.IntN(2) == 0 {
			p.events = append(p.events, e)
		}
	}
	if r.IntN(8) == 0 {
		p.takeovers()
	}
	return p
}

// takeovers makes it a run of owners that sleep, or work on without their lease,
// and wake up to find that another was there, on a broker that forgets; and of not
// much else, so that each gets as far as a checkpoint.
func (p *plan) takeovers() {
	p.steps, p.owners, p.eventEvery = 1000, 3, 25
	p.events = []weighted{{3, blindOwner}, {3, sleepOwner}, {2, crashBroker}}
	p.crash, p.fail, p.appendLost, p.ackLost, p.readSkip, p.readStall = 0, 0, 0, 0, 0, 0
	p.pause, p.keepTimes = 0.002, 20
}

// bug is a deliberate mistake, by which the tests prove that the simulation finds
// one. It lies in what is put between an owner and the world, never in the runner.
type bug struct {
	// logs, checkpoints and now stand in for what an owner is given.
	logs        func(*owner, *logs) runner.Logs
	checkpoints func(*owner, runner.Checkpoints) runner.Checkpoints
	now         func(*owner) func() time.Time
	// due and store stand in for the keeper's.
	due   func(*partition) bool
	store func(*partition) func(context.Context, *fold.Snapshot) error
	// storeEarly does not wait for the message log.
	storeEarly bool
	// pointerFirst moves the checkpoint pointer before the object is put.
	pointerFirst bool
	// moveAnyway moves it whatever it was when it was last seen.
	moveAnyway bool
	// sweepLater deletes what later owners have stored, too.
	sweepLater bool
	// leaseByBroker takes a lease that is old by the broker's clock.
	leaseByBroker bool
	// oneObject writes each checkpoint over the one before.
	oneObject bool
}
