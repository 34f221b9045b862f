package permission

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// TestEachBitOfARecordCounts: whichever bit of a channel's record or page flips, no one may send.
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

// TestRecordsOfBefore: records of earlier versions have no checksum and no unknown fields.
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

	// The system accounts decide who may send everywhere.
	b.put(SystemAccounts(), `{"v":1,"x":1}`)
	eventually(t, "the system accounts are not known", func() bool { return s.ask("v", h) == Unavailable })
	require.Equal(t, Allowed, s.ask("u", h))
}

// waiting runs a store that does not become ready, and returns its reason.
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

// TestEmptiedBucketAllowsNoSend: an emptied bucket admits no sender until it is repaired.
func TestEmptiedBucketAllowsNoSend(t *testing.T) {
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
	b.repair(0)
	<-s.Ready()
	require.Equal(t, Allowed, s.ask("v", g))
}

// repair runs `sendhouse repair permissions`, first without --yes, and checks how many channels' permissions it keeps.
func (b *bundle) repair(channels int) {
	b.t.Helper()
	run := func(yes bool) (string, error) {
		var out strings.Builder
		in := &command.Invocation{Ctx: b.t.Context(), Stdout: &out, Ask: func(ctx context.Context, _ broker.ClientConfig, _ command.Asker, question command.Question) error {
			return question(ctx, b.js, topology.Deployment{ID: "d", Partitions: 2, DedupWindow: time.Minute, DedupEntriesMax: 1000})
		}}
		c := &RepairCommand{}
		c.Yes = yes
		err := c.Run(in)
		return out.String(), err
	}
	_, err := run(false)
	require.ErrorIs(b.t, err, command.ErrNotConfirmed)
	_, err = run(true)
	require.NoError(b.t, err)
	if channels > 0 { // a second repair changes nothing
		text, err := run(true)
		require.NoError(b.t, err)
		require.Contains(b.t, text, fmt.Sprintf("the permissions of %d channels, no fewer than it had", channels))
	}
}

// copyBucket copies the bucket's files while the server is stopped.
func (b *bundle) copyBucket(from, to string) {
	b.t.Helper()
	require.NoError(b.t, os.RemoveAll(to))
	require.NoError(b.t, os.CopyFS(to, os.DirFS(from)))
}

func (b *bundle) bucketDir() string {
	return filepath.Join(b.dir, "jetstream", "$G", "streams", bucketStream)
}

// TestABucketBehindItsMark: a bucket that was replaced by an older copy, was truncated, or silently lost a record admits
// no sender until it is repaired, even in a process that has read more.
func TestABucketBehindItsMark(t *testing.T) {
	t.Parallel()
	deny := Edit{Raise: FlagDefined, Lists: [lists]ListEdit{Denylist: {Add: []string{"u"}}}}
	g, h, pages := group("g"), group("h"), group("pages")
	for name, c := range map[string]struct {
		stopped func(b *bundle, older string) // while the server is stopped
		running func(b *bundle)
		says    string
		kept    int
		then    Verdict // on a send of u to h, after the repair
	}{
		"older copy": {
			stopped: func(b *bundle, older string) { b.copyBucket(older, b.bucketDir()) },
			says:    "it has 2 channels, and had 3", kept: 2, then: Allowed,
		},
		"record purged": {
			running: func(b *bundle) { b.purge(h.key()) },
			says:    "its newest channel record is revision", kept: 2, then: Allowed,
		},
		"record of before purged": {
			running: func(b *bundle) { b.purge(g.key()) },
			says:    "1 of 3 channels are missing", kept: 2, then: Denylisted,
		},
		"made again by hand": {
			running: func(b *bundle) {
				require.NoError(b.t, b.js.DeleteKeyValue(b.t.Context(), topology.PermissionBucket))
				b.makeBucket()
				_, err := b.kv.Put(b.t.Context(), g.key(), []byte(`{"v":1,"defined":true}`))
				require.NoError(b.t, err)
			},
			says: "it was created again", kept: 1, then: Allowed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, older := setup(t), filepath.Join(t.TempDir(), "older")
			s := b.store()
			b.change(s, pages, define(numbered("member", 3000)...))
			b.change(s, g, deny)
			b.server.Shutdown()
			b.copyBucket(b.bucketDir(), older)
			b.start(b.addr)
			eventually(t, "connected", func() bool { return s.Change(t.Context(), h, deny) == nil })
			if c.stopped != nil {
				b.server.Shutdown()
				c.stopped(b, older)
				b.start(b.addr)
				eventually(t, "a process that ran before notices", func() bool { return s.ask("u", h) == Unavailable })
				require.ErrorIs(t, s.Change(t.Context(), g, deny), ErrUnchanged, "nothing is built on it")
			} else {
				c.running(b)
			}
			again := b.waiting()
			require.Equal(t, Unavailable, again.ask("u", h))
			require.ErrorContains(t, again.Check(), c.says)
			require.ErrorContains(t, again.Check(), "sendhouse repair permissions")
			b.repair(c.kept)
			eventually(t, "repaired", func() bool { return again.ask("u", h) == c.then })
			if c.kept > 1 {
				require.Equal(t, NotSubscribed, again.ask("u", pages))
				require.Equal(t, Allowed, again.ask("member-0002999", pages))
			}
			eventually(t, "changes are taken", func() bool { return again.Change(t.Context(), h, deny) == nil })
			require.Equal(t, Denylisted, b.store().ask("u", h))
		})
	}
}

func (b *bundle) purge(key string) {
	b.t.Helper()
	stream, err := b.js.Stream(b.t.Context(), bucketStream)
	require.NoError(b.t, err)
	require.NoError(b.t, stream.Purge(b.t.Context(), jetstream.WithPurgeSubject(bucketSubjects+key)))
}

