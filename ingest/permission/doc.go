// Package permission decides who may send to which channel. It stores the policies in a NATS key-value bucket, and every
// process keeps all of them, packed, in memory.
//
// # Contract
//
//   - A change is one write of one key, the channel's record, under compare-and-swap. Before that write nothing has
//     changed, whatever else is already in the bucket; after it the whole change has been made.
//   - Change returns nil only when the change is stored and in force in this process. Other processes apply it when their
//     watch delivers it: within a second while NATS answers them.
//   - Changes of one channel are serialized, whichever processes make them.
//
// # Files
//
//	decide.go  the pure function of policies and a send
//	policy.go  one channel's policy and how an edit changes it; set.go a list, page.go its packed parts
//	record.go  the format of a record in the bucket, key.go of its key
//	cache.go   all policies, for many readers and one writer
//	follow.go  the watch that feeds the cache
//	probe.go   freshness: asks the server for its position and waits until the watch has reached it
//	change.go  a change: stores pages, then the record, then purges the replaced pages
//	mark.go    how much the bucket held, stored elsewhere, so that a loss of records is noticed
//	repair.go  the command that rebuilds the bucket, or accepts it as it is
//	sweep.go   removes pages left by a change that did not complete
//
// A list of more than 8 KiB is divided by the hash of its uids into pages of up to 64 KiB, each under a key that is used
// once. A change writes new pages, then the record that points to them. If the process dies in between, no record points
// to them. A page is removed only after a process has written a record that does not point to it: any change that was
// prepared on the previous record then fails its compare-and-swap.
//
// A policy without flags and with empty lists is the same as none: no process keeps it in memory. Its record stays in the
// bucket, so that it differs from one that was deleted by hand, which admits no sender. The next record is written under
// compare-and-swap on it.
//
// The server of a watch may lag behind the stream's leader, and reports the initial values as complete once it has
// delivered what it has. So the cache counts as complete only when the watch has reached the leader's position at the time
// of the question, or when the leader holds no message after the last applied one: the newest messages may have been
// removed. A new watch starts after the last message applied.
//
// # When NATS does not answer
//
// The cache may be used for StaleMax after it was last known to be complete. After that, no send is decided on and changes
// fail at once. After a start, no send is decided on until the watch has delivered everything.
//
// # When the bucket is damaged
//
// A record that cannot be read, or that points to a missing page, admits no sender to its channel, and is reported.
// Replacing the list, or the record, repairs it. A record that was deleted also admits no sender until the channel is
// defined again.
//
// A bucket that was replaced by an older copy, truncated, or purged of a record looks intact. So a mark in another bucket
// records how much it held at its last change; see the type mark. A bucket with less than its mark admits no sender until
// it is restored, or accepted with `sendhouse repair permissions`.
package permission
