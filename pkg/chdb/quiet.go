package chdb

import (
	"log/slog"
	"runtime"
)

// quietThreads are threads of a lower priority, on which the engine is started and inserts run. A merge or an insert takes a core for a
// tenth of a second, at any time, and nobody waits for either to the millisecond; what shares the cores with them, such as the answers to
// clients, does. A new thread has the priority of the one that starts it, so the engine's own, those that merge among them, have it too. A
// lower priority is a smaller share where cores are short, and not none: inserts and merges go on.
//
// Go runs nothing else on a thread that a goroutine keeps to itself, and starts no threads from it, so the rest of the process is as it was.
type quietThreads struct {
	work chan func()
}

// startQuiet starts so many threads. Where their priority cannot be lowered, it says so once and they run as any other.
func startQuiet(threads int, log *slog.Logger) *quietThreads {
	q := &quietThreads{work: make(chan func())}
	lowered := make(chan error)
	for range threads {
		go q.run(lowered)
	}
	var failed error
	for range threads {
		if err := <-lowered; err != nil {
			failed = err
		}
	}
	if failed != nil {
		log.Warn("ClickHouse runs at the priority of everything else, so its merges and inserts may hold up answers", "error", failed)
	}
	return q
}

// run does what it is given until there is no more. The thread ends with it, since it was never let go.
func (q *quietThreads) run(lowered chan<- error) {
	runtime.LockOSThread()
	if onMainThread() { // What it has, tools show as the process's.
		elsewhere := make(chan error)
		go q.run(elsewhere)
		lowered <- <-elsewhere
		runtime.UnlockOSThread()
		return
	}
	lowered <- lowerPriority()
	for f := range q.work {
		f()
	}
}

// do runs f on one of the threads, when one is free, and returns when it has ended. A panic in it is the caller's.
func (q *quietThreads) do(f func()) {
	done := make(chan struct{})
	var cause any
	q.work <- func() {
		defer close(done)
		defer func() { cause = recover() }()
		f()
	}
	<-done
	if cause != nil {
		panic(cause)
	}
}

// stop ends the threads. Nothing may be given to do any more.
func (q *quietThreads) stop() { close(q.work) }
