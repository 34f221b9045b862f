// Package lease shares the partitions of a deployment among the instances of a
// role. Each instance keeps a membership key, and a key for each partition that it
// holds, in a key-value bucket. The share of each instance follows from the members
// alone. A partition changes hands through a key that was released, or one that an
// observer has seen unchanged for a time to live.
//
// # Why no two instances use a lease at one time
//
// No clock of the broker takes part, and no two clocks are compared. Each instance
// measures durations on its own clock, which never steps and counts the time that
// the machine was suspended (Linux: CLOCK_BOOTTIME).
//
//   - A holder may use its lease until 7/8 of the time to live (TTL) after the moment
//     just before it sent its last successful renewal. Then Good is false and the
//     context of Hold ends, whether or not the broker can be reached.
//   - Every renewal is a compare-and-set, which assigns the key a new revision. An observer
//     notes when it first saw a revision, which is after its renewal was sent. It takes
//     the key a whole TTL after that at the earliest, by compare-and-set on that very
//     revision: if the holder has renewed since, the observer is refused.
//   - So the holder has stopped at least TTL/8 before an observer takes over, provided that
//     the two clocks' rates differ by less than an eighth. Clocks of real machines differ
//     by 0.1% at most.
//   - The TTL that counts is the holder's; it stands in the key's value. Keys do not
//     expire in the bucket: a key that is not there was released, or never made.
//   - A key that names this instance and that no Hold works under is left from an earlier
//     run, from before a pause, or of a write whose answer was lost. Only this instance
//     renews it, so the instance may take it at once, also by compare-and-set.
//
// What remains: a virtual machine that is stopped by its host has clocks that stand
// still, and nothing inside can tell; the same holds for a suspended machine that does
// not run Linux. Its holder may believe in a lease that is another's.
// So a lease gives liveness and balance, not safety: whatever a holder writes must be
// refused, or be harmless, for reasons of its own.
package lease
