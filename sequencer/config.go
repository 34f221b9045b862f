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
	LeaseTTL time.Duration `name:"sequencer-lease-ttl" help:"Time after which the partitions of a sequencer that has died go to another; the same for all of them." default:"6s"`
}

// validate reports every setting out of its range.
func (c Config) validate() error {
	errs := []error{c.Check()}
	if c.LeaseTTL < lease.TTLMin {
		errs = append(errs, fmt.Errorf("sequencer-lease-ttl %s: must be at least %s", c.LeaseTTL, lease.TTLMin))
	}
	return errors.Join(errs...)
}
