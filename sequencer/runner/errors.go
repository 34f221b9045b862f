package runner

import (
	"errors"
	"fmt"
)

// Sentinels that an Error wraps.
var (
	// ErrMissing: the logs lack what would be needed to go on without giving a
	// sequence number out twice. An operator must restore it.
	ErrMissing = errors.New("the log no longer holds what the state is made from")
	// ErrInvariant: what was read contradicts what the fold says. A bug, or a
	// foreign hand in the streams.
	ErrInvariant = errors.New("invariant broken")
	// errOutputLost: the message log lost more than the outbox still holds. The
	// partition recovers from a checkpoint.
	errOutputLost = errors.New("the message log lost its tail")
	// errUnsettled: the message log was written again since the kept checkpoints were thought to be durable.
	errUnsettled = errors.New("the message log's records before the kept checkpoint were lost and are too new again")
	// ErrDamaged: a checkpoint cannot be read back as it was written.
	ErrDamaged = errors.New("damaged checkpoint")
	// ErrNotOwner: the lease has run out.
	ErrNotOwner = errors.New("the lease has run out")
	// errReadAgain: reading the write-ahead log came to a stop and starts again.
	errReadAgain = errors.New("reading the write-ahead log stalled")
)

// Error is an error of one partition.
type Error struct {
	Op        string // what was being done
	Partition int
	Err       error
}

// Error says which partition, what was being done, and what went wrong.
func (e *Error) Error() string {
	return fmt.Sprintf("sequencer: partition %d: %s: %v", e.Partition, e.Op, e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Permanent says whether trying again cannot help.
func Permanent(err error) bool {
	return errors.Is(err, ErrMissing) || errors.Is(err, ErrInvariant)
}
