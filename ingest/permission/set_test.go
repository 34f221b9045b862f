package permission

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// seeded returns a random generator, and prints how to replay it.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("again with: SEED=%d go test -run '%s' ./ingest/permission", seed, t.Name())
		}
	})
	return rand.New(rand.NewPCG(seed, seed))
}

// stored returns a set as another process reads it, after encoding and decoding.
func stored(t testing.TB, s *Set) *Set {
	t.Helper()
	pages := make(map[uint64]*page)
	p := &Policy{flags: FlagDefined}
	if s != nil {
		kept := *s
		kept.leaves = slices.Clone(s.leaves)
		for i := range kept.leaves {
			if kept.leaves[i].id == 0 && !s.inline() {
				kept.leaves[i].id = newID()
			}
			data, err := kept.leaves[i].page.record()
			require.NoError(t, err)
			pages[kept.leaves[i].id], err = readPage(data)
			require.NoError(t, err)
		}
		p.lists[Subscribers] = &kept
	}
	data, err := p.record()
	require.NoError(t, err)
	require.Less(t, len(data), 1<<20-recordRoom, "fits into a NATS message")
	read, err := readPolicy(data, 1, func(id uint64) *page { return pages[id] })
	require.NoError(t, err)
	return read.List(Subscribers)
}

// TestSetAgainstMap compares a set with a map through random edits, each stored and read back.
func TestSetAgainstMap(t *testing.T) {
	t.Parallel()
	random := seeded(t)
	uid := func() string {
		return fmt.Sprintf("%s-%d", strings.Repeat("é", random.IntN(60)), random.IntN(20_000))
	}
	many := func(n int) (uids []string) {
		for range n {
			uids = append(uids, uid())
		}
		return uids
	}
	var set *Set
	model := make(map[string]bool)
	paged := 0
	for step := range 80 {
		e := ListEdit{Add: many(random.IntN(1 << (4 + random.IntN(10)))), Remove: many(random.IntN(1 << random.IntN(10)))}
		switch random.IntN(20) {
		case 0:
			e.Clear = true
		case 1:
			e.Remove = slices.Collect(maps.Keys(model))[:len(model)*3/4]
			e.Add = nil
		}
		next, err := set.edit(e)
		require.NoError(t, err)
		before := maps.Clone(model)
		if e.Clear {
			clear(model)
		}
		for _, uid := range e.Remove {
			delete(model, uid)
		}
		for _, uid := range e.Add {
			model[uid] = true
		}
		require.Equal(t, maps.Equal(before, model), next == set, "step %d: an edit that changes nothing makes nothing", step)
		set = stored(t, next)
		require.Equal(t, len(model), set.Len(), "step %d", step)
		got := make(map[string]bool)
		for uid := range set.All() {
			got[uid] = true
			require.True(t, set.Has(uid))
		}
		require.Equal(t, model, got, "step %d", step)
		for range 100 {
			uid := uid()
			require.Equal(t, model[uid], set.Has(uid), "step %d: %q", step, uid)
		}
		if set != nil {
			paged = max(paged, len(set.leaves))
			total := 0
			for _, l := range set.leaves {
				total += len(l.page.packed)
				require.LessOrEqual(t, len(l.page.packed), pageBytesMax)
			}
			require.LessOrEqual(t, len(set.leaves), 1+total*6/pageBytesMax, "small pages are joined")
		}
	}
	require.Greater(t, paged, 4, "it was divided")
}

func TestSetLimits(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("x", uidBytesMax)
	set, err := (*Set)(nil).edit(ListEdit{Add: []string{longest, "y", "y"}})
	require.NoError(t, err)
	require.True(t, set.Has(longest))
	require.False(t, set.Has(longest[1:]))
	require.Equal(t, 2, set.Len())

	var long, short []string
	for i := range MembersMax {
		if i%20 == 0 { // a record is largest when the uids are long
			long = append(long, fmt.Sprintf("%0256d", i))
		}
		short = append(short, strconv.Itoa(i))
	}
	set, err = (*Set)(nil).edit(ListEdit{Add: long})
	require.NoError(t, err)
	for i := range set.leaves {
		set.leaves[i].id = newID()
	}
	data, err := (&Policy{lists: [lists]*Set{set, set, set}}).record()
	require.NoError(t, err)
	require.Less(t, 20*len(data), 1<<20-recordRoom, "three full lists fit into a NATS message")

	set, err = (*Set)(nil).edit(ListEdit{Add: short})
	require.NoError(t, err)
	require.Equal(t, MembersMax, set.Len())
	_, err = set.edit(ListEdit{Add: []string{"one more"}})
	require.ErrorIs(t, err, ErrTooMany)
}

