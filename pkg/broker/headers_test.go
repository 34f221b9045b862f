package broker_test

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// dialed counts the connections that it makes.
type dialed struct{ count *atomic.Int32 }

func (d dialed) Dial(network, address string) (net.Conn, error) {
	d.count.Add(1)
	return net.Dial(network, address)
}

// Messages come without their headers over a connection that was asked for so, also after it was made anew, and with them
// over any other; all else is as ever.
func TestWithoutHeaders(t *testing.T) {
	t.Parallel()
	authority := testkit.NewAuthority(t)
	identity := authority.Issue("reader")
	start := func(t *testing.T, options server.Options) *server.Server {
		t.Helper()
		options.Host, options.Port, options.NoSigs, options.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
		ns, err := server.NewServer(&options)
		require.NoError(t, err)
		ns.Start()
		t.Cleanup(func() {
			ns.Shutdown()
			ns.WaitForShutdown()
		})
		require.True(t, ns.ReadyForConnections(10*time.Second))
		return ns
	}
	secure, err := broker.ClientConfig{CA: authority.CAFile, Cert: identity.CertFile, CertKey: identity.KeyFile}.Options("test")
	require.NoError(t, err)
	var own dialed
	own.count = new(atomic.Int32)
	plain, tls := start(t, server.Options{}), start(t, server.Options{TLSConfig: authority.ServerTLS("127.0.0.1"), TLSTimeout: 10})
	for name, c := range map[string]struct {
		server  *server.Server
		options []nats.Option
	}{
		"TCP":                {plain, nil},
		"TLS":                {tls, secure},
		"within the process": {plain, []nats.Option{nats.InProcessServer(plain)}},
		"a dialer given":     {plain, []nats.Option{nats.SetCustomDialer(own)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			again := make(chan struct{}, 1)
			options := append([]nats.Option{nats.Timeout(10 * time.Second), nats.ReconnectHandler(func(*nats.Conn) { again <- struct{}{} })}, c.options...)
			usual, err := nats.Connect(c.server.ClientURL(), options...)
			require.NoError(t, err)
			t.Cleanup(usual.Close)
			without, err := nats.Connect(c.server.ClientURL(), append(options, broker.WithoutHeaders())...)
			require.NoError(t, err)
			t.Cleanup(without.Close)
			subject := nats.NewInbox()
			hear := func(nc *nats.Conn) *nats.Subscription {
				heard, err := nc.SubscribeSync(subject)
				require.NoError(t, err)
				require.NoError(t, nc.Flush())
				return heard
			}
			withHeaders, bare := hear(usual), hear(without)
			check := func() {
				require.NoError(t, usual.PublishMsg(&nats.Msg{Subject: subject, Reply: "reply", Header: nats.Header{"A": {"b"}}, Data: []byte("data")}))
				m, err := withHeaders.NextMsg(10 * time.Second)
				require.NoError(t, err)
				require.Equal(t, nats.Header{"A": {"b"}}, m.Header)
				m, err = bare.NextMsg(10 * time.Second)
				require.NoError(t, err)
				require.Empty(t, m.Header)
				require.Equal(t, "reply", m.Reply)
				require.Equal(t, "data", string(m.Data))
			}
			check()
			require.NoError(t, without.ForceReconnect())
			<-again
			require.NoError(t, without.Flush())
			check()
		})
	}
	t.Cleanup(func() { require.Positive(t, own.count.Load(), "the dialer that was given") })
}
