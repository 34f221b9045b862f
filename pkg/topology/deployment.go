package topology

import (
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// Deployment are the parameters that are fixed when a deployment is first
// started, because they decide where a channel lives and what the fold answers.
// They are recorded in the [DeploymentBucket]; a process that is configured
// otherwise refuses to start.
type Deployment struct {
	// ID tells the deployment from every other; it is made at the first start. Empty if it is not known: a version that made none
	// has set the deployment up, and no sequencer of a later version has started since.
	ID string `json:"id,omitempty" kong:"-"`
	// Partitions is the number of partitions, 1 to PartitionsMax.
	Partitions int `json:"partitions" help:"Number of partitions; fixed when the deployment is first started. Default: as recorded; at the first start 4 or, with the embedded NATS, one for each two cores, at most 4."`
	// DedupWindow is how long, in WAL time, a client_msg_no is remembered.
	DedupWindow time.Duration `json:"dedup_window_ns" help:"How long a client_msg_no is remembered; fixed at the first start. Default: as recorded, or 10m."`
	// DedupEntriesMax bounds what is remembered in a partition; the oldest go first.
	DedupEntriesMax int `json:"dedup_entries_max" help:"How many client_msg_no a partition remembers at most; fixed at the first start. Default: as recorded; at the first start 4000000 shared by the partitions, and at least 1000000."`
}

const (
	// defaultPartitions are enough for as many instances of a role to share the work.
	defaultPartitions = 4
	// coresPerPartition: on one machine more partitions make more and smaller group commits, streams and inserts of the
	// same sends, and that costs more than it gives until there are cores to spare (docs/adr/0008).
	coresPerPartition = 2
	// defaultDedupEntries are shared by the partitions, so that what a deployment remembers does not depend on how many
	// they are.
	defaultDedupEntries = 4_000_000
	leastDedupEntries   = 1_000_000
)

// DefaultDeployment is what a deployment gets if nothing is asked.
func DefaultDeployment() Deployment { return Deployment{}.first(defaultPartitions) }

// PartitionsOfMachine is the number of partitions for a deployment whose every part runs on one machine of so many cores.
func PartitionsOfMachine(cores int) int {
	return min(max(cores/coresPerPartition, 1), defaultPartitions)
}

// first fills what is not asked for when a deployment is first started. Partitions is used if no number is asked for.
func (d Deployment) first(partitions int) Deployment {
	if d.Partitions == 0 {
		d.Partitions = partitions
	}
	return d.Or(Deployment{
		DedupWindow:     10 * time.Minute,
		DedupEntriesMax: max(defaultDedupEntries/max(d.Partitions, 1), leastDedupEntries),
	})
}

// Or fills what is not asked for (zero) from other.
func (d Deployment) Or(other Deployment) Deployment {
	if d.ID == "" {
		d.ID = other.ID
	}
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
		errs = append(errs, fmt.Errorf("--partitions: %w", err))
	}
	if d.DedupWindow < time.Second || d.DedupWindow > 7*24*time.Hour {
		errs = append(errs, fmt.Errorf("--dedup-window %s: must be 1s to 7 days", d.DedupWindow))
	}
	if d.DedupEntriesMax < 1 || d.DedupEntriesMax > 1<<27 {
		errs = append(errs, fmt.Errorf("--dedup-entries-max %d: must be 1 to %d", d.DedupEntriesMax, 1<<27))
	}
	return errors.Join(errs...)
}

// Conflict says how what is asked differs from what is recorded, nil if it does not.
func (d Deployment) Conflict(recorded Deployment) error {
	var errs []error
	if d.ID != recorded.ID {
		errs = append(errs, fmt.Errorf("deployment: recorded %s, configured %s", recorded.ID, d.ID))
	}
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

// Slots is the number of hash slots that channels are spread over. A channel's
// slot never changes; only which partition holds the slot depends on the
// deployment.
const Slots = 1024

// PartitionsMax is the most partitions a deployment may have: one per slot, and
// no more than an ID can tell apart.
const PartitionsMax = min(Slots, message.PartitionsMax)

// Slot is the hash slot of a canonical channel: CRC32 (IEEE) of its type as one
// byte followed by its name, modulo [Slots]. The hash is in every language's
// standard library, so that others can route as we do.
func Slot(channelID string, channelType message.ChannelType) int {
	// Byte by byte, since crc32.Update wants slices, which it lets escape to the heap.
	sum := updateCRC32(^uint32(0), byte(channelType))
	for i := range len(channelID) {
		sum = updateCRC32(sum, channelID[i])
	}
	return int(^sum % Slots)
}

func updateCRC32(sum uint32, b byte) uint32 { return crc32.IEEETable[byte(sum)^b] ^ sum>>8 }

// Partitions spreads the slots over a fixed number of partitions, 0 to n-1.
type Partitions int

// NewPartitions checks the count, 1 to PartitionsMax.
func NewPartitions(n int) (Partitions, error) {
	if n < 1 || n > PartitionsMax {
		return 0, fmt.Errorf("%d partitions: must be 1 to %d", n, PartitionsMax)
	}
	return Partitions(n), nil
}

// Of is the partition of a canonical channel: its slot modulo the count.
func (p Partitions) Of(channelID string, channelType message.ChannelType) int {
	return Slot(channelID, channelType) % int(p)
}
