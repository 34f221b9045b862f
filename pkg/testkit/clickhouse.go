package testkit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// clickHouseAskTimeout bounds one question to a server that is not ready yet.
const clickHouseAskTimeout = 2 * time.Second

// ClickHouseServer is a real clickhouse-server process as Debian packages it (18.16.1): old, and
// without TTL, codecs or deduplication tokens, but a separate process with the native protocol. After
// Kill9 or Stop, Start runs it again on the same port and data.
type ClickHouseServer struct {
	*Process
	Port    int    // of the native protocol
	Addr    string // 127.0.0.1:port
	DSN     string // clickhouse://127.0.0.1:port/default, user default, no password
	DataDir string

	SecureAddr string // of the native protocol over TLS; empty without
}

// ClickHouseOptions are what a server can have besides.
type ClickHouseOptions struct {
	// Password is that of a user named secured; the user default keeps none.
	Password string
	// Certificate and CAFile turn TLS on, beside the port without it. A client must show a certificate that the
	// authority has signed.
	Certificate Certificate
	CAFile      string
	// DataDir is where it keeps its data, such as a folder on a small disk; a folder of the test's if empty.
	DataDir string
	// Port is that of the native protocol; a FreePort if 0.
	Port int
	// Config is added to the configuration, as XML.
	Config string
}

// StartClickHouse starts a server on an empty folder and waits until it answers a query.
func StartClickHouse(t testing.TB) *ClickHouseServer {
	t.Helper()
	return StartClickHouseWith(t, ClickHouseOptions{})
}

// StartClickHouseWith is StartClickHouse with options.
func StartClickHouseWith(t testing.TB, o ClickHouseOptions) *ClickHouseServer {
	t.Helper()
	s := newClickHouse(t, o)
	s.Start()
	return s
}

// newClickHouse prepares a server without starting it.
func newClickHouse(t testing.TB, o ClickHouseOptions) *ClickHouseServer {
	t.Helper()
	binary := clickHouseBinary(t)
	s := &ClickHouseServer{Port: o.Port, DataDir: o.DataDir}
	if s.Port == 0 {
		s.Port = FreePort(t)
	}
	if s.DataDir == "" {
		s.DataDir = t.TempDir()
	}
	s.Addr = loopback(s.Port)
	s.DSN = "clickhouse://" + s.Addr + "/default"

	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "users.xml"), fmt.Sprintf(clickHouseUsers, o.securedUser()))
	config := filepath.Join(dir, "config.xml")
	writeFile(t, config, fmt.Sprintf(clickHouseConfig, s.Port, FreePort(t), FreePort(t), s.DataDir, s.tls(t, o)+o.Config))
	s.Process = NewProcess(t, ProcessConfig{
		Name:  "clickhouse-server",
		Path:  binary,
		Args:  []string{"--config-file=" + config},
		Dir:   dir,
		Ready: s.ready,
	})
	return s
}

// securedUser is the entry of the user who has a password.
func (o ClickHouseOptions) securedUser() string {
	if o.Password == "" {
		return ""
	}
	return fmt.Sprintf("<secured><password>%s</password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></secured>", o.Password)
}

// tls is the part of the configuration that turns TLS on, and notes its address.
func (s *ClickHouseServer) tls(t testing.TB, o ClickHouseOptions) string {
	t.Helper()
	if o.CAFile == "" {
		return ""
	}
	port := FreePort(t)
	s.SecureAddr = loopback(port)
	return fmt.Sprintf(clickHouseTLS, port, o.Certificate.CertFile, o.Certificate.KeyFile, o.CAFile)
}

// ready asks for one row over a connection of its own.
func (s *ClickHouseServer) ready(ctx context.Context) error {
	conn, err := clickhouse.Open(&clickhouse.Options{
		Addr: []string{s.Addr}, DialTimeout: clickHouseAskTimeout, ReadTimeout: clickHouseAskTimeout, MaxOpenConns: 1,
	})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // it has served its purpose
	ctx, cancel := context.WithTimeout(ctx, clickHouseAskTimeout)
	defer cancel()
	var one uint8
	return conn.QueryRow(ctx, "SELECT 1").Scan(&one)
}

// clickHouseBinary finds the server, also if Debian has put it where only root looks.
func clickHouseBinary(t testing.TB) string {
	t.Helper()
	const name, sbin = "clickhouse-server", "/usr/sbin/clickhouse-server"
	if info, err := os.Stat(sbin); err == nil && info.Mode().IsRegular() {
		return sbin
	}
	return Program(t, name, name)
}

// clickHouseConfig takes the ports of the native protocol, of HTTP and of the exchange between
// replicas, then the data folder, then what else there is.
const clickHouseConfig = `<?xml version="1.0"?>
<yandex>
  <logger><level>error</level><console>1</console></logger>
  <listen_host>127.0.0.1</listen_host>
  <tcp_port>%d</tcp_port>
  <http_port>%d</http_port>
  <interserver_http_port>%d</interserver_http_port>
  <interserver_http_host>127.0.0.1</interserver_http_host>
  <path>%[4]s/</path>
  <tmp_path>%[4]s/tmp/</tmp_path>
  <user_files_path>%[4]s/user_files/</user_files_path>
  <format_schema_path>%[4]s/format_schemas/</format_schema_path>
  <users_config>users.xml</users_config>
  <default_profile>default</default_profile>
  <default_database>default</default_database>
  <mark_cache_size>67108864</mark_cache_size>
%[5]s
</yandex>
`

// clickHouseTLS takes the port of the native protocol over TLS, then the files of the certificate, of its key and of
// the authority.
const clickHouseTLS = `
  <tcp_port_secure>%d</tcp_port_secure>
  <openSSL><server>
    <certificateFile>%s</certificateFile>
    <privateKeyFile>%s</privateKeyFile>
    <caConfig>%s</caConfig>
    <loadDefaultCAFile>false</loadDefaultCAFile>
    <verificationMode>strict</verificationMode>
  </server></openSSL>
`

// clickHouseUsers takes more users.
const clickHouseUsers = `<?xml version="1.0"?>
<yandex>
  <profiles><default><max_memory_usage>2000000000</max_memory_usage></default></profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password></password>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </default>
    %s
  </users>
</yandex>
`
