// Package sequencer is the role that turns sends into messages. For each
// partition it reads the write-ahead log in order, folds it (package fold),
// answers each record, and derives the message log from it.
//
// Order and delivery. A send is answered when it is durable in the write-ahead
// log and folded; nothing else is written first. Answers go out once for each
// time a record is folded, so after a crash some go out again, the same. What
// a record becomes has its fixed place in the message log, the same stream sequence
// as the record, and a write carries the sequence it expects before it,
// so a message can be neither repeated nor skipped nor overtaken, whichever process writes.
// A no_persist message is published on its live subject once; after a crash it
// may come a second time, with the same ID.
//
// When a neighbour fails:
//   - The broker is away: folding waits; sends run into their time-out at
//     ingest, and a retry gets the answer that the first try would have got.
//   - The message log refuses or loses writes: its tail is read again, and what
//     is missing is written from memory or, if that no longer reaches back, from
//     a checkpoint and the write-ahead log. Answers continue until the outbox is full.
//   - A checkpoint is damaged: the older one is taken, and a longer tail read. The
//     pointer to the checkpoints is damaged or gone: it is written again from those
//     that are stored and whole.
//   - The write-ahead log lacks what the message log or every checkpoint was made
//     from, or the message log holds a record that the fold does not make: that
//     partition is refused, since to continue would assign sequence numbers twice or
//     leave a message out. Its owner keeps it, says why in its lease, and tries again
//     with growing pauses. The other partitions are served.
package sequencer
