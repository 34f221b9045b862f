package broker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/topology"
)

const gateTestTimeout = 10 * time.Second

// gated is an embedded server with a deployment that has a record in each of its two message logs.
type gated struct {
	*Embedded
	operator jetstream.JetStream
}

func setupGated(t *testing.T, change ...func(*EmbeddedConfig)) *gated {
	t.Helper()
	cfg := EmbeddedConfig{DataDir: filepath.Join(t.TempDir(), EmbeddedFolder), Addr: "127.0.0.1:0", StoreBytesMax: 1 << 30, Logger: slog.New(slog.DiscardHandler)}
	for _, one := range change {
		one(&cfg)
	}
	server, err := StartEmbedded(cfg)
	require.NoError(t, err)
	t.Cleanup(server.Shutdown)
	g := &gated{Embedded: server}
	nc, err := nats.Connect("", server.InProcess())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	g.operator, err = jetstream.New(nc)
	require.NoError(t, err)
	options := topology.DefaultOptions()
	options.WALBytesMax, options.MessagesBytesMax = 64<<20, 64<<20
	_, err = EnsureDeployment(t.Context(), g.operator, topology.Deployment{Partitions: 2}, options)
	require.NoError(t, err)
	for partition := range 2 {
		_, err = g.operator.Publish(t.Context(), topology.MessagesSubject(partition), []byte("public"))
		require.NoError(t, err)
		_, err = g.operator.Publish(t.Context(), topology.WALSubject(partition), []byte("secret"))
		require.NoError(t, err)
	}
	return g
}

// connect connects without credentials, and collects what the server refuses.
func (g *gated) connect(t *testing.T, options ...nats.Option) (nc *nats.Conn, refused chan error) {
	t.Helper()
	refused = make(chan error, 1000)
	options = append(options, nats.NoReconnect(), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	nc, err := nats.Connect(g.URL(), options...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc, refused
}

// state is everything that the streams hold and are, but for the consumers of the message logs.
func (g *gated) state(t *testing.T) string {
	t.Helper()
	var all []string
	streams := g.operator.ListStreams(t.Context())
	for info := range streams.Info() {
		if strings.HasPrefix(info.Config.Name, "MESSAGES_") {
			info.State.Consumers = 0
		}
		text, err := json.Marshal([]any{info.Config, info.State})
		require.NoError(t, err)
		all = append(all, string(text))
	}
	require.NoError(t, streams.Err())
	require.Greater(t, len(all), 9)
	return strings.Join(all, "\n")
}

// TestReaderReads: a client without credentials may use consumers of each kind on the message logs, with the inboxes that clients have by default.
func TestReaderReads(t *testing.T) {
	t.Parallel()
	g := setupGated(t)
	for _, options := range [][]nats.Option{nil, {nats.CustomInboxPrefix(InboxPrefix("reader"))}} {
		nc, refused := g.connect(t, options...)
		js, err := jetstream.New(nc)
		require.NoError(t, err)
		_, err = js.AccountInfo(t.Context())
		require.NoError(t, err)
		stream, err := js.Stream(t.Context(), "MESSAGES_1")
		require.NoError(t, err)
		record, err := stream.GetMsg(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "public", string(record.Data))
		ordered, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{})
		require.NoError(t, err)
		m, err := ordered.Next()
		require.NoError(t, err)
		require.Equal(t, "messages.1", m.Subject())
		durable, err := stream.CreateOrUpdateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "mine", AckPolicy: jetstream.AckExplicitPolicy})
		require.NoError(t, err)
		m, err = durable.Next()
		require.NoError(t, err)
		require.NoError(t, m.DoubleAck(t.Context()))
		require.NoError(t, stream.DeleteConsumer(t.Context(), "mine"))
		bucket, err := js.KeyValue(t.Context(), topology.DeploymentBucket)
		require.NoError(t, err)
		_, err = bucket.Get(t.Context(), "deployment")
		require.NoError(t, err)

		old, err := nc.JetStream() // other languages' clients still make push consumers
		require.NoError(t, err)
		pushed, err := old.SubscribeSync("messages.0", nats.OrderedConsumer(), nats.BindStream("MESSAGES_0"))
		require.NoError(t, err)
		got, err := pushed.NextMsg(gateTestTimeout)
		require.NoError(t, err)
		require.Equal(t, "public", string(got.Data))

		live, err := nc.SubscribeSync("live.>")
		require.NoError(t, err)
		require.NoError(t, nc.Flush())
		require.NoError(t, g.operator.Conn().Publish("live.2.g", []byte("now")))
		got, err = live.NextMsg(gateTestTimeout)
		require.NoError(t, err)
		require.Equal(t, "live.2.g", got.Subject)
		require.Empty(t, refused)
	}
}

