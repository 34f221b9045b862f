// Package testkit starts real processes for tests, kills them in every way a process can die, and
// starts them again on the same data: a command of one's own, a NATS server, a cluster of three, a
// ClickHouse server.
//
// What a test starts ends with the test, even if the test binary itself is killed (on Linux). A
// helper that cannot do its work fails the test; none skips it. Unix only.
package testkit
