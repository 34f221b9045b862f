// Package lease shares the partitions of a deployment among the instances of a
// role. Each instance keeps a membership key and a key for each partition that it
// holds in a key-value bucket whose values expire; the share of each instance
// follows from the members alone, and a partition changes hands only through an
// expired or a released key.
//
// A lease gives liveness and balance, not safety. An instance that was paused may
// believe in a lease that has expired; whatever it writes then must be refused, or
// be harmless, for reasons of its own. What the package does: the context of a
// holder ends on a local deadline, by the monotonic clock, before the key can have
// expired, whether or not the broker can be reached.
package lease
