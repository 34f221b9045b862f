package runner

import (
	"errors"
	"fmt"
	"time"

	"github.com/sendhouse/sendhouse/pkg/config"
)

// Config is what an operator may set. The defaults stand in the tags.
type Config struct {
	CheckpointInterval time.Duration   `help:"Time between checkpoints of a partition. A restart reads about this much of the write-ahead log again, and the log keeps about twice as much." default:"60s"`
	OutboxMessagesMax  int             `help:"Messages of a partition that may wait for the message log; beyond it folding waits." default:"65536"`
	OutboxBytesMax     config.ByteSize `help:"Bytes of messages of a partition that may wait for the message log; beyond it folding waits." default:"64MiB"`
	OutputAckTimeout   time.Duration   `help:"How long the message log may leave writes unacknowledged before its tail is read again." default:"5s"`
}

// durableHorizon is the age from which on the message log is surely on disk on a
// single server: three of its sync intervals (docs/architecture.md, Durability).
// The write-ahead log is trimmed, and a checkpoint dropped, only where what
// replaces it is older.
const durableHorizon = 30 * time.Second

// Check reports every setting out of its range.
func (c Config) Check() error {
	var errs []error
	if c.CheckpointInterval < durableHorizon {
		errs = append(errs, fmt.Errorf("checkpoint-interval %s: must be at least %s, or the kept checkpoints may both be newer than what a power loss leaves of the message log", c.CheckpointInterval, durableHorizon))
	}
	if c.OutboxMessagesMax < chunkRecordsMax {
		errs = append(errs, fmt.Errorf("outbox-messages-max %d: must be at least %d", c.OutboxMessagesMax, chunkRecordsMax))
	}
	if c.OutboxBytesMax < chunkBytesMax {
		errs = append(errs, fmt.Errorf("outbox-bytes-max %s: must be at least %s", c.OutboxBytesMax, config.ByteSize(chunkBytesMax)))
	}
	if c.OutputAckTimeout < 100*time.Millisecond {
		errs = append(errs, fmt.Errorf("output-ack-timeout %s: must be at least 100ms", c.OutputAckTimeout))
	}
	return errors.Join(errs...)
}
