package topology

import (
	"errors"
	"fmt"
	"time"
)

// Deployment are the parameters that are fixed when a deployment is first
// started, because they decide where a channel lives and what the fold answers.
// They are recorded in the [DeploymentBucket]; a process that is configured
// otherwise refuses to start.
type Deployment struct {
	// Partitions is the number of partitions, 1 to PartitionsMax.
	Partitions int `json:"partitions" help:"Number of partitions; fixed when the deployment is first started. Default: as recorded, or 4 at the first start."`
	// DedupWindow is how long, in WAL time, a client_msg_no is remembered.
	DedupWindow time.Duration `json:"dedup_window_ns" help:"How long a client_msg_no is remembered; fixed at the first start. Default: as recorded, or 10m."`
	// DedupEntriesMax bounds what is remembered in a partition; the oldest go first.
	DedupEntriesMax int `json:"dedup_entries_max" help:"How many client_msg_no a partition remembers at most; fixed at the first start. Default: as recorded, or 1000000."`
}

// DefaultDeployment is what a deployment gets where nothing is asked.
func DefaultDeployment() Deployment {
	return Deployment{Partitions: 4, DedupWindow: 10 * time.Minute, DedupEntriesMax: 1_000_000}
}

// Or fills what is not asked for (zero) from other.
func (d Deployment) Or(other Deployment) Deployment {
	if d.Partitions == 0 {
		d.Partitions = other.Partitions
	}
	if d.DedupWindow == 0 {
		d.DedupWindow = other.DedupWindow
	}
	if d.DedupEntriesMax == 0 {
		d.DedupEntriesMax = other.DedupEntriesMax
	}
	return d
}

// Check reports every parameter out of its range.
func (d Deployment) Check() error {
	var errs []error
	if _, err := NewPartitions(d.Partitions); err != nil {
		errs = append(errs, err)
	}
	if d.DedupWindow < time.Second || d.DedupWindow > 7*24*time.Hour {
		errs = append(errs, fmt.Errorf("dedup window %s: must be 1s to 7 days", d.DedupWindow))
	}
	if d.DedupEntriesMax < 1 || d.DedupEntriesMax > 1<<27 {
		errs = append(errs, fmt.Errorf("dedup entries %d: must be 1 to %d", d.DedupEntriesMax, 1<<27))
	}
	return errors.Join(errs...)
}

// Conflict says how what is asked differs from what is recorded, nil if it does not.
func (d Deployment) Conflict(recorded Deployment) error {
	var errs []error
	if d.Partitions != recorded.Partitions {
		errs = append(errs, fmt.Errorf("partitions: recorded %d, configured %d", recorded.Partitions, d.Partitions))
	}
	if d.DedupWindow != recorded.DedupWindow {
		errs = append(errs, fmt.Errorf("dedup window: recorded %s, configured %s", recorded.DedupWindow, d.DedupWindow))
	}
	if d.DedupEntriesMax != recorded.DedupEntriesMax {
		errs = append(errs, fmt.Errorf("dedup entries: recorded %d, configured %d", recorded.DedupEntriesMax, d.DedupEntriesMax))
	}
	return errors.Join(errs...)
}
