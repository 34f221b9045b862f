// Package servertest starts Debian's clickhouse-server as a process of its own, so that tests can kill it,
// stop it and start it again.
package servertest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	binary     = "clickhouse-server"
	readyLimit = 30 * time.Second
)

// Server is one clickhouse-server with a data folder and ports of its own.
type Server struct {
	dir  string
	port int
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// Start starts a server, waits until it answers, and stops it when the test ends.
func Start(tb testing.TB) *Server {
	tb.Helper()
	if _, err := exec.LookPath(binary); err != nil {
		if os.Getenv("CI") != "" {
			tb.Fatalf("%s is missing: install Debian's package clickhouse-server", binary)
		}
		tb.Skipf("%s is missing: install Debian's package clickhouse-server", binary)
	}
	s := &Server{dir: tb.TempDir(), port: freePort(tb)}
	require.NoError(tb, os.WriteFile(filepath.Join(s.dir, "config.xml"), []byte(s.config(freePort(tb))), 0o600))
	require.NoError(tb, os.WriteFile(filepath.Join(s.dir, "users.xml"), []byte(users), 0o600))
	tb.Cleanup(s.Kill)
	s.Restart(tb)
	return s
}

// DSN is the server's address over the native protocol, with a database.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("clickhouse://%s/%s", s.Addr(), database)
}

// Addr is the server's host and port over the native protocol.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Kill ends the process as a crash does, and waits until it is gone.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGKILL) // an error means that it has ended already
	<-s.done
	s.cmd = nil
}

// Freeze stops the process without ending it: its connections stay open and nothing answers. Thaw lets it
// go on.
func (s *Server) Freeze(tb testing.TB) {
	tb.Helper()
	require.NoError(tb, s.cmd.Process.Signal(syscall.SIGSTOP))
}

// Thaw undoes Freeze.
func (s *Server) Thaw(tb testing.TB) {
	tb.Helper()
	require.NoError(tb, s.cmd.Process.Signal(syscall.SIGCONT))
}

// Restart starts the process again on the same data and port, after Kill.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	require.Nil(tb, s.cmd, "the server still runs")
	cmd := exec.Command(binary, "--config-file="+filepath.Join(s.dir, "config.xml"))
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(tb, cmd.Start())
	done := make(chan struct{})
	go func() { // ends with the process
		_ = cmd.Wait()
		close(done)
	}()
	s.cmd, s.done = cmd, done

	for deadline := time.Now().Add(readyLimit); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", s.Addr(), time.Second)
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-done:
			log, _ := os.ReadFile(filepath.Join(s.dir, "server.log"))
			require.FailNow(tb, "clickhouse-server ended at once", "%s", log)
		default:
		}
		require.True(tb, time.Now().Before(deadline), "clickhouse-server did not listen within %s", readyLimit)
	}
}

func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	defer l.Close() //nolint:errcheck // nothing was written
	return l.Addr().(*net.TCPAddr).Port
}

func (s *Server) config(httpPort int) string {
	return fmt.Sprintf(`<yandex>
    <logger><level>warning</level><log>%[1]s/server.log</log><errorlog>%[1]s/error.log</errorlog></logger>
    <listen_host>127.0.0.1</listen_host>
    <tcp_port>%[2]d</tcp_port>
    <http_port>%[3]d</http_port>
    <path>%[1]s/data/</path>
    <tmp_path>%[1]s/tmp/</tmp_path>
    <users_config>%[1]s/users.xml</users_config>
    <default_profile>default</default_profile>
    <default_database>default</default_database>
    <timezone>UTC</timezone>
    <mark_cache_size>67108864</mark_cache_size>
    <max_concurrent_queries>100</max_concurrent_queries>
</yandex>
`, s.dir, s.port, httpPort)
}

const users = `<yandex>
    <profiles><default><log_queries>0</log_queries></default></profiles>
    <users><default><password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default></users>
    <quotas><default></default></quotas>
</yandex>
`
