// Package fold decides what every send becomes: its message_id, its
// message_seq, or "duplicate of an earlier one". The decision is a pure function
// of the partition's write-ahead log up to that send. There is no clock, no
// randomness, no iteration over a map and no I/O here; time enters only as the
// log's own timestamps. So every fold of the same log yields the same answers:
// after a crash, in a takeover, in an audit.
//
// The state is laid out for millions of channels: flat chunks with no pointers
// for the garbage collector to follow, an index beside them, nothing allocated
// for a send to a known channel, and what the next sends need read ahead. A
// [Snapshot] shares the chunks that can no longer change and copies the rest, so
// taking one holds the fold up for milliseconds.
package fold
