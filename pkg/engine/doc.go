// Package engine runs the embedded ClickHouse in a process of its own, which it starts from the same binary, confines and watches.
//
// # Contract
//
// Start takes the TCP address and starts the child. From then on the child is started again whenever it ends, after pauses that grow from
// 0.1 s to 5 s, until Close. While there is no child, connections to the address get status 503 with ClickHouse's exception 236, Dial
// fails, and Check says why. Whatever ends the child (a crash, the kernel's killer, no more file descriptors) ends nothing else.
//
// If this process ends, however it does, the child ends at once: by the end of their pair of sockets, and on Linux the kernel kills it.
//
// # How they talk
//
// The child has two files from its parent. One is the TCP listener: the child accepts on it while it is up, the parent while it is not. The
// other is an end of a pair of sockets. On it the parent sends the settings, then one byte for each connection that Dial makes, with the
// connection's other end, and one byte without when the child is to finish its statements and end. The child sends lines of JSON: records
// for the log, and that it is ready or has failed. No other process can make a connection like Dial's, so those have the rights of
// the owner; who comes over TCP has them with the password, and otherwise may read (see pkg/chdb).
//
// # Confinement
//
// On Linux the child can, by Landlock, write its data folder alone, read what a program needs to run, start no program and connect to
// nothing. Only an end of file descriptor that it was given reaches out. What the kernel cannot do is said in the log at start.
package engine