// requireRefused waits until the server has refused what was said last.
func requireRefused(t *testing.T, nc *nats.Conn, refused chan error, what string) {
	t.Helper()
	require.NoError(t, nc.Flush())
	select {
	case err := <-refused:
		require.ErrorIs(t, err, nats.ErrPermissionViolation, what)
	case <-time.After(gateTestTimeout):
		require.Fail(t, "it was not refused", what)
	}
}

// forbidden are subjects on which no client without credentials may make anything appear.
func forbidden() []string {
	return []string{
		"sends.0", "messages.0", "messages.1", "live.2.g", "deadletters.writer.data", "other", "$KV.SENDHOUSE.deployment", "$KV.SENDHOUSE_PERMISSIONS.x", "$KV.SENDHOUSE_WRITER.0",
		"$KV.SENDHOUSE_LEASES.0", "$KV.SENDHOUSE_CHECKPOINTS.0", "$O.CHECKPOINTS.C.x", "_INBOX.ingest.x", "_INBOX.sequencer.x.y", "_INBOX.writer.x", "_INBOX.question.x",
		"$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.DELETE.SENDS_0", "$JS.API.STREAM.PURGE.MESSAGES_0", "$JS.API.STREAM.UPDATE.MESSAGES_0", "$JS.API.STREAM.MSG.DELETE.MESSAGES_0",
		"$JS.API.STREAM.RESTORE.X", "$JS.API.STREAM.SNAPSHOT.MESSAGES_0", "$JS.API.STREAM.MSG.GET.SENDS_0", "$JS.API.STREAM.MSG.GET.KV_SENDHOUSE_PERMISSIONS", "$JS.API.DIRECT.GET.SENDS_0",
		"$JS.API.CONSUMER.CREATE.SENDS_0", "$JS.API.CONSUMER.CREATE.SENDS_0.x", "$JS.API.CONSUMER.DURABLE.CREATE.SENDS_0.x", "$JS.API.CONSUMER.MSG.NEXT.SENDS_0.x", "$JS.API.CONSUMER.INFO.DEAD_LETTERS.x",
		"$JS.API.CONSUMER.CREATE.MESSAGES_x.y", "$JS.API.CONSUMER.CREATE.MESSAGES_", "$JS.API.CONSUMER.CREATE.MESSAGES_00.x", "$JS.API.CONSUMER.NAMES.MESSAGES_0", "$JS.API.CONSUMER.LIST.MESSAGES_0",
		"$JS.API.CONSUMER.PAUSE.MESSAGES_0.x", "$JS.API.CONSUMER.RESET.MESSAGES_0.x", "$JS.API.CONSUMER.UNPIN.MESSAGES_0.x", "$JS.ACK.SENDS_0.x.1.1.1.1.1", "$SYS.REQ.SERVER.PING", "$JS.API.META.LEADER.STEPDOWN",
	}
}

