// Package topology fixes where things stand in a deployment: which partition a
// channel belongs to, and the names and settings of the streams, subjects and
// buckets that the roles meet at. It does no I/O.
package topology
