// Package powercut is a disk that loses power: a block device with a volatile write cache, and a
// file system on it.
//
// The device is a loop device over the one file of a FUSE file system that this process serves.
// Writes go to the cache; a flush, which arrives as FUSE's fsync, moves the cache to the durable
// file. A cut freezes the device: the caller kills the processes that use it, and what then remains
// is the durable file with none, all, or some of the cached sectors. The page cache above the
// device is lost with the unmount, as in a real cut. The next mount replays the journal.
//
// It needs Linux, root, FUSE, loop devices and the tools of the file system; [Missing] names what a
// machine lacks.
package powercut
