// Package runner runs one partition: it recovers the state, folds the write-ahead
// log, answers, brings the messages into the message log, and takes checkpoints.
// What it needs of the world are ports, which package sequencer puts NATS behind
// and package sim a simulation. [Partition.Run] does it all, concurrently; the
// steps it is made of are exported, so that a simulation can take them one by one.
package runner
