// Package recent keeps the messages that are in the message log and may not be in ClickHouse yet, so that a read sees what
// was answered before it began.
//
// # Protocol
//
// A send is answered when its record of the write-ahead log is folded; the message log has what it became a moment later.
// Record n of the message log is what record n of the write-ahead log became. So a read asks where the write-ahead log
// ends, and waits until the tail has reached that record: everything that was answered before the question is then in the
// tail or, up to the position that the writers have recorded, in ClickHouse. Reads that wait at the same time share a
// question.
//
// The tail of a partition is followed only while it is read: the first read starts a session, and one that nothing has read
// for idleAfter ends. A session reads the writers' position, and then the message log from there on, with a consumer of its
// own. It drops messages only when the recorded position has passed them. Any read error ends the session and drops the
// tail; the next session starts from the recorded position. A message log that was recreated or lost its tail is
// noticed in the same way: the consumer fails, or records are missing while a read waits.
//
// A tail is incomplete if messages between the recorded position and its first message are not in it: it has reached its
// limit of memory (ClickHouse is away for long), or the log no longer has them. [Part.Complete] reports it. The tail is
// complete again when the position has passed its first message.
//
// # For a route
//
// Take the part of the tail before ClickHouse is asked: what a writer inserts in between is then in one of the two. Within a
// channel all messages of the tail have a higher message_seq than those that only ClickHouse has, so a page takes
// from ClickHouse what is below [Part.Lowest], and each message comes once. Do not merge by hand; Service.rows does it.
package recent
