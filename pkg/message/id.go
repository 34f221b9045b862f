package message

import (
	"fmt"
	"time"
)

// ID is a message_id: 63 bits, milliseconds since [Epoch] (41) | partition (10)
// | counter (12). IDs are unique in a deployment and strictly increasing within
// a partition.
type ID int64

const (
	counterBits   = 12
	partitionBits = 10
	timeBits      = 41

	// PartitionsMax is the number of partitions that an ID can tell apart.
	PartitionsMax = 1 << partitionBits

	counterMax = 1<<counterBits - 1
	timeMax    = 1<<timeBits - 1

	epochUnixMilli = 1704067200000
)

// Epoch is the zero of an ID's clock: 2024-01-01T00:00:00Z. The 41 bits last
// until September 2093.
func Epoch() time.Time { return time.UnixMilli(epochUnixMilli).UTC() }

// MakeID builds an ID from milliseconds since Epoch, a partition and a counter.
// It panics on a part that does not fit, which only a bug can bring about.
func MakeID(sinceEpochMilli int64, partition, counter int) ID {
	if sinceEpochMilli < 0 || sinceEpochMilli > timeMax || partition < 0 || partition >= PartitionsMax || counter < 0 || counter > counterMax {
		panic(fmt.Sprintf("message: ID part out of range: %d ms, partition %d, counter %d", sinceEpochMilli, partition, counter))
	}
	return ID(sinceEpochMilli<<(partitionBits+counterBits) | int64(partition)<<counterBits | int64(counter))
}

// Time is when the message was accepted, to the millisecond: the time of its
// record in the write-ahead log, or a little later where the clock had to borrow.
func (id ID) Time() time.Time { return time.UnixMilli(id.UnixMilli()).UTC() }

// UnixMilli is Time in milliseconds of the Unix epoch.
func (id ID) UnixMilli() int64 { return int64(id)>>(partitionBits+counterBits) + epochUnixMilli }

// Partition is the partition that gave the ID.
func (id ID) Partition() int { return int(id>>counterBits) & (PartitionsMax - 1) }

// Counter is the ID's place in its millisecond.
func (id ID) Counter() int { return int(id) & counterMax }

// IDClock gives the IDs of one partition. It is a logical clock: it follows the
// times it is shown, never goes back, and borrows from the next millisecond when
// a millisecond's 4,096 IDs are used up. Its whole state is the last ID given,
// so the IDs are a function of the times alone.
type IDClock struct {
	last      ID
	partition int
}

// NewIDClock resumes the clock of a partition after the last ID it gave, or
// starts it where last is 0. A last of another partition is an error.
func NewIDClock(partition int, last ID) (IDClock, error) {
	if partition < 0 || partition >= PartitionsMax {
		return IDClock{}, fmt.Errorf("partition %d is not in 0..%d", partition, PartitionsMax-1)
	}
	if last < 0 || (last != 0 && last.Partition() != partition) {
		return IDClock{}, fmt.Errorf("ID %d is not of partition %d", last, partition)
	}
	return IDClock{last: last, partition: partition}, nil
}

// Last is the last ID given, 0 if none.
func (c *IDClock) Last() ID { return c.last }

// Next gives an ID for a record whose log time is unixMilli. It panics in the
// year 2093, when the 41 bits of time are used up.
func (c *IDClock) Next(unixMilli int64) ID {
	ms := min(max(unixMilli-epochUnixMilli, 0), timeMax)
	lastMS, counter := int64(c.last)>>(partitionBits+counterBits), 0
	if c.last != 0 && ms <= lastMS {
		ms, counter = lastMS, c.last.Counter()+1
		if counter > counterMax {
			ms, counter = ms+1, 0
		}
	}
	// Counter 0 of millisecond 0 in partition 0 would be the ID 0, which means none.
	if ms == 0 && c.partition == 0 && counter == 0 {
		counter = 1
	}
	c.last = MakeID(ms, c.partition, counter)
	return c.last
}