// TestReaderWritesNothing tries, for each subject that is not the reader's, each way to make a message appear there: to publish it, to have a
// request answered there, and to have a consumer deliver there.
func TestReaderWritesNothing(t *testing.T) {
	t.Parallel()
	g := setupGated(t)
	before := g.state(t)
	heard, err := g.operator.Conn().SubscribeSync(">")
	require.NoError(t, err)
	require.NoError(t, g.operator.Conn().Flush())
	nc, refused := g.connect(t)
	denied := func(what string, do func() error) {
		require.NoError(t, do())
		requireRefused(t, nc, refused, what)
	}
	requests := map[string]string{
		"$JS.API.INFO": "", "$JS.API.STREAM.NAMES": "", "$JS.API.STREAM.INFO.MESSAGES_0": "", "$JS.API.STREAM.MSG.GET.MESSAGES_0": `{"seq":1}`, "$JS.API.DIRECT.GET.MESSAGES_0": `{"seq":1}`,
		"$JS.API.CONSUMER.INFO.MESSAGES_0.x": "", "$JS.API.CONSUMER.MSG.NEXT.MESSAGES_0.x": "1", "$JS.ACK.MESSAGES_0.x.1.1.1.1.1": "+NXT", "$JS.API.CONSUMER.CREATE.MESSAGES_0.y": `{"stream_name":"MESSAGES_0","config":{"name":"y"}}`,
	}
	for _, subject := range forbidden() {
		denied("publish "+subject, func() error { return nc.Publish(subject, []byte("{}")) })
		denied("publish with a header "+subject, func() error {
			return nc.PublishMsg(&nats.Msg{Subject: subject, Header: nats.Header{"A": {"b"}}, Data: []byte("{}")})
		})
		for request, body := range requests {
			denied(request+" answered on "+subject, func() error { return nc.PublishRequest(request, subject, []byte(body)) })
		}
		for _, create := range []string{"$JS.API.CONSUMER.CREATE.MESSAGES_0", "$JS.API.CONSUMER.CREATE.MESSAGES_0.z", "$JS.API.CONSUMER.CREATE.MESSAGES_0.z.messages.0", "$JS.API.CONSUMER.DURABLE.CREATE.MESSAGES_0.z"} {
			config := `{"stream_name":"MESSAGES_0","config":{"name":"z","durable_name":"z","deliver_subject":%q}}`
			for _, body := range []string{
				fmt.Sprintf(config, subject),
				strings.ReplaceAll(fmt.Sprintf(config, subject), "deliver_subject", "DELIVER_subject"),
				fmt.Sprintf(config, "_INBOX.a") + fmt.Sprintf(config, subject),
				`{"config":{"deliver_subject":"_INBOX.a"},"stream_name":"MESSAGES_0","config":{"deliver_subject":"` + subject + `"}}`,
				fmt.Sprintf(config, "_INBOX.a") + " x",
			} {
				denied(create+" "+body, func() error { return nc.PublishRequest(create, nc.NewInbox(), []byte(body)) })
			}
		}
	}
	for _, body := range []string{`{"subjects_filter":">"}`, `{"Subjects_Filter":">"}`, `{"subjects_filter":""} {"subjects_filter":">"}`, "x"} {
		denied("the keys of a bucket by "+body, func() error {
			return nc.PublishRequest("$JS.API.STREAM.INFO.KV_SENDHOUSE_PERMISSIONS", nc.NewInbox(), []byte(body))
		})
	}
	denied("a consumer of the server's own kind", func() error {
		return nc.PublishRequest("$JS.API.CONSUMER.CREATE.MESSAGES_0.z", nc.NewInbox(), []byte(`{"stream_name":"MESSAGES_0","config":{"name":"z","direct":true}}`))
	})
	trace := &nats.Msg{Subject: "$JS.API.INFO", Header: nats.Header{"Nats-Trace-Dest": {"messages.0"}}}
	denied("have the way of a message traced", func() error { return nc.PublishMsg(trace) })
	large := make([]byte, gatePayloadBytesMax+1)
	denied("publish much", func() error { return nc.Publish("$JS.API.INFO", large) })
	require.Equal(t, before, g.state(t))
	for {
		m, err := heard.NextMsg(100 * time.Millisecond)
		if err != nil {
			break // nothing more was heard
		}
		require.True(t, strings.HasPrefix(m.Subject, "$JS.API.") || strings.HasPrefix(m.Subject, "$JS.EVENT.") || strings.HasPrefix(m.Subject, "_INBOX."), m.Subject)
		require.NotContains(t, forbidden(), m.Subject)
	}
}

