package testkit

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	// zooKeeperJar is where Debian's package libzookeeper-java, which its package zookeeper needs, puts the server.
	zooKeeperJar = "/usr/share/java/zookeeper.jar"
	// zooKeeperTick is the unit of its time: a session may end after two of them.
	zooKeeperTick = 500 * time.Millisecond
	// zooKeeperAskTimeout bounds one question to a server that is not ready yet.
	zooKeeperAskTimeout = 2 * time.Second
)

// ZooKeeperServer is a real ZooKeeper process as Debian packages it, alone: what a ClickHouse cluster keeps its replicas and its queue of
// statements in.
type ZooKeeperServer struct {
	*Process
	Port int
	Addr string // 127.0.0.1:port
}

// StartZooKeeper starts a server on an empty folder and waits until it answers.
func StartZooKeeper(t testing.TB) *ZooKeeperServer {
	t.Helper()
	if _, err := os.Stat(zooKeeperJar); err != nil {
		Lacking(t, zooKeeperJar+" (Debian: apt-get install zookeeper)")
	}
	s := &ZooKeeperServer{Port: FreePort(t)}
	s.Addr = loopback(s.Port)
	dir := t.TempDir()
	file := filepath.Join(dir, "zoo.cfg")
	writeFile(t, file, fmt.Sprintf(`tickTime=%d
dataDir=%s
clientPort=%d
clientPortAddress=127.0.0.1
admin.enableServer=false
4lw.commands.whitelist=srvr
`, zooKeeperTick.Milliseconds(), filepath.Join(dir, "data"), s.Port))
	s.Process = StartProcess(t, ProcessConfig{
		Name:  "zookeeper",
		Path:  "java",
		Args:  []string{"-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", zooKeeperJar, "org.apache.zookeeper.server.ZooKeeperServerMain", file},
		Dir:   dir,
		Ready: s.ready,
	})
	return s
}

// ready asks what the server is doing, in its own words. It takes connections before it serves any.
func (s *ZooKeeperServer) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, zooKeeperAskTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // it has served its purpose
	if err := conn.SetDeadline(time.Now().Add(zooKeeperAskTimeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "srvr"); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && !strings.Contains(string(answer), "Mode: standalone") {
		err = fmt.Errorf("it answers %q", answer)
	}
	return err
}
