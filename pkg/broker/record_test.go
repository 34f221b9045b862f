package broker_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// startWithoutDirectGet starts a server whose JetStream has a domain, and whose user may not use direct get.
func startWithoutDirectGet(t *testing.T) *nats.Conn {
	t.Helper()
	user := nats.UserInfo("u", "p")
	server := testkit.StartNATS(t, testkit.NATSOptions{Client: []nats.Option{user}, Write: func(dir, name, addr, monitor, storeDir string) string {
		file := filepath.Join(dir, "nats.conf")
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
server_name: %q, listen: %q, http: %q
jetstream { store_dir: %q, domain: hub }
accounts { A { jetstream: enabled, users: [ { user: u, password: p, permissions: { publish: { deny: ["$JS.API.DIRECT.>", "$JS.hub.API.DIRECT.>"] } } } ] } }
`, name, addr, monitor, storeDir), 0o600))
		return file
	}})
	nc, err := nats.Connect(server.URL, user)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func TestRecordsOfTheLeader(t *testing.T) {
	t.Parallel()
	nc := startWithoutDirectGet(t)
	plain, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = plain.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}, AllowDirect: true})
	require.NoError(t, err)
	for n, subject := range []string{"s.a", "s.b", "s.a", "s.b"} {
		_, err := plain.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: nats.Header{"N": {fmt.Sprint(n)}}, Data: fmt.Append(nil, n)})
		require.NoError(t, err)
	}
	stream, err := plain.Stream(t.Context(), "S")
	require.NoError(t, err)
	require.NoError(t, stream.DeleteMsg(t.Context(), 2))

	domain, err := jetstream.NewWithDomain(nc, "hub")
	require.NoError(t, err)
	prefix, err := jetstream.NewWithAPIPrefix(nc, "$JS.hub.API")
	require.NoError(t, err)
	for name, js := range map[string]jetstream.JetStream{"plain": plain, "domain": domain, "prefix": prefix} {
		at := func(seq uint64) (*jetstream.RawStreamMsg, error) { return broker.RecordAt(t.Context(), js, "S", seq) }
		next := func(seq uint64, subject string) (*jetstream.RawStreamMsg, error) {
			return broker.NextRecord(t.Context(), js, "S", seq, subject)
		}
		last := func(subject string) (*jetstream.RawStreamMsg, error) {
			return broker.LastRecord(t.Context(), js, "S", subject)
		}
		for i, c := range []struct {
			get  func() (*jetstream.RawStreamMsg, error)
			want uint64
		}{
			{func() (*jetstream.RawStreamMsg, error) { return at(1) }, 1},
			{func() (*jetstream.RawStreamMsg, error) { return at(2) }, 0},
			{func() (*jetstream.RawStreamMsg, error) { return at(5) }, 0},
			{func() (*jetstream.RawStreamMsg, error) { return next(1, "s.b") }, 4},
			{func() (*jetstream.RawStreamMsg, error) { return next(2, "s.*") }, 3},
			{func() (*jetstream.RawStreamMsg, error) { return next(4, "s.a") }, 0},
			{func() (*jetstream.RawStreamMsg, error) { return last("s.a") }, 3},
			{func() (*jetstream.RawStreamMsg, error) { return last("s.*") }, 4},
			{func() (*jetstream.RawStreamMsg, error) { return last("s.c") }, 0},
		} {
			record, err := c.get()
			if c.want == 0 {
				require.ErrorIs(t, err, jetstream.ErrMsgNotFound, "%s %d", name, i)
				continue
			}
			require.NoError(t, err, "%s %d", name, i)
			require.Equal(t, c.want, record.Sequence, "%s %d", name, i)
			require.Equal(t, fmt.Sprint(c.want-1), string(record.Data))
			require.Equal(t, nats.Header{"N": {fmt.Sprint(c.want - 1)}}, record.Header)
			require.Equal(t, map[bool]string{true: "s.a", false: "s.b"}[c.want%2 == 1], record.Subject)
			require.WithinDuration(t, time.Now(), record.Time, time.Minute)
		}
		_, err := broker.RecordAt(t.Context(), js, "NONE", 1)
		require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
	}
}

// If no server answers, it ends with the client's timeout or with the caller's, and says so.
func TestARecordIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	nc, _ := connect(t, startEmbedded(t, t.TempDir()))
	_, err := nc.Subscribe("silent.>", func(*nats.Msg) {})
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	js, err := jetstream.NewWithAPIPrefix(nc, "silent", jetstream.WithDefaultTimeout(time.Millisecond))
	require.NoError(t, err)
	_, err = broker.RecordAt(t.Context(), js, "S", 1)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "the leader of S: no answer within 1ms")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = broker.LastRecord(ctx, js, "S", "s")
	require.ErrorIs(t, err, context.Canceled)

	js, err = jetstream.NewWithAPIPrefix(nc, "nobody")
	require.NoError(t, err)
	_, err = broker.RecordAt(t.Context(), js, "S", 1)
	require.ErrorIs(t, err, nats.ErrNoResponders)
}
