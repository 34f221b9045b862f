package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
)

// shippedNATS is the configuration that we ship for NATS servers.
const shippedNATS = "../../../deploy/nats"

// natsNames are those who have an NKey.
func natsNames() []string {
	return []string{"ingest", "sequencer", "writer", "reader", "operator", "system"}
}

// guarded is a cluster of three NATS servers with the configuration that we ship: certificates both ways, an authority of
// their own for the routes between the servers, and an NKey for each role.
type guarded struct {
	dir         string // has a file with the seed of each
	authority   *testkit.Authority
	routes      []string // host:port of each server's
	permissions string   // the shipped ones, with the public keys filled in
	config      string   // the shipped one, without what differs between the servers
	servers     []*testkit.NATSServer
}

func startGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{dir: t.TempDir(), authority: testkit.NewAuthority(t), permissions: shipped(t, "permissions.conf")}
	for _, name := range natsNames() {
		pair, err := nkeys.CreateUser()
		require.NoError(t, err)
		seed, err := pair.Seed()
		require.NoError(t, err)
		public, err := pair.PublicKey()
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(g.seed(name), seed, 0o600))
		g.permissions = replaced(t, g.permissions, "$"+strings.ToUpper(name)+"_NKEY", public)
	}
	g.config = shipped(t, "nats-server.conf")
	for dir, authority := range map[string]*testkit.Authority{"/etc/nats/tls/": g.authority, "/etc/nats/routes/": testkit.NewAuthority(t)} {
		certificate := authority.Issue("localhost")
		for file, path := range map[string]string{"tls.crt": certificate.CertFile, "tls.key": certificate.KeyFile, "ca.crt": authority.CAFile} {
			g.config = replaced(t, g.config, dir+file, path)
		}
	}
	g.routes = make([]string, 3)
	for i := range g.routes {
		g.routes[i] = fmt.Sprint("localhost:", testkit.FreePort(t))
		g.config = replaced(t, g.config, fmt.Sprintf("$NATS_ROUTE_%d", i+1), "nats://"+g.routes[i])
	}
	all := make([]testkit.NATSOptions, len(g.routes))
	for i := range all {
		port := testkit.FreePort(t)
		all[i] = testkit.NATSOptions{Name: fmt.Sprint("nats-", i+1), Port: port, URL: fmt.Sprint("tls://localhost:", port), Client: g.options(t, "operator"), Write: func(dir, name, addr, monitor, storeDir string) string {
			text := g.config
			for was, is := range map[string]string{
				"$NATS_NAME": name, "$NATS_STORE": strconv.Quote(storeDir),
				"0.0.0.0:4222": addr, "0.0.0.0:8222": monitor, "0.0.0.0:6222": g.routes[i],
			} {
				text = replaced(t, text, was, is)
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, "permissions.conf"), []byte(g.permissions), 0o600))
			file := filepath.Join(dir, "nats-server.conf")
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			return file
		}}
	}
	g.servers = testkit.StartNATSServers(t, all...)
	return g
}

func shipped(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(shippedNATS, file))
	require.NoError(t, err)
	return string(text)
}

func replaced(t *testing.T, text, was, is string) string {
	t.Helper()
	require.Contains(t, text, was)
	return strings.ReplaceAll(text, was, is)
}

func (g *guarded) seed(name string) string { return filepath.Join(g.dir, name) }

func (g *guarded) client(name string) broker.ClientConfig {
	certificate := g.authority.Issue(name)
	return broker.ClientConfig{URL: g.url(), NKey: g.seed(name), CA: g.authority.CAFile, Cert: certificate.CertFile, CertKey: certificate.KeyFile}
}

func (g *guarded) options(t *testing.T, name string) []nats.Option {
	t.Helper()
	options, err := g.client(name).Options(name)
	require.NoError(t, err)
	return options
}

func (g *guarded) flags(name string) []string {
	c := g.client(name)
	return []string{"--nats-url=" + c.URL, "--nats-nkey=" + c.NKey, "--nats-ca=" + c.CA, "--nats-cert=" + c.Cert, "--nats-cert-key=" + c.CertKey}
}

