package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// permissionsFile is what we ship for a NATS server.
const permissionsFile = "../../../deploy/nats/permissions.conf"

// keys are the NKeys of those who use NATS: a file with the seed for each.
type keys struct {
	dir    string
	config string // of the server: the shipped permissions, with the public keys filled in
}

func newKeys(t *testing.T) keys {
	t.Helper()
	shipped, err := os.ReadFile(permissionsFile)
	require.NoError(t, err)
	k := keys{dir: t.TempDir(), config: string(shipped)}
	for _, name := range []string{"ingest", "sequencer", "writer", "reader", "operator", "system"} {
		pair, err := nkeys.CreateUser()
		require.NoError(t, err)
		seed, err := pair.Seed()
		require.NoError(t, err)
		public, err := pair.PublicKey()
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(k.file(name), seed, 0o600))
		variable := "$" + strings.ToUpper(name) + "_NKEY"
		require.Contains(t, k.config, variable)
		k.config = strings.ReplaceAll(k.config, variable, public)
	}
	return k
}

func (k keys) file(name string) string { return filepath.Join(k.dir, name) }

func (k keys) options(t *testing.T, name string) []nats.Option {
	t.Helper()
	options, err := broker.ClientConfig{NKey: k.file(name)}.Options(name)
	require.NoError(t, err)
	return options
}

// TestEndToEndLeastPermissions runs the roles with the NATS permissions that we ship: each does its work, through
// a restart of all, and is refused everything of the others'.
func TestEndToEndLeastPermissions(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	k := newKeys(t)
	a := &apart{
		nats:       testkit.StartNATS(t, testkit.NATSOptions{Config: k.config, Client: k.options(t, "operator")}),
		clickHouse: testkit.StartClickHouse(t),
	}
	url := "--nats-url=" + a.nats.URL
	a.ingest = newRole(t, "ingest", url, "--nats-nkey="+k.file("ingest"))
	a.sequencer = newRole(t, "sequencer", append([]string{url, "--nats-nkey=" + k.file("sequencer"), "--sequencer-lease-ttl=2s"}, small...)...)
	a.writer = newRole(t, "writer", append(reduced(a.clickHouse), url, "--nats-nkey="+k.file("writer"))...)
	a.start()
	load := startLoad(t, a.ingest.api, loadConfig{seed: seed})
	load.await(500)
	for _, role := range a.roles() {
		require.Equal(t, 0, role.Stop())
	}
	a.start()
	load.await(500)
	records := load.finish()
	verify(t, serverTable(t, a.clickHouse), records)
	k.requireRefusals(t, a.nats.URL)
	for _, role := range a.roles() {
		require.Equal(t, 0, role.Stop())
		require.NotContains(t, strings.ToLower(role.Output()), "permissions violation")
	}
}

// requireRefusals tries what nobody but the named may do.
func (k keys) requireRefusals(t *testing.T, url string) {
	t.Helper()
	others := map[string][]string{
		"sends.0":                                          {"sequencer", "writer", "reader"},
		"messages.0.2.g":                                   {"ingest", "writer", "reader"},
		"live.2.g":                                         {"ingest", "writer", "reader"},
		"deadletters.writer.data":                          {"ingest", "sequencer", "reader"},
		"$KV.SENDHOUSE.deployment":                         {"ingest", "writer", "reader"},
		"$KV.SENDHOUSE_WRITER.0":                           {"ingest", "sequencer", "reader"},
		"$KV.SENDHOUSE_PERMISSIONS.x":                      {"sequencer", "writer", "reader"},
		"$JS.API.STREAM.DELETE.SENDS_0":                    {"ingest", "sequencer", "writer", "reader"},
		"$JS.API.STREAM.PURGE.SENDS_0":                     {"ingest", "writer", "reader"},
		"$JS.API.STREAM.UPDATE.MESSAGES_0":                 {"ingest", "writer", "reader"},
		"$JS.API.CONSUMER.CREATE.SENDS_0":                  {"ingest", "reader"},
		"$JS.API.DIRECT.GET.MESSAGES_0.x":                  {"ingest"},
		"$JS.API.CONSUMER.CREATE.KV_SENDHOUSE_PERMISSIONS": {"reader"},
	}
	for _, name := range []string{"ingest", "sequencer", "writer", "reader"} {
		refused := newDenials()
		nc, err := nats.Connect(url, append(k.options(t, name), nats.ErrorHandler(refused.hear))...)
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
		for _, inbox := range []string{"ingest", "sequencer", "writer", "question"} {
			if inbox != name {
				subject := broker.InboxPrefix(inbox) + ".>"
				_, err := nc.SubscribeSync(subject)
				require.NoError(t, err)
				refused.await(t, `Subscription to "`+subject+`"`)
			}
		}
	}

	nc, err := nats.Connect(url, k.options(t, "reader")...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	consumer, err := js.OrderedConsumer(t.Context(), "MESSAGES_0", jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	message, err := consumer.Next(jetstream.FetchMaxWait(askTimeout))
	require.NoError(t, err, "a reader reads")
	require.NotEmpty(t, message.Data())

	_, err = nats.Connect(url)
	require.ErrorIs(t, err, nats.ErrAuthorization, "nobody comes in without a key")
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
