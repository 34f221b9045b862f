package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 60 * time.Second
	pollInterval = 50 * time.Millisecond
	clockTicks   = 100 // USER_HZ, on every Linux that Go runs on
)

// server is a process under load.
type server struct {
	cmd *exec.Cmd
	url string
}

// startServer runs a command and waits until it is ready.
func startServer(url, readyURL string, logFile *os.File, name string, args ...string) (*server, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd: cmd, url: url}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := poll(ctx, func() error { _, err := get(ctx, readyURL); return err }); err != nil {
		return nil, errors.Join(fmt.Errorf("%s was not ready; see %s: %w", name, logFile.Name(), err), s.stop())
	}
	return s, nil
}

// stop ends the process in its own time.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the server: %w", err)
	}
	timer := time.AfterFunc(stopTimeout, func() { _ = s.cmd.Process.Kill() }) // Wait says how it ended
	defer timer.Stop()
	var exit *exec.ExitError
	if err := s.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("stop the server: %w", err)
	}
	return nil
}

// cpuSeconds is the processor time that the process has used.
func (s *server) cpuSeconds() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err1 := strconv.ParseFloat(fields[11], 64)
	system, err2 := strconv.ParseFloat(fields[12], 64)
	return (user + system) / clockTicks, errors.Join(err1, err2)
}

// memoryMiB is the process's resident memory, now and at most so far.
func (s *server) memoryMiB() (now, most int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			now = kib >> 10
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			most = kib >> 10
		}
	}
	return now, most, nil
}

// poll asks until there is no error or ctx ends.
func poll(ctx context.Context, ask func() error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return err
		}
	}
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
