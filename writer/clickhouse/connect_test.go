package clickhouse_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// open returns a client and its log.
func open(t *testing.T, cfg clickhouse.Config) (*clickhouse.Client, *bytes.Buffer) {
	t.Helper()
	var text bytes.Buffer
	client, err := clickhouse.Open(cfg, slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug})))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client, &text
}

func writeText(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// Two servers stand in for replicas. Each connection goes to the first that answers; one that is killed, or hangs
// with its connections open, costs one failed insert.
func TestFailoverNative(t *testing.T) {
	t.Parallel()
	first, second := testkit.StartClickHouse(t), testkit.StartClickHouse(t)
	b := setupNative(t, fmt.Sprintf("clickhouse://%s,%s/failover?read_timeout=2s&dial_timeout=1s", first.Addr, second.Addr))
	b.createNative(t)
	other := setupNative(t, "clickhouse://"+second.Addr+"/failover")
	other.createNative(t)
	block := fill(t, 1, 100)
	rows := func() uint64 { return other.number(t, "SELECT count() FROM failover.messages") }
	failover(t, func() error { return b.client.Insert(b.ctx, block, 0, 100, "t") }, rows, first.Kill9, first.Start, second.Pause)
	second.Resume()
	require.NoError(t, b.client.Ping(b.ctx))
}

// The same over HTTP: two ways to one engine, for the driver speaks HTTP only with newer servers.
func TestFailoverHTTP(t *testing.T) {
	t.Parallel()
	dsn := engine.DSN(t)
	first, second := newGate(t, dsn, nil), newGate(t, dsn, nil)
	b := setup(t, fmt.Sprintf("http://%s,%s/%s?read_timeout=2s&dial_timeout=1s", first.addr, second.addr, enginetest.DatabaseOf(t)))
	require.NoError(t, b.client.Migrate(b.ctx))
	block := fill(t, 1, 100)
	bySecond := func() uint64 {
		if second.used() {
			return 100
		}
		return 0
	}
	failover(t, func() error { return b.client.Insert(b.ctx, block, 0, 100, "t") }, bySecond, first.close, first.open, second.hang)
	require.EqualValues(t, 100, b.number(t, "SELECT count() FROM "+b.database+".messages"), "each of the inserts had the same token")
}

// idleConnections is more than the client has made in these tests.
const idleConnections = 10

func failover(t *testing.T, insert func() error, rowsOfSecond func() uint64, killFirst, startFirst, pauseSecond func()) {
	t.Helper()
	require.NoError(t, insert())
	require.Zero(t, rowsOfSecond(), "the first takes all while it is there")

	killFirst()
	if err := insert(); err != nil { // the connection that died may be used once more
		require.Equal(t, clickhouse.Ambiguous, clickhouse.ClassOf(err))
		require.NoError(t, insert())
	}
	require.EqualValues(t, 100, rowsOfSecond())

	startFirst()
	pauseSecond()
	var err error
	for range idleConnections { // more of those that died may be idle, and are replaced when it is their turn
		if err = insert(); err != nil {
			break
		}
	}
	require.Error(t, err, "a server that hangs is noticed")
	require.Equal(t, clickhouse.Ambiguous, clickhouse.ClassOf(err))
	require.NoError(t, insert(), "the first is back")
}

// A server that accepts connections and says nothing, from the first moment on.
func TestFailoverFromAServerThatHangs(t *testing.T) {
	t.Parallel()
	hanging, well := testkit.StartClickHouse(t), testkit.StartClickHouse(t)
	hanging.Pause()
	t.Cleanup(hanging.Resume)
	hangingHTTP := newGate(t, engine.Named("x"), nil)
	hangingHTTP.hang()
	engineAddr := newGate(t, engine.Named("x"), nil).addr
	for _, dsn := range []string{
		fmt.Sprintf("clickhouse://%s,%s/x?dial_timeout=500ms", hanging.Addr, well.Addr),
		fmt.Sprintf("http://%s,%s/x?dial_timeout=500ms", hangingHTTP.addr, engineAddr),
	} {
		client, text := open(t, clickhouse.Config{ClickHouseDSN: dsn})
		require.NoError(t, client.Ping(t.Context()))
		require.Contains(t, text.String(), "ClickHouse server does not answer")
	}
	client, _ := open(t, clickhouse.Config{ClickHouseDSN: fmt.Sprintf("clickhouse://%s/x?dial_timeout=500ms", hanging.Addr)})
	require.ErrorContains(t, client.Ping(t.Context()), hanging.Addr)
}

func TestTLS(t *testing.T) {
	t.Parallel()
	authority, stranger := testkit.NewAuthority(t), testkit.NewAuthority(t)
	server := testkit.StartClickHouseWith(t, testkit.ClickHouseOptions{
		Certificate: authority.Issue("clickhouse.test"), CAFile: authority.CAFile, Password: "p@ss:word/1",
	})
	mine, strange := authority.Issue("writer.test"), stranger.Issue("writer.test")
	right := clickhouse.Config{
		ClickHouseTLSCA: authority.CAFile, ClickHouseTLSName: "clickhouse.test",
		ClickHouseTLSCert: mine.CertFile, ClickHouseTLSKey: mine.KeyFile,
		ClickHouseUser: "secured", ClickHousePassword: config.NewSecret("p@ss:word/1"),
	}
	// The driver speaks HTTP only with newer servers: there, something before the engine speaks TLS.
	proxy := newGate(t, engine.Named("tls"), authority.ServerTLS("clickhouse.test"))
	for name, dsn := range map[string]string{
		"native": "clickhouse://" + server.SecureAddr + "/tls",
		"https":  "https://" + proxy.addr + "/tls",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ask := func(change func(*clickhouse.Config)) error {
				cfg := right
				cfg.ClickHouseDSN = dsn
				change(&cfg)
				client, _ := open(t, cfg)
				return client.Ping(t.Context())
			}
			require.NoError(t, ask(func(*clickhouse.Config) {}))
			for what, change := range map[string]func(*clickhouse.Config){
				"another authority's server": func(c *clickhouse.Config) { c.ClickHouseTLSCA = stranger.CAFile },
				"no authority":               func(c *clickhouse.Config) { c.ClickHouseTLSCA = "" },
				"another name":               func(c *clickhouse.Config) { c.ClickHouseTLSName = "other.test" },
				"the address as the name":    func(c *clickhouse.Config) { c.ClickHouseTLSName = "" },
			} {
				err := ask(change)
				require.Error(t, err, what)
				require.Equal(t, clickhouse.Configuration, clickhouse.ClassOf(err), what)
				require.ErrorContains(t, err, "--clickhouse-tls-ca", what)
			}
			require.Error(t, ask(func(c *clickhouse.Config) { c.ClickHouseTLSCert, c.ClickHouseTLSKey = "", "" }), "no certificate")
			require.Error(t, ask(func(c *clickhouse.Config) {
				c.ClickHouseTLSCert, c.ClickHouseTLSKey = strange.CertFile, strange.KeyFile
			}), "a stranger's certificate")
			if name == "native" { // the engine has no users
				err := ask(func(c *clickhouse.Config) { c.ClickHousePassword = config.NewSecret("wrong") })
				require.Equal(t, clickhouse.Configuration, clickhouse.ClassOf(err))
			}
		})
	}
}

