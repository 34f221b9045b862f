package sequencer

import (
	"errors"
	"fmt"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/sequencer/runner"
)

// Config is what an operator may set. The defaults stand in the tags.
type Config struct {
	runner.Config
	LeaseTTL time.Duration `name:"sequencer-lease-ttl" help:"Time after which the partitions of a sequencer that has died go to another, from 1s to 1h." default:"6s"`
}

// Check reports every setting out of its range.
func (c Config) Check() error {
	errs := []error{c.Config.Check()}
	if c.LeaseTTL < lease.TTLMin || c.LeaseTTL > lease.TTLMax {
		errs = append(errs, fmt.Errorf("sequencer-lease-ttl %s: must be between %s and %s", c.LeaseTTL, lease.TTLMin, lease.TTLMax))
	}
	return errors.Join(errs...)
}