// TestReaderHearsNothingOfOthers: no subscription of a client without credentials receives what is answered to the operator or to a role.
func TestReaderHearsNothingOfOthers(t *testing.T) {
	t.Parallel()
	g := setupGated(t)
	nc, refused := g.connect(t)
	for _, subject := range []string{">", "*", "_INBOX.>", "_INBOX.*", "_INBOX.*.*", "_INBOX.*.x", "_INBOX.ingest.>", "_INBOX.ingest.x", "*.>", "*.*.*", "sends.>", "sends.0", "messages.0", "$KV.>", "$JS.>", "$JS.EVENT.>", "$SYS.>", "deadletters.>", "_R_.>"} {
		_, err := nc.SubscribeSync(subject)
		require.NoError(t, err)
		requireRefused(t, nc, refused, subject)
	}
}

// TestOperatorOverTCP: with the key in the data folder, which only its user can read, a client may do everything; with another key it gets in
// no more than with none.
func TestOperatorOverTCP(t *testing.T) {
	t.Parallel()
	g := setupGated(t)
	path := OperatorFile(filepath.Dir(g.cfg.DataDir))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	key, err := nats.NkeyOptionFromSeed(path)
	require.NoError(t, err)
	nc, refused := g.connect(t, key)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "messages.0", []byte("more"))
	require.NoError(t, err)
	require.NoError(t, js.DeleteStream(t.Context(), "SENDS_0"))
	require.Empty(t, refused)

	other, err := nkeys.CreateUser()
	require.NoError(t, err)
	public, err := other.PublicKey()
	require.NoError(t, err)
	own, err := g.Embedded.operator.PublicKey()
	require.NoError(t, err)
	for _, option := range []nats.Option{nats.Nkey(public, other.Sign), nats.Nkey(own, other.Sign), nats.UserInfo("reader", "guess"), nats.UserInfo("operator", ""), nats.Token("x")} {
		_, err := nats.Connect(g.URL(), option)
		require.ErrorIs(t, err, nats.ErrAuthorization)
	}
}

// TestKeyLasts: the next start has the same key, and a file that holds none is named.
func TestKeyLasts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := openOperator(dir)
	require.NoError(t, err)
	again, err := openOperator(dir)
	require.NoError(t, err)
	one, err := first.PublicKey()
	require.NoError(t, err)
	two, err := again.PublicKey()
	require.NoError(t, err)
	require.Equal(t, one, two)
	path := filepath.Join(dir, operatorFile)
	require.NoError(t, os.WriteFile(path, []byte("SUnonsense"), 0o600))
	_, err = openOperator(dir)
	require.ErrorContains(t, err, path)
	require.NotContains(t, err.Error(), "nonsense")
}

// say opens a connection, writes to it, and returns what the server says until it closes the connection or has answered a PING.
func (g *gated) say(t *testing.T, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(g.URL(), "nats://"))
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, c.SetDeadline(time.Now().Add(gateTestTimeout)))
	in := bufio.NewReader(c)
	_, err = in.ReadString('\n') // INFO
	require.NoError(t, err)
	_, err = io.WriteString(c, text)
	require.NoError(t, err)
	var said bytes.Buffer
	for {
		line, err := in.ReadString('\n')
		said.WriteString(line)
		if err != nil || line == "PONG\r\n" {
			return said.String()
		}
	}
}

