package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

const (
	// storageLook is the pause between two looks at the embedded server's storage.
	storageLook = time.Second
	// restartPauseMin and restartPauseMax bound the time between two restarts of the embedded server, which doubles while
	// the storage keeps failing.
	restartPauseMin = 5 * time.Second
	restartPauseMax = 5 * time.Minute
	// restartForgotten: after this long without a fault the next one counts as the first.
	restartForgotten = 10 * time.Minute
	// roomBytes is what must be writable before a restart. A server that starts writes its indexes.
	roomBytes = 4 << 20
	roomName  = "ROOM"
)

// storageErrors are the errors of a file system that nats-server remembers: it refuses all later writes to the stream, also
// when the cause is gone, until it is restarted.
//
//nolint:gochecknoglobals // a table
var storageErrors = []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS, syscall.EACCES, syscall.EPERM, syscall.EFBIG}

// storageError returns the part of a server's message that names an error of its file system, or "".
func storageError(text string) string {
	for _, errno := range storageErrors {
		if strings.Contains(text, errno.Error()) {
			return errno.Error()
		}
	}
	return ""
}

// seqNever is a sequence that no record has.
const seqNever = 1 << 62

// StorageFault asks the server that holds a stream whether it can write to it, and returns the error of its file system as
// fault if it cannot. It has the server delete a record that cannot be: the stream's store refuses that with the error of the
// write that has failed, if one has, and changes nothing either way. err means that there was no answer. Of a stream
// with several replicas it would be written to their logs, so it is not to be called for one.
func StorageFault(ctx context.Context, js jetstream.JetStream, name string) (fault, err error) {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("look at stream %s: %w", name, err)
	}
	err = stream.DeleteMsg(ctx, seqNever)
	if !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return nil, err //nolint:wrapcheck // no answer
	}
	if text := storageError(err.Error()); text != "" {
		return fmt.Errorf("stream %s cannot be written to: %s", name, text), nil
	}
	return nil, nil
}

// Check is nil while the server runs and can write to its files, as far as Watch has seen.
func (e *Embedded) Check() error {
	if problem := e.problem.Load(); problem != nil {
		return fmt.Errorf("embedded NATS server: %s", *problem)
	}
	return nil
}

// storageFault returns why the server cannot write to its files, or "". A stream that fails for another reason is no storage fault: a
// restart would not mend it.
func (e *Embedded) storageFault() string {
	ns := e.server.Load()
	if ns == nil {
		return "did not start again; its log says why"
	}
	for _, failed := range ns.Healthz(&server.HealthzOptions{Details: true}).Errors {
		switch {
		case failed.Type == server.HealthzErrorStream && strings.Contains(failed.Error, "write error") && storageError(failed.Error) != "":
			return fmt.Sprintf("cannot write to stream %s: %s", failed.Stream, storageError(failed.Error))
		case failed.Type == server.HealthzErrorJetStream && failed.Error == server.NewJSNotEnabledError().Error(): // it has switched that off
			return "has switched JetStream off, which it does if it may not write to its files; its log says more"
		}
	}
	return ""
}

// Watch restarts the server within the process when it cannot write to its files and they can be written to again: nats-server
// remembers a write that has failed, and refuses all later ones to the stream until it is restarted. It returns when ctx ends.
//
// Answered sends are not at risk: each was synced before. What the server had acknowledged of the message log and not written yet is
// derived again, as after a power loss.
//
// Restarts are at least 5 s apart, and twice as long each time, up to 5 minutes, until there was no fault for 10
// minutes. A server that does not start again is tried again after the same pauses.
func (e *Embedded) Watch(ctx context.Context) error {
	var waiting lifecycle.Repeated
	var last, seen time.Time // restart, fault
	var pause time.Duration  // that must be between the last restart and the next
	for lifecycle.Pause(ctx, storageLook) == nil {
		fault := e.storageFault()
		if fault == "" {
			e.problem.Store(nil)
			waiting.Over()
			if time.Since(seen) > restartForgotten {
				pause = 0
			}
			continue
		}
		seen = time.Now()
		e.problem.Store(&fault)
		var why error
		if since := time.Since(last); since < pause {
			why = fmt.Errorf("it was restarted %s ago, and restarts are at least %s apart while the fault keeps coming back", since.Round(time.Second), pause)
		} else {
			why = tryRoom(e.cfg.DataDir)
		}
		if why != nil {
			if skipped, due := waiting.Due(fault); due {
				e.log.Error("embedded NATS server fails; sends are answered 503 until it is restarted, which happens by itself when its folder can be written to",
					"error", fault, "not_yet_because", why, "skipped", skipped)
			}
			continue
		}
		last, pause = time.Now(), min(max(2*pause, restartPauseMin), restartPauseMax)
		e.log.Warn("restarting the embedded NATS server within the process", "error", fault, "next_restart_not_within", pause)
		if err := e.restart(); err != nil {
			e.log.Error("embedded NATS server did not start again; retrying", "error", err, "next_attempt_in", pause)
			continue
		}
		e.log.Info("embedded NATS server was restarted within the process", "took", time.Since(last))
	}
	return nil
}

// tryRoom writes a file, syncs it and removes it.
func tryRoom(dir string) error {
	name := filepath.Join(dir, roomName)
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("try to write to NATS's folder: %w", err)
	}
	_, err = file.Write(make([]byte, roomBytes))
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close(), os.Remove(name)); err != nil {
		return fmt.Errorf("try to write %d MiB to NATS's folder: %w", roomBytes>>20, err)
	}
	return nil
}

// restart replaces the server by one on the same files. It does nothing after Shutdown.
func (e *Embedded) restart() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return nil
	}
	if err := e.stopServerLocked(); err != nil {
		return err
	}
	// A write that failed may have left pages that look as if they were on disk. What is read now must come from there.
	if err := dropCaches(e.cfg.DataDir); err != nil {
		return fmt.Errorf("read NATS's files from disk: %w", err)
	}
	if err := e.startServerLocked(); err != nil {
		return err
	}
	e.restarts.Add(1)
	return nil
}
