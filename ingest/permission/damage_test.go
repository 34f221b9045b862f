package permission

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// TestEachBitOfARecordCounts: whatever bit flips of a channel's record or of a page, nobody is let in.
func TestEachBitOfARecordCounts(t *testing.T) {
	t.Parallel()
	p, err := (*Policy)(nil).edit(Edit{Raise: FlagDefined, Lists: [lists]ListEdit{Denylist: {Add: []string{"u", "<&>"}}, Subscribers: {Add: []string{"v"}}}})
	require.NoError(t, err)
	record, err := p.record()
	require.NoError(t, err)
	same, err := readPolicy(record, 1, nil)
	require.NoError(t, err)
	require.True(t, same.List(Denylist).Has("u"))
	page, err := newPage([]string{"u", "w"}).record()
	require.NoError(t, err)
	flipped(record, func(wrong []byte) {
		p, err := readPolicy(wrong, 1, nil)
		require.Error(t, err, "%s", wrong)
		require.True(t, p.Has(damaged), "%s", wrong)
	})
	flipped(page, func(wrong []byte) {
		_, err := readPage(wrong)
		require.Error(t, err, "%s", wrong)
	})
}

func flipped(right []byte, try func([]byte)) {
	for bit := range len(right) * 8 {
		wrong := bytes.Clone(right)
		wrong[bit/8] ^= 1 << (bit % 8)
		try(wrong)
	}
}

// TestRecordsOfBefore have no checksum, and no field that is not known.
func TestRecordsOfBefore(t *testing.T) {
	t.Parallel()
	p, err := readPolicy([]byte(`{"v":1,"defined":true,"denylist":{"count":1,"uids":["u"]}}`), 1, nil)
	require.NoError(t, err)
	require.True(t, p.List(Denylist).Has("u"))
	_, err = readPage([]byte(`{"v":1,"uids":["u"]}`))
	require.NoError(t, err)
	for _, wrong := range []string{
		`{"v":1,"defined":true,"denxlist":{"count":1,"uids":["u"]}}`,
		`{"v":1,"defined":true,"denylist":{"count":1,"uidr":["u"]}}`,
		`{"v":1,"defined":true}{}`,
		`{"v":1,"defined":true,"crc32b":"00000000"}`,
	} {
		p, err := readPolicy([]byte(wrong), 1, nil)
		require.Error(t, err, wrong)
		require.True(t, p.Has(damaged), wrong)
	}
	// A later version may add fields.
	_, err = readPolicy(broker.WithChecksum([]byte(`{"v":1,"later":true}`)), 1, nil)
	require.NoError(t, err)
}

func TestADamagedRecordInTheBucket(t *testing.T) {
	t.Parallel()
	b := setup(t)
	g, h := group("g"), group("h")
	s := b.store()
	b.change(s, g, Edit{Raise: FlagDefined, Lists: [lists]ListEdit{Subscribers: {Add: []string{"u"}}, Denylist: {Add: []string{"u"}}}})
	b.change(s, h, define("u"))
	require.Equal(t, Denylisted, s.ask("u", g))
	entry, err := b.kv.Get(t.Context(), g.key())
	require.NoError(t, err)
	b.put(g, string(bytes.Replace(entry.Value(), []byte(`"denylist":{"count":1,"uids":["u"]}`), []byte(`"denylist":{"count":1,"uids":["t"]}`), 1)))
	eventually(t, "it is noticed", func() bool { return s.ask("u", g) == Unavailable })
	require.Equal(t, Allowed, s.ask("u", h), "the channel alone")
	require.Equal(t, Unavailable, b.store().ask("u", g))

	// Who the system accounts are decides who may send everywhere.
	b.put(SystemAccounts(), `{"v":1,"x":1}`)
	eventually(t, "the system accounts are not known", func() bool { return s.ask("v", h) == Unavailable })
	require.Equal(t, Allowed, s.ask("u", h))
}

// waiting runs a store that does not become ready, and returns what it says.
func (b *bundle) waiting() *Store {
	b.t.Helper()
	s := b.idle(30 * time.Second)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Run(b.t.Context())
	}()
	b.t.Cleanup(func() { <-ended })
	eventually(b.t, "it says that records are lost", func() bool { return errors.Is(s.Check(), ErrNotWhole) })
	return s
}

// TestAnEmptiedBucketAllowsNobody until it is made anew.
func TestAnEmptiedBucketAllowsNobody(t *testing.T) {
	t.Parallel()
	b := setup(t)
	g := group("g")
	b.change(b.store(), g, define("u"))
	stream, err := b.js.Stream(t.Context(), bucketStream)
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context()))
	s := b.waiting()
	require.Equal(t, Unavailable, s.ask("u", g))
	require.ErrorContains(t, s.Check(), "sendhouse repair permissions")
	require.NoError(t, b.js.DeleteKeyValue(t.Context(), topology.PermissionBucket))
	b.makeBucket()
	<-s.Ready()
	require.Equal(t, Allowed, s.ask("v", g))
}

// TestABitOnTheServersDisk: the server passes over a record that is not what it wrote, and says nothing.
func TestABitOnTheServersDisk(t *testing.T) {
	t.Parallel()
	b := setup(t)
	store := b.store()
	for _, name := range []string{"a", "b", "c"} {
		b.change(store, group(name), Edit{Raise: FlagDefined, Lists: [lists]ListEdit{Denylist: {Add: []string{"denied-in-" + name}}}})
	}
	b.server.Shutdown()
	files, err := filepath.Glob(filepath.Join(b.dir, "jetstream", "*", "streams", bucketStream, "msgs", "*.blk"))
	require.NoError(t, err)
	found := false
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		if at := bytes.Index(data, []byte("denied-in-b")); at >= 0 {
			data[at] ^= 1
			require.NoError(t, os.WriteFile(file, data, 0o600))
			found = true
		}
	}
	require.True(t, found, "%v", files)
	b.start(b.addr)
	s := b.waiting()
	require.Equal(t, Unavailable, s.ask("u", group("b")))
}
