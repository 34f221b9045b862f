// Package lifecycle starts, watches and stops the parts of a process.
//
// A [Group] starts its services one after another, each when the one before it is ready, and stops
// them in the opposite order, each only when the one above it has ended: what was opened last
// closes first. A service that fails takes the others down the same orderly way.
//
// [Readiness] collects the checks behind /readyz. [WithSignals] turns SIGTERM and SIGINT into the
// end of a context, and a second one into the end of the process.
package lifecycle
