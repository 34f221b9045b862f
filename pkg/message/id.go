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

// Time is what the ID clock stood at, to the millisecond: the time of the message's record in the write-ahead log, or later
// if the broker's clock has been ahead before or more than 4,096 IDs of one millisecond were given. When the message was
// accepted is what [Message.AcceptedAt] returns.
func (id ID) Time() time.Time { return time.UnixMilli(id.UnixMilli()).UTC() }

// UnixMilli is Time in milliseconds of the Unix epoch.
func (id ID) UnixMilli() int64 { return int64(id)>>(partitionBits+counterBits) + epochUnixMilli }

// Partition is the partition that gave the ID.
func (id ID) Partition() int { return int(id>>counterBits) & (PartitionsMax - 1) }

// Counter is the ID's place in its millisecond.
func (id ID) Counter() int { return int(id) & counterMax }

// Rules for the time of messages. A record of the write-ahead log says by which rule it is folded (topology.HeaderRule), and a
// partition keeps to a rule from its first record on, so that a log which an older version has folded becomes what it became then.
const (
	// RuleFrozen is that of records which name none, as versions wrote them that knew no other: time is the latest record
	// time so far. A clock that steps forward and back stops it.
	RuleFrozen = 1
	// RuleSteps has a clock that may step (docs/architecture.md, Time).
	RuleSteps = 2
	// RuleNewest is what ingest writes.
	RuleNewest = RuleSteps
)

// Times that an ID clock follows, in Unix milliseconds: those of a broker whose clock may be right. Others do not move it, so
// that no clock can use the IDs up: what lies after FollowedMilliMax, 8.7 years, is enough for a million IDs a second for 35
// years.
const (
	FollowedMilliMin = 1577836800000 // 2020-01-01
	FollowedMilliMax = 3629145600000 // 2085-01-01; the first that is not followed
)

// TimestampMilliMax is the last time that an ID can hold, and so a message have, in Unix milliseconds.
const TimestampMilliMax = epochUnixMilli + timeMax

// IDClock makes the IDs of one partition. It is a logical clock: it follows the
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

// Left is how many IDs the clock can still give for log times up to unixMilli.
func (c *IDClock) Left(unixMilli int64) int64 {
	ms, lastMS := clampMilli(unixMilli), int64(c.last)>>(partitionBits+counterBits)
	if c.last == 0 || ms > lastMS {
		return (timeMax - ms + 1) << counterBits
	}
	return (timeMax-lastMS)<<counterBits + int64(counterMax-c.last.Counter())
}

func clampMilli(unixMilli int64) int64 { return min(max(unixMilli-epochUnixMilli, 0), timeMax) }

// Next returns an ID for a record whose log time is unixMilli. The caller makes sure that one is [IDClock.Left]; it panics if
// none is.
func (c *IDClock) Next(unixMilli int64) ID {
	ms := clampMilli(unixMilli)
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