// TestRepairMakesTheBucketAgain: the repair keeps everything that can be read, including lists in pages.
func TestRepairMakesTheBucketAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.store()
	g, h := group("g"), group("h")
	b.change(s, g, define(numbered("member", 3000)...))
	for _, uid := range []string{"u", "v"} { // the second write has a condition on its sequence
		b.change(s, h, define(uid))
	}
	b.change(s, group("lost"), Edit{Raise: FlagDefined, Lists: [lists]ListEdit{Denylist: {Add: []string{"denied-in-lost"}}}})
	b.server.Shutdown()
	b.flipOnDisk("denied-in-lost")
	b.start(b.addr)
	again := b.waiting()
	b.repair(2)
	<-again.Ready()
	require.Equal(t, Allowed, again.ask("member-0002999", g))
	require.Equal(t, NotSubscribed, again.ask("u", g))
	require.Equal(t, Allowed, again.ask("v", h))
	b.change(again, h, define("w"))
	require.Equal(t, Allowed, b.store().ask("w", h))
}

// TestMarkIsNeverFalse: processes change channels concurrently, die between a change and its mark, and delete and define
// channels again; no start is ever refused.
func TestMarkIsNeverFalse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	stores := []*Store{b.store(), b.store(), b.store()}
	var work sync.WaitGroup
	for n, s := range stores {
		work.Go(func() {
			for i := range 40 {
				ch := group(fmt.Sprint("g", (i*7+n)%11))
				edit := define(numbered(fmt.Sprint("member-", n, "-", i), 1+i*40)...)
				if i%3 == 0 {
					edit = Edit{Lower: FlagDefined, Lists: replace(Subscribers).Lists}
				}
				if err := s.Change(t.Context(), ch, edit); err != nil {
					t.Errorf("change %d of %d: %v", i, n, err)
				}
			}
		})
	}
	work.Wait()
	last := b.store()
	stored, err := readMark(t.Context(), b.js)
	require.NoError(t, err)
	require.Equal(t, last.cache.Load().extent(), stored.extent)
	for _, s := range stores {
		eventually(t, "all have the same", func() bool { return s.cache.Load().extent() == stored.extent })
	}
}

// TestDeathBetweenRecordAndMark: the bucket is ahead of its mark, and the next process raises it.
func TestDeathBetweenRecordAndMark(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.store()
	b.change(s, group("g"), define("u"))
	b.put(group("h"), `{"v":1,"defined":true}`) // as left by a process that died, or by a version without marks
	again := b.store()
	eventually(t, "raised", func() bool {
		stored, err := readMark(t.Context(), b.js)
		return err == nil && stored.extent == again.cache.Load().extent()
	})
	require.EqualValues(t, 2, again.cache.Load().extent().Channels)
}

// TestRestoredBucket: a cluster sets a new creation time for a stream restored from a backup. A complete one is accepted.
func TestRestoredBucket(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.store()
	b.change(s, group("g"), define("u"))
	stored, err := readMark(t.Context(), b.js)
	require.NoError(t, err)
	created := stored.Created
	stored.Created = created.Add(-time.Hour)
	require.NoError(t, writeMark(t.Context(), b.js, stored.mark, stored.revision))
	again := b.store()
	require.Equal(t, NotSubscribed, again.ask("v", group("g")))
	renewed, err := readMark(t.Context(), b.js)
	require.NoError(t, err)
	require.Equal(t, created, renewed.Created)
	b.change(again, group("h"), define("u"))
}

// TestNoMark: a bucket without a mark, or whose mark was lost or is damaged, gets a new one.
func TestNoMark(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.put(group("g"), `{"v":1,"defined":true}`)
	marked := func(s *Store) {
		t.Helper()
		eventually(t, "marked", func() bool {
			stored, err := readMark(t.Context(), b.js)
			return err == nil && stored.damaged == nil && stored.extent == s.cache.Load().extent()
		})
	}
	marked(b.store())
	kv, err := b.js.KeyValue(t.Context(), topology.DeploymentBucket)
	require.NoError(t, err)
	for _, damage := range []func() error{
		func() error { return kv.Delete(t.Context(), markKey) },
		func() error { return kv.Purge(t.Context(), markKey) },
		func() error { _, err := kv.Put(t.Context(), markKey, []byte("stray")); return err },
		func() error { _, err := kv.Put(t.Context(), markKey, []byte(`{"last":1}`)); return err },
	} {
		require.NoError(t, damage())
		marked(b.store())
	}
}

// TestABitOnTheServersDisk: the server silently skips a record that is damaged on its disk.
func TestABitOnTheServersDisk(t *testing.T) {
	t.Parallel()
	b := setup(t)
	store := b.store()
	for _, name := range []string{"a", "b", "c"} {
		b.change(store, group(name), Edit{Raise: FlagDefined, Lists: [lists]ListEdit{Denylist: {Add: []string{"denied-in-" + name}}}})
	}
	b.server.Shutdown()
	b.flipOnDisk("denied-in-b")
	b.start(b.addr)
	s := b.waiting()
	require.Equal(t, Unavailable, s.ask("u", group("b")))
}

// flipOnDisk flips one bit of a text in the bucket's files.
func (b *bundle) flipOnDisk(text string) {
	b.t.Helper()
	files, err := filepath.Glob(filepath.Join(b.bucketDir(), "msgs", "*.blk"))
	require.NoError(b.t, err)
	found := false
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(b.t, err)
		if at := bytes.Index(data, []byte(text)); at >= 0 {
			data[at] ^= 1
			require.NoError(b.t, os.WriteFile(file, data, 0o600))
			found = true
		}
	}
	require.True(b.t, found, "%v", files)
}
