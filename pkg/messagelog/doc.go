// Package messagelog reads the message log, MESSAGES_<p>: a partition in its order, from a place
// that is given as a stream sequence, a time, or a message_seq of a channel.
//
// In a partition stream sequences, message_ids and so the times in them, and the message_seq of each
// channel all grow together. Places are therefore found by bisection, in some twenty questions to
// the broker, however long the log is. They go to the stream's leader: another of its servers may not have the
// newest records yet, and would say that there are none.
package messagelog
