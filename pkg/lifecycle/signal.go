package lifecycle

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// SignalError is the cause of a context that a signal ended.
type SignalError struct{ Signal os.Signal }

// Error names the signal.
func (e *SignalError) Error() string { return fmt.Sprintf("received signal %q", e.Signal.String()) }

// ExitCode is what a shell reports for a process that the signal ended: 130 for SIGINT, 143 for SIGTERM.
func (e *SignalError) ExitCode() int {
	if s, ok := e.Signal.(syscall.Signal); ok {
		return 128 + int(s)
	}
	return 1
}

// SignalsAreOne is the time within which several signals count as one: some supervisors, coreutils'
// timeout among them, signal the process and then its group.
const SignalsAreOne = time.Second

// WithSignals returns a context that ends, with a [SignalError] as its cause, at the first SIGTERM
// or SIGINT: the process should then drain. At one that comes later than [SignalsAreOne] after the
// first, the process exits at once with the status of [SignalError.ExitCode]. stop returns the
// signals to their default effect.
func WithSignals(parent context.Context, log *slog.Logger) (ctx context.Context, stop context.CancelFunc) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	ctx, cancel := watchSignals(parent, log, signals, os.Exit)
	return ctx, func() {
		signal.Stop(signals)
		cancel()
	}
}

// watchSignals is WithSignals with the system replaced: where signals come from and how to exit.
// Its goroutine ends with the returned cancel function.
func watchSignals(
	parent context.Context, log *slog.Logger, signals <-chan os.Signal, exit func(int),
) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var first time.Time
		for {
			select {
			case s := <-signals:
				cause := &SignalError{Signal: s}
				switch {
				case first.IsZero():
					first = time.Now()
					log.Info("signal received, draining; another one exits at once", "signal", s.String())
					cancel(cause)
				case time.Since(first) < SignalsAreOne:
					log.Info("ignoring a signal that came right after the first", "signal", s.String())
				default:
					log.Warn("second signal, exiting without draining", "signal", s.String())
					exit(cause.ExitCode())
					return
				}
			case <-done:
				return
			}
		}
	}()
	stop := sync.OnceFunc(func() {
		cancel(nil)
		close(done)
		<-ended
	})
	return ctx, stop
}
