// Package replay reads messages again, from the message log or another source of the same, and passes them
// to a sink: every message of the partitions, channels and times that are asked for, one partition after
// another, each in its order.
//
// A state file makes it resumable. It holds where each partition ends, fixed when the replay began,
// how far it is, and what the sink needs to know to continue. It is written after the sink has taken a
// batch for good, so a replay that is killed continues with the batch it died in. What that means depends
// on the sink:
//
//   - a file is cut to the length that it had after the last whole batch: nothing is lost or repeated;
//   - a stream of NATS is read from the last whole batch on, and what is there is not published again. What comes
//     to it only then, from the replay that was killed, it knows by the message ID within its duplicate window:
//     nothing is lost or repeated;
//   - a table of ClickHouse is asked what it has of the batch: nothing is lost or repeated;
//   - standard output cannot be asked: the batch comes again, up to 1,000 lines. Their partition and
//     partition_seq tell.
package replay
