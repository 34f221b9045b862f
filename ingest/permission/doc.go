// Package permission says who may send what to which channel. It keeps the policies in a
// NATS key-value bucket and all of them, packed, in the memory of every process.
//
// # What holds
//
//   - A change is one write of one key, the channel's record, under compare-and-swap. Before
//     it nothing has changed, whatever of it is in the bucket already; after it all of it has.
//   - Change returns nil only when the change is stored and in force in this process. Others
//     have it as soon as the watch brings it: within a second while NATS answers them.
//   - Two changes of one channel, wherever they are made, happen one after the other.
//
// # How
//
//	decide.go  the pure function of policies and a send
//	policy.go  one channel's policy and what an edit makes of it; set.go a list, page.go its packed parts
//	record.go  what stands in the bucket, key.go under which key
//	cache.go   all policies, for many readers and one writer
//	follow.go  the watch that feeds the cache
//	probe.go   how fresh it is: asks the server how far it is and waits until the watch is there, too
//	change.go  pages first, then the record; the pages that it replaced go last
//	mark.go    how much the bucket held, kept elsewhere, so that a bucket that lost something is noticed
//	repair.go  the command that makes the bucket again, or accepts it as it is
//	sweep.go   pages that a change which died on its way has left
//
// A list of more than 8 KiB is divided by the hash of its uids into pages of up to 64 KiB, each
// under a key that is used once. A change writes new pages, then the record that points to them.
// If it dies in between, nobody points to them. A page is removed only after the record has been
// written by somebody who does not point to it: from then on whoever had prepared a change on the
// record before cannot write it any more.
//
// A policy that says nothing, with no flag and empty lists, is none: every process forgets the
// channel. Its record stays in the bucket, so that it is told from one that was deleted by hand, which admits no
// sender. The next record is written under compare-and-swap on it.
//
// The server that a watch runs on may be behind the stream's leader, and says "that was all" when
// it has handed over what it has. So the cache counts as complete only when the watch has come as
// far as the leader was when it was asked, or when the leader has nothing behind what was applied:
// the newest messages may have been removed. A new watch goes on behind the last message applied.
//
// # When NATS does not answer
//
// The cache stands for StaleMax since it was last known to be complete. Then sends are not
// answered on its word. Changes fail at once. At a start nothing is answered until the watch has
// brought everything.
//
// # When the bucket is damaged
//
// A record that cannot be read, or points to a page that is not there, lets nobody send to its
// channel, and is reported. Replacing the list, or the record, mends it. So does a record that was
// deleted, until the channel is defined again.
//
// A bucket that was replaced by an older copy, cut off, or purged of a record looks like a whole one.
// So a mark in another bucket says how much it held at its last change; see the type mark. A bucket
// that is behind its mark admits no sender until it is restored, or accepted by `sendhouse repair
// permissions`.
package permission
