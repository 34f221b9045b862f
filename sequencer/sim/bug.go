package sim

import (
	"context"
	"time"

	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

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