// TestGateProtocol writes to the port what a client library would not.
func TestGateProtocol(t *testing.T) {
	t.Parallel()
	g := setupGated(t)
	before := g.state(t)
	const pub = "PUB messages.0 5\r\nhello\r\n"
	for name, row := range map[string]struct {
		text   string
		closed bool
	}{
		"no CONNECT":             {text: pub + "PING\r\n", closed: true},
		"CONNECT":                {text: "CONNECT {\"verbose\":true}\r\n" + pub + "PING\r\n"},
		"small letters":          {text: "connect {}\r\npub messages.0 5\r\nhello\r\nping\r\n"},
		"tabs":                   {text: "CONNECT\t{}\r\nPUB\tmessages.0\t\t5\r\nhello\r\nPING\r\n"},
		"line feeds":             {text: "CONNECT {}\nPUB messages.0 5\nhello\nPING\n"},
		"a header":               {text: "CONNECT {\"headers\":true}\r\nHPUB messages.0 12 17\r\nNATS/1.0\r\n\r\nhello\r\nPING\r\n"},
		"a publish in a payload": {text: "CONNECT {}\r\nPUB $JS.API.INFO 27\r\n" + pub + "xx\r\nPING\r\n"},
		"an empty line":          {text: "CONNECT {}\r\n\r\nPING\r\n"},
		"CONNECT twice":          {text: "CONNECT {}\r\nCONNECT {}\r\n" + pub + "PING\r\n", closed: true},
		"a key that is none":     {text: "CONNECT {\"nkey\":\"x\"}\r\n" + pub + "PING\r\n", closed: true},
		"a key in capitals":      {text: "CONNECT {\"NKEY\":\"x\"}\r\n" + pub + "PING\r\n", closed: true},
		"a key and none":         {text: "CONNECT {\"nkey\":\"x\",\"nkey\":\"\"}\r\n" + pub + "PING\r\n"},
		"a key later":            {text: "SUB _INBOX.a 1\r\nCONNECT {\"nkey\":\"x\"}\r\n" + pub + "PING\r\n", closed: true},
		"no JSON":                {text: "CONNECT x\r\nPING\r\n", closed: true},
		"a server's command":     {text: "CONNECT {}\r\nMSG messages.0 1 5\r\nhello\r\nPING\r\n", closed: true},
		"a route's command":      {text: "CONNECT {}\r\nRMSG $G messages.0 5\r\nhello\r\nPING\r\n", closed: true},
		"a negative size":        {text: "CONNECT {}\r\nPUB messages.0 -1\r\n\r\nPING\r\n", closed: true},
		"a huge size":            {text: "CONNECT {}\r\nPUB messages.0 99999999999\r\n", closed: true},
		"a payload that is long": {text: "CONNECT {}\r\nPUB messages.0 2\r\nhello\r\nPING\r\n", closed: true},
		"a header beyond it all": {text: "CONNECT {}\r\nHPUB messages.0 9 5\r\nhello\r\nPING\r\n", closed: true},
		"a long line":            {text: "CONNECT {}\r\nPUB " + strings.Repeat("a", 2*gateLineBytesMax) + " 5\r\nhello\r\n", closed: true},
		"words too many":         {text: "CONNECT {}\r\nPUB messages.0 a b 5\r\nhello\r\nPING\r\n", closed: true},
		"words too few":          {text: "CONNECT {}\r\nPUB 5\r\nhello\r\nPING\r\n", closed: true},
	} {
		said := g.say(t, row.text)
		require.Equal(t, !row.closed, strings.HasSuffix(said, "PONG\r\n"), "%s: %s", name, said)
		if !row.closed && name != "a publish in a payload" && strings.Contains(strings.ToLower(row.text), "pub messages") {
			require.Contains(t, said, "Permissions Violation", name)
		}
	}
	require.Equal(t, before, g.state(t))
}

