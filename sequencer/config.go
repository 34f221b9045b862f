package sequencer

import (
	"errors"
	"fmt"
	"time"
)

// Config are the settings of the role. The zero value is not usable; start from
// DefaultConfig or the command line.
type Config struct {
	CheckpointInterval time.Duration `help:"Time between checkpoints of a partition; recovery reads at most about this much of the log again." default:"60s"`
	OutboxMessagesMax  int           `help:"Messages of a partition that may wait for the message log before folding pauses." default:"65536"`
	OutboxBytesMax     int           `help:"Bytes of messages of a partition that may wait for the message log before folding pauses." default:"67108864"`
	AckTimeout         time.Duration `help:"Time without word from the message log after which its tail is read again." default:"5s"`
}

// DefaultConfig has the defaults of the command line.
func DefaultConfig() Config {
	return Config{
		CheckpointInterval: time.Minute,
		OutboxMessagesMax:  65536,
		OutboxBytesMax:     64 << 20,
		AckTimeout:         5 * time.Second,
	}
}

// durableHorizon is the age behind which the message log is surely on disk on a
// single server: three of its sync intervals (docs/architecture.md, Durability).
// The write-ahead log is trimmed, and a checkpoint dropped, only where what
// replaces it is older.
const durableHorizon = 30 * time.Second

// Validate reports every setting out of its range.
func (c Config) Validate() error {
	var errs []error
	if c.CheckpointInterval < durableHorizon {
		errs = append(errs, fmt.Errorf("checkpoint interval %s: must be at least %s, or the kept checkpoints may both be newer than the message log after a power loss", c.CheckpointInterval, durableHorizon))
	}
	if c.OutboxMessagesMax < chunkMessagesMax {
		errs = append(errs, fmt.Errorf("outbox messages %d: must be at least %d", c.OutboxMessagesMax, chunkMessagesMax))
	}
	if c.OutboxBytesMax < chunkBytesMax {
		errs = append(errs, fmt.Errorf("outbox bytes %d: must be at least %d", c.OutboxBytesMax, chunkBytesMax))
	}
	if c.AckTimeout < 100*time.Millisecond {
		errs = append(errs, fmt.Errorf("ack timeout %s: must be at least 100ms", c.AckTimeout))
	}
	return errors.Join(errs...)
}
