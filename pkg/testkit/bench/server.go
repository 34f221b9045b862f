package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 60 * time.Second
	pollInterval = 50 * time.Millisecond
)

// server is a process under load.
type server struct {
	name       string
	readyURL   string
	metricsURL string // empty if it has none that are read
	cmd        *exec.Cmd
	log        *os.File
	ended      chan struct{}
	err        error // how it ended; read it after ended
}

// launch runs a command.
func launch(log *os.File, name, readyURL, path string, args ...string) (*server, error) {
	s := &server{name: name, readyURL: readyURL, log: log, cmd: exec.Command(path, args...), ended: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// A group of its own: what a terminal sends to this program is not meant for it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { // ends with the process
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	return s, nil
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// awaitReady waits until the process says that it is ready.
func (s *server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := poll(ctx, pollInterval, s.ended, func() error {
		_, err := get(ctx, s.readyURL)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s was not ready; see %s: %w", s.name, s.log.Name(), err)
	}
	return nil
}

// stop ends the process in its own time.
func (s *server) stop() error {
	select {
	case <-s.ended:
		return fmt.Errorf("%s ended by itself; see %s: %w", s.name, s.log.Name(), s.err)
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", s.name, err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-s.ended:
	case <-timer.C:
		return errors.Join(fmt.Errorf("%s did not stop within %s", s.name, stopTimeout), s.cmd.Process.Kill())
	}
	if s.err != nil {
		return fmt.Errorf("%s ended badly; see %s: %w", s.name, s.log.Name(), s.err)
	}
	return nil
}

// poll asks until there is no error, ctx ends or gone is closed.
func poll(ctx context.Context, interval time.Duration, gone <-chan struct{}, ask func() error) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-gone:
			return errors.Join(errors.New("the process has ended"), err)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// get fetches a URL and wants 200.
func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return answerTo(request)
}

// post sends a body and wants 200.
func post(ctx context.Context, url, contentType, body string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", contentType)
	return answerTo(request)
}

func answerTo(request *http.Request) ([]byte, error) {
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }() // it is only read
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.500s", request.URL, response.Status, body)
	}
	return body, err
}

// freeAddrs are addresses that no process listens at; all are taken before any is let go, so that none comes twice.
func freeAddrs(n int) ([]string, error) {
	var addrs []string
	var errs []error
	listeners := make([]net.Listener, 0, n)
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			errs = append(errs, err)
			break
		}
		listeners = append(listeners, l)
		addrs = append(addrs, l.Addr().String())
	}
	for _, l := range listeners {
		errs = append(errs, l.Close())
	}
	return addrs, errors.Join(errs...)
}
