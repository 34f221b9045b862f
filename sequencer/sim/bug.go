package sim

import (
	"context"

	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// bug is a deliberate mistake, by which the tests prove that the simulation finds
// one. It lies in what is put between an owner and the world, never in the runner.
type bug struct {
	// logs and checkpoints stand in for an owner's ports.
	logs        func(*owner, *logs) runner.Logs
	checkpoints func(*owner, runner.Checkpoints) runner.Checkpoints
	// store stands in for Keeper.Store, and does not wait for the message log.
	store func(*partition) func(context.Context, *fold.Snapshot) error
	// pointerFirst moves the checkpoint pointer before the object is put.
	pointerFirst bool
}