func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	gone := func(uint64) *page { return nil }
	for _, text := range []string{
		``, `null`, `[]`, `{}`, `{"v":2}`, `{"v":1,"subscribers":{"count":2,"uids":["a"]}}`,
		`{"v":1,"denylist":{"count":1,"uids":[""]}}`,
		`{"v":1,"denylist":{"count":1,"pages":[{"from":0,"id":"12"}]}}`,
		`{"v":1,"denylist":{"count":1,"pages":[{"from":0,"id":"x"}]}}`,
	} {
		p, err := readPolicy([]byte(text), 7, gone)
		require.Error(t, err, "%s", text)
		require.True(t, p.Has(damaged), "%s", text)
		require.Equal(t, uint64(7), p.revision)
		_, err = p.edit(Edit{Raise: FlagLarge})
		require.ErrorIs(t, err, ErrDamaged, "%s", text)
	}

	p, err := readPolicy([]byte(`{"v":1,"subscribers":{"count":1,"uids":["a"]},"denylist":{"count":9,"pages":[{"from":0,"id":"12"}]}}`), 7, gone)
	require.ErrorContains(t, err, "denylist: page 12 is missing")
	_, err = p.edit(Edit{Lists: [lists]ListEdit{Denylist: {Add: []string{"b"}}}})
	require.ErrorIs(t, err, ErrDamaged)
	p, err = p.edit(Edit{Lists: [lists]ListEdit{Denylist: {Clear: true, Add: []string{"b"}}}})
	require.NoError(t, err, "replacing the list mends it")
	require.False(t, p.Has(damaged))
	require.True(t, p.List(Subscribers).Has("a"))
	require.True(t, p.List(Denylist).Has("b"))
}

func TestPoliciesAreNotChanged(t *testing.T) {
	t.Parallel()
	p := policy(t, FlagDefined, map[List][]string{Subscribers: {"a"}})
	same, err := p.edit(Edit{Raise: FlagDefined, Lists: [lists]ListEdit{Subscribers: {Clear: true, Add: []string{"a"}}}})
	require.NoError(t, err)
	require.Same(t, p, same)
	next, err := p.edit(Edit{Lower: FlagDefined, Raise: FlagBanned, Lists: [lists]ListEdit{Subscribers: {Clear: true}}})
	require.NoError(t, err)
	require.True(t, p.Has(FlagDefined) && p.List(Subscribers).Has("a"))
	require.True(t, next.Has(FlagBanned) && !next.Has(FlagDefined) && next.List(Subscribers) == nil)
	none, err := (*Policy)(nil).edit(Edit{IfDefined: true, Raise: FlagDisbanded})
	require.NoError(t, err)
	require.Nil(t, none)
}

func FuzzKey(f *testing.F) {
	for _, name := range []string{"group123", "a b", "ü", "a.b*c>d", "=41", "%", "____cmd", "\xff", "/", "A-_"} {
		f.Add(name, uint8(2), uint64(1))
	}
	f.Fuzz(func(t *testing.T, name string, kind uint8, id uint64) {
		if name == "" {
			return
		}
		ch := Channel{Type: message.ChannelType(kind), Name: name}
		got, err := parseKey(ch.key())
		require.NoError(t, err)
		require.Equal(t, parsedKey{channel: ch}, got)
		for l := range lists {
			got, err = parseKey(ch.pageKey(l, id))
			require.NoError(t, err)
			require.Equal(t, parsedKey{channel: ch, isPage: true, list: l, id: id}, got)
		}
		require.Regexp(t, `^[-/_=\.a-zA-Z0-9]+$`, ch.key(), "what a key-value key may hold")
	})
}
