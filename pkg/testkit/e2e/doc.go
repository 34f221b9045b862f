// Package e2e tests the whole: the built binary as processes on free ports, with real NATS and ClickHouse
// servers beside them where a test has the roles apart, killed and stopped in every way while clients send.
//
// The clients ([load]) keep what they were answered, and the check ([verify]) holds it against the rows:
// every answered send is there exactly once, with the ID and the sequence number of its answer and the
// content that was sent; the sequences of each channel are 1 to n; nothing is there that was not sent; and
// a send that began after another of its channel was answered comes after it.
//
// Its tests run without the race detector (see the Makefile): it cannot look into other processes.
package e2e
