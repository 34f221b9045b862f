package testkit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// Ports are taken from below the range from which Linux and macOS give ports to outgoing
// connections. One of those could otherwise sit on a port while the server that owns it restarts.
const (
	portFirst = 20000
	portEnd   = 32000
	portTries = 1000
)

// FreePort returns a TCP port of 127.0.0.1 that nothing listens on. No other test on this machine
// gets the same one before this test ends, so a server may be stopped and started on it.
func FreePort(t testing.TB) int {
	t.Helper()
	dir := filepath.Join(os.TempDir(), "sendhouse-test-ports")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatalf("reserve a port: %v", err)
	}
	for range portTries {
		port := portFirst + rand.IntN(portEnd-portFirst)
		lock, err := lockFile(filepath.Join(dir, strconv.Itoa(port)), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			continue // reserved by another test
		}
		if err != nil {
			t.Fatalf("reserve a port: %v", err)
		}
		free, err := portIsFree(port)
		if err != nil {
			t.Fatalf("look at port %d: %v", port, err)
		}
		if !free {
			_ = lock.Close() // releases the lock
			continue
		}
		t.Cleanup(func() { _ = lock.Close() })
		return port
	}
	t.Fatalf("no free port found in %d tries between %d and %d", portTries, portFirst, portEnd)
	return 0
}

// FreeAddr returns 127.0.0.1 with a [FreePort].
func FreeAddr(t testing.TB) string {
	t.Helper()
	return loopback(FreePort(t))
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// portIsFree reports whether nothing listens on the port. It keeps processes from being started while its
// own socket is open: a child holds a copy of every descriptor between its fork and its exec, and a copy of
// this one would keep the port from the test that is about to be given it.
func portIsFree(port int) (bool, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	// Not net.Listen, which takes the same lock on systems that cannot open a socket close-on-exec.
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return false, fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = syscall.Close(socket) }()
	if err := syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return false, fmt.Errorf("set SO_REUSEADDR: %w", err)
	}
	err = syscall.Bind(socket, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
	if err == nil {
		err = syscall.Listen(socket, 1)
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return false, nil
	}
	return err == nil, err
}

// lockFile opens a file and locks it as how says. Closing the file, or the end of the process, releases the lock.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}