// A certificate that was renewed is used without a restart.
func TestTLSCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	authority, stranger := testkit.NewAuthority(t), testkit.NewAuthority(t)
	server := testkit.StartClickHouseWith(t, testkit.ClickHouseOptions{Certificate: authority.Issue("127.0.0.1"), CAFile: authority.CAFile})
	expired, renewed := stranger.Issue("writer.test"), authority.Issue("writer.test")
	client, _ := open(t, clickhouse.Config{
		ClickHouseDSN:   "clickhouse://" + server.SecureAddr + "/tls",
		ClickHouseTLSCA: authority.CAFile, ClickHouseTLSCert: expired.CertFile, ClickHouseTLSKey: expired.KeyFile,
	})
	require.Error(t, client.Ping(t.Context()))
	require.NoError(t, os.Rename(renewed.CertFile, expired.CertFile))
	require.NoError(t, os.Rename(renewed.KeyFile, expired.KeyFile))
	require.NoError(t, client.Ping(t.Context()))
}

func TestPassword(t *testing.T) {
	t.Parallel()
	const password = "p@ss:word/%20ü"
	server := testkit.StartClickHouseWith(t, testkit.ClickHouseOptions{Password: password})
	for _, dsn := range []string{"clickhouse://" + server.Addr + "/x"} {
		file, text := open(t, clickhouse.Config{ClickHouseDSN: dsn, ClickHouseUser: "secured", ClickHousePasswordFile: writeText(t, password+"\r\n")})
		require.NoError(t, file.Ping(t.Context()))
		require.NotContains(t, text.String(), "p@ss")
		secret, _ := open(t, clickhouse.Config{ClickHouseDSN: dsn, ClickHouseUser: "secured", ClickHousePassword: config.NewSecret(password)})
		require.NoError(t, secret.Ping(t.Context()))

		wrong, text := open(t, clickhouse.Config{ClickHouseDSN: dsn, ClickHouseUser: "secured", ClickHousePassword: config.NewSecret("wr0ng")})
		err := wrong.Ping(t.Context())
		require.Equal(t, clickhouse.Configuration, clickhouse.ClassOf(err))
		require.ErrorContains(t, err, "check user and password")
		require.NotContains(t, err.Error()+text.String(), "wr0ng")
		require.NoError(t, wrong.Close())
	}
}