// TestGateIsBounded: a client above the limit gets an error that says so, and there is room again when another has gone.
func TestGateIsBounded(t *testing.T) {
	t.Parallel()
	g := setupGated(t, func(c *EmbeddedConfig) { c.ConnectionsMax = 2 })
	first, _ := g.connect(t)
	g.connect(t)
	_, err := nats.Connect(g.URL())
	require.Error(t, err)
	first.Close()
	require.Eventually(t, func() bool {
		nc, err := nats.Connect(g.URL())
		if err == nil {
			nc.Close()
		}
		return err == nil
	}, gateTestTimeout, time.Millisecond)
}

// FuzzGate: whatever a client without a key says, what comes through is permitted, or on a subject that the server permits no client.
func FuzzGate(f *testing.F) {
	for _, text := range []string{
		"CONNECT {}\r\nPUB messages.0 5\r\nhello\r\nPING\r\n", "PUB $JS.API.INFO _INBOX.a 0\r\n\r\nSUB _INBOX.a 1\r\nUNSUB 1 5\r\n", "SUB _INBOX.> 1\r\nSUB live.> q 2\r\n",
		"HPUB $JS.API.INFO messages.0 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", "PUB $JS.API.CONSUMER.CREATE.MESSAGES_0.x _INBOX.a 2\r\n{}\r\n", "pub\tx\t1\na\nPONG\n",
		"PUB $JS.API.CONSUMER.CREATE.MESSAGES_0 46\r\n{\"config\":{\"deliver_subject\":\"messages.0\"}}     \r\n", "CONNECT {\"nkey\":\"\"}\nPUB a 1\nb\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		var through bytes.Buffer
		g := newGate(nil, nil, "the operator", 1, slog.New(slog.DiscardHandler))
		_ = g.forward(&through, bufio.NewReaderSize(bytes.NewReader(said), gateLineBytesMax))
		in := bufio.NewReader(&through)
		for first := true; ; first = false {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			words := strings.Fields(line)
			switch words[0] {
			case "CONNECT":
				require.True(t, first)
				if key, err := keyOf([]byte(strings.TrimSpace(line[len("CONNECT "):]))); err != nil || key == g.operator {
					return // the server decides
				}
			case "SUB":
				require.True(t, strings.HasPrefix(words[1], refusedPrefix) || maySubscribe(words[1]), line)
			case "UNSUB", "PING", "PONG":
			case "PUB", "HPUB":
				var size int
				_, err := fmt.Sscan(words[len(words)-1], &size)
				require.NoError(t, err)
				payload := make([]byte, size+2)
				_, err = io.ReadFull(in, payload)
				require.NoError(t, err)
				require.Equal(t, "\r\n", string(payload[size:]))
				if strings.HasPrefix(words[1], refusedPrefix) {
					continue
				}
				header, replyAt := 0, 3
				if words[0] == "HPUB" {
					_, err := fmt.Sscan(words[len(words)-2], &header)
					require.NoError(t, err)
					replyAt = 4
				}
				reply := ""
				if len(words) > replyAt {
					reply = words[2]
				}
				require.True(t, g.reader.mayPublish(words[1], reply, payload[header:size]), line)
			default:
				require.Fail(t, "a command that the gate does not have", line)
			}
		}
	})
}

// TestShutdownEndsConnections: the server does not wait for its clients.
func TestShutdownEndsConnections(t *testing.T) {
	t.Parallel()
	g := setupGated(t)
	ended := make(chan struct{})
	_, err := nats.Connect(g.URL(), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(ended) }))
	require.NoError(t, err)
	silent, err := net.Dial("tcp", strings.TrimPrefix(g.URL(), "nats://"))
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	g.Shutdown()
	ctx, cancel := context.WithTimeout(t.Context(), gateTestTimeout)
	defer cancel()
	select {
	case <-ended:
	case <-ctx.Done():
		require.Fail(t, "the client was not told")
	}
}
