package topology

import (
	"fmt"
	"hash/crc32"

	"github.com/sendhouse/sendhouse/pkg/message"
)

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