func TestCompression(t *testing.T) {
	t.Parallel()
	server := testkit.StartClickHouse(t)
	for _, method := range []string{"lz4", "zstd", "none"} {
		b := setupNative(t, "clickhouse://"+server.Addr+"/"+method+"?compress="+method)
		b.createNative(t)
		require.NoError(t, b.client.Insert(b.ctx, fill(t, 1, 1000), 0, 1000, "t"))
		require.EqualValues(t, 1000, b.number(t, "SELECT uniqExact(payload) FROM "+b.database+".messages"))
		full := setup(t, engine.DSN(t)+"?compress="+method)
		require.NoError(t, full.client.Migrate(full.ctx))
		require.NoError(t, full.client.Insert(full.ctx, fill(t, 1, 1000), 0, 1000, "zstd"+method))
		require.EqualValues(t, 1000, full.number(t, "SELECT uniqExact(payload) FROM "+full.database+".messages WHERE payload != ''"))
		full.exec(t, "TRUNCATE TABLE "+full.database+".messages")
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	authority := testkit.NewAuthority(t)
	pair := authority.Issue("x")
	const dsn = "clickhouse://h:9440/x"
	for _, c := range []struct {
		cfg  clickhouse.Config
		want string
	}{
		{clickhouse.Config{}, "--clickhouse-dsn: is missing"},
		{clickhouse.Config{ClickHouseDSN: "mysql://h:1/x"}, `--clickhouse-dsn: scheme "mysql"`},
		{clickhouse.Config{ClickHouseDSN: "clickhouse://h/x"}, `"h" is not an address: missing port`},
		{clickhouse.Config{ClickHouseDSN: "clickhouse://a:1,b/x"}, `"b" is not an address`},
		{clickhouse.Config{ClickHouseDSN: "clickhouse://h:1/a-b"}, `database "a-b"`},
		{clickhouse.Config{ClickHouseDSN: dsn, ClickHouseCluster: "a'b"}, "--clickhouse-cluster"},
		{clickhouse.Config{ClickHouseDSN: "clickhouse://me:pw@h:1/x", ClickHouseUser: "you"}, "--clickhouse-user"},
		{clickhouse.Config{ClickHouseDSN: "clickhouse://me:pw@h:1/x", ClickHousePassword: config.NewSecret("s")}, "by --clickhouse-dsn and by SENDHOUSE_CLICKHOUSE_PASSWORD"},
		{clickhouse.Config{ClickHouseDSN: dsn, ClickHousePasswordFile: "/no/such/file"}, "--clickhouse-password-file: open /no/such/file"},
		{clickhouse.Config{ClickHouseDSN: dsn, ClickHousePasswordFile: writeText(t, " \n")}, "is empty"},
		{clickhouse.Config{ClickHouseDSN: dsn, ClickHouseTLSCA: "/no/such/file"}, "--clickhouse-tls-ca: open"},
		{clickhouse.Config{ClickHouseDSN: dsn, ClickHouseTLSCA: pair.KeyFile}, "no certificate in PEM form"},
		{clickhouse.Config{ClickHouseDSN: dsn, ClickHouseTLSCert: pair.CertFile}, "requires --clickhouse-tls-key"},
		{clickhouse.Config{ClickHouseDSN: dsn, ClickHouseTLSKey: pair.KeyFile}, "requires --clickhouse-tls-cert"},
		{clickhouse.Config{ClickHouseDSN: dsn, ClickHouseTLSCert: pair.KeyFile, ClickHouseTLSKey: pair.KeyFile}, "--clickhouse-tls-cert: "},
		{clickhouse.Config{ClickHouseDSN: "http://h:1/x", ClickHouseTLSCA: authority.CAFile}, "not encrypted"},
	} {
		err := c.cfg.CheckGiven()
		require.ErrorContains(t, err, c.want)
		require.NotContains(t, err.Error(), "pw")
	}
	for _, dsn := range []string{"https://h:1/x", "https://h:1/x?secure=true", "https://h:1/x?max_threads=1", "clickhouse://a:1,b:2/x?secure=true"} {
		require.NoError(t, clickhouse.Config{ClickHouseDSN: dsn}.Check(), dsn)
	}
}

func TestConfigForTheEmbeddedEngine(t *testing.T) {
	t.Parallel()
	require.NoError(t, clickhouse.Config{}.Check())
	for want, cfg := range map[string]clickhouse.Config{
		"--clickhouse-password-file":    {ClickHousePasswordFile: "x"},
		"SENDHOUSE_CLICKHOUSE_PASSWORD": {ClickHousePassword: config.NewSecret("x")},
		"--clickhouse-cluster":          {ClickHouseCluster: "x"},
	} {
		require.ErrorContains(t, cfg.Check(), want+": requires --clickhouse-dsn")
	}
}