func (g *guarded) url() string {
	var all []string
	for _, s := range g.servers {
		all = append(all, s.URL)
	}
	return strings.Join(all, ",")
}

// TestEndToEndLeastPermissions runs the roles on a cluster with the NATS configuration that we ship: each does its
// work, through a restart of all, and is refused everything of the others'.
func TestEndToEndLeastPermissions(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	g := startGuarded(t)
	a := &apart{clickHouse: enginetest.StartServer(t)}
	table := []string{into(a.clickHouse)}
	a.ingest = newRole(t, "ingest", slices.Concat(table, g.flags("ingest"))...)
	a.sequencer = newRole(t, "sequencer", slices.Concat(small, g.flags("sequencer"), []string{"--replicas=3", "--sequencer-lease-ttl=2s"})...)
	a.writer = newRole(t, "writer", slices.Concat(table, g.flags("writer"))...)
	a.sequencer.Start() // to set the streams up may take three servers longer than the others wait
	a.ingest.Start()
	a.writer.Start()
	load := startLoad(t, a.ingest.api, loadConfig{seed: seed})
	load.await(500)
	for _, role := range a.roles() {
		require.Equal(t, 0, role.Stop())
	}
	a.start()
	load.await(500)
	records := load.finish()
	verify(t, serverTable(t, a.clickHouse), records)
	status, body, err := ask(t.Context(), "http://"+a.ingest.api+"/message/status?client_msg_no=nobodys&from_uid=u&channel_id=g&channel_type=2")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, body)
	g.requireFrontPages(t, a)
	_, page, err := ask(t.Context(), "http://"+a.sequencer.admin+"/metrics")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^sendhouse_jetstream_storage_bytes_max \d`, page, "the alert on a full storage divides by it")
	g.requireReader(t, a.ingest.api, records)
	g.requireRefusals(t)
	g.requireNoStrangeServer(t)
	for _, role := range a.roles() {
		require.Equal(t, 0, role.Stop())
		require.NotContains(t, strings.ToLower(role.Output()), "permissions violation")
	}
}

// requireFrontPages looks at what the front pages of sequencer and writer ask for, a dead letter included.
func (g *guarded) requireFrontPages(t *testing.T, a *apart) {
	t.Helper()
	nc, err := nats.Connect(g.url(), g.options(t, "operator")...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "deadletters.writer.refused", []byte("x"))
	require.NoError(t, err)
	for _, role := range []*node{a.sequencer, a.writer} {
		status, body, err := ask(t.Context(), "http://"+role.admin+"/frontpage/deployment")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, body, `"partitions":[{`, "who owns them")
		require.Contains(t, body, `"reason":"refused","count":1,"latest":{`, "what was put there")
	}
}

// requireRefusals tries what only the named may do.
func (g *guarded) requireRefusals(t *testing.T) {
	t.Helper()
	others := map[string][]string{
		"sends.0":                                          {"sequencer", "writer", "reader"},
		"messages.0":                                       {"ingest", "writer", "reader"},
		"live.2.g":                                         {"ingest", "writer", "reader"},
		"deadletters.writer.data":                          {"ingest", "sequencer", "reader"},
		"$KV.SENDHOUSE.deployment":                         {"ingest", "writer", "reader"},
		"$KV.SENDHOUSE_WRITER.0":                           {"ingest", "sequencer", "reader"},
		"$KV.SENDHOUSE_PERMISSIONS.x":                      {"sequencer", "writer", "reader"},
		"$JS.API.STREAM.DELETE.SENDS_0":                    {"ingest", "sequencer", "writer", "reader"},
		"$JS.API.STREAM.PURGE.SENDS_0":                     {"ingest", "writer", "reader"},
		"$JS.API.STREAM.UPDATE.MESSAGES_0":                 {"ingest", "writer", "reader"},
		"$JS.API.CONSUMER.CREATE.SENDS_0":                  {"ingest", "reader"},
		"$JS.API.STREAM.MSG.GET.SENDS_0":                   {"ingest", "writer", "reader"},
		"$JS.API.STREAM.MSG.GET.KV_SENDHOUSE_PERMISSIONS":  {"writer", "reader"},
		"$JS.API.DIRECT.GET.MESSAGES_0":                    {"ingest", "writer", "reader"}, // they ask the leader
		"$JS.API.CONSUMER.CREATE.KV_SENDHOUSE_PERMISSIONS": {"reader"},
	}
	for _, name := range []string{"ingest", "sequencer", "writer", "reader"} {
		refused := newDenials()
		nc, err := nats.Connect(g.url(), append(g.options(t, name), nats.ErrorHandler(refused.hear))...)
		require.NoError(t, err)
		t.Cleanup(nc.Close)
		for subject, who := range others {
			for _, other := range who {
				if other == name {
					require.NoError(t, nc.Publish(subject, nil))
					refused.await(t, `Publish to "`+subject+`"`)
				}
			}
		}
		for _, inbox := range []string{"ingest", "sequencer", "writer", "question", "another", ""} {
			if inbox != name {
				subject := strings.TrimSuffix(broker.InboxPrefix(inbox), ".") + ".>" // without a name: everybody's
				_, err := nc.SubscribeSync(subject)
				require.NoError(t, err)
				refused.await(t, `Subscription to "`+subject+`"`)
			}
		}
	}

	nc, err := nats.Connect(g.url(), g.options(t, "reader")...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	consumer, err := js.OrderedConsumer(t.Context(), "MESSAGES_0", jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	message, err := consumer.Next(jetstream.FetchMaxWait(askTimeout))
	require.NoError(t, err, "a reader reads")
	require.NotEmpty(t, message.Data())

	stranger := g.client("stranger")
	_, err = nats.Connect(g.url(), nats.RootCAs(stranger.CA), nats.ClientCert(stranger.Cert, stranger.CertKey))
	require.ErrorIs(t, err, nats.ErrAuthorization, "no client gets in without a key")
}

// requireNoStrangeServer has a server ask to join the cluster with the certificate of a client, which has no NKey to show there.
func (g *guarded) requireNoStrangeServer(t *testing.T) {
	t.Helper()
	binary, err := testkit.NATSBinary()
	require.NoError(t, err)
	certificate := g.authority.Issue("ingest")
	dir := t.TempDir()
	config := fmt.Sprintf(`
server_name: strange
listen: "127.0.0.1:-1"
jetstream { store_dir: %q }
cluster {
  name: sendhouse
  listen: "127.0.0.1:-1"
  routes: ["nats://%s"]
  tls { cert_file: %q, key_file: %q, insecure: true }
}
`, dir, strings.Join(g.routes, `", "nats://`), certificate.CertFile, certificate.KeyFile)
	file := filepath.Join(dir, "strange.conf")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	p := testkit.StartProcess(t, testkit.ProcessConfig{Name: "strange nats-server", Path: binary, Args: []string{"-c", file}})
	testkit.WaitFor(t, askTimeout, "the cluster to refuse a server with a client's certificate", func(context.Context) error {
		for _, s := range g.servers {
			if !strings.Contains(s.Output(), "TLS route handshake error") {
				return fmt.Errorf("%s has refused none; the strange server says: %s", s.URL, p.Output())
			}
		}
		return nil
	})
	for _, s := range g.servers {
		require.NotContains(t, s.Output(), "Remote: strange", "no server knows its name")
	}
	p.Stop()
}

// denials are what a server has told a connection that it may not.
type denials struct {
	mu   sync.Mutex
	said []string
}

func newDenials() *denials { return &denials{} }

func (r *denials) hear(_ *nats.Conn, _ *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrPermissionViolation) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.said = append(r.said, err.Error())
	}
}

func (r *denials) await(t *testing.T, what string) {
	t.Helper()
	testkit.WaitFor(t, askTimeout, "the server to refuse "+what, func(context.Context) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, said := range r.said {
			if strings.Contains(strings.ToLower(said), strings.ToLower(what)) {
				return nil
			}
		}
		return fmt.Errorf("it refused %d others", len(r.said))
	})
}
