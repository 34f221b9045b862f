// Package telemetry is what a process shows of itself: its log, its metrics, its version, and the
// admin listener with a front page, /metrics, /healthz, /readyz, /loglevel and /debug/pprof.
//
// Nothing here is global: the logger, the level and the registry are made in the composition root
// and passed to the code that needs them.
package telemetry
