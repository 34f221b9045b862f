// Package messagelog reads the message log, MESSAGES_<p>: a partition in its order, from a partition_seq
// that is given as such, as a time, or as a message_seq of a channel.
//
// A record of the log holds what a group commit became, many messages as a rule. A message's partition_seq is
// its number among all messages of the partition, 1, 2, 3, …
//
// In a partition the records' stream sequences, partition_seqs, message_ids and so the times in them, and the message_seq of each
// channel all grow together; a message's timestamp need not, since the broker's clock may step back. Numbers and times are therefore found by bisection, in some twenty questions to
// the broker, however long the log is; a channel's message_seq is not, since nothing tells which records have messages of it.
// The questions go to the stream's leader: another of its servers may not have the
// newest records yet, and would say that there are none.
package messagelog
