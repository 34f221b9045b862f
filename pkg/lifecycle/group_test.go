package lifecycle_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// journal is what happened to the parts of a test, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

// pass lets the bubble's time go by.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // in a synctest bubble: no real time goes by
}

// part is a service that writes down what happens to it. Its fields say how it behaves.
type part struct {
	name     string
	journal  *journal
	starting time.Duration
	draining time.Duration
	lives    time.Duration // 0: until it is stopped
	dies     error         // what it ends with when its life is over
	stopped  error         // what it ends with when it was stopped
	ready    chan struct{}
}

func newPart(j *journal, name string) *part {
	return &part{name: name, journal: j, ready: make(chan struct{})}
}

func (p *part) Ready() <-chan struct{} { return p.ready }

func (p *part) Run(ctx context.Context) error {
	p.note("start")
	pass(p.starting)
	p.note("ready")
	close(p.ready)
	var life <-chan time.Time
	if p.lives > 0 {
		life = time.After(p.lives)
	}
	select {
	case <-life:
		p.note("die")
		return p.dies
	case <-ctx.Done():
	}
	p.note("drain")
	pass(p.draining)
	p.note("end")
	return p.stopped
}

func (p *part) note(what string) { p.journal.add(p.name + " " + what) }

// setup makes a group of three parts.
func setup(drain time.Duration) (g *lifecycle.Group, a, b, c *part, j *journal) {
	j = new(journal)
	a, b, c = newPart(j, "a"), newPart(j, "b"), newPart(j, "c")
	g = lifecycle.NewGroup(lifecycle.GroupConfig{DrainTimeout: drain})
	for _, p := range []*part{a, b, c} {
		g.Add(p.name, p)
	}
	return g, a, b, c, j
}

var inOrder = []string{
	"a start", "a ready", "b start", "b ready", "c start", "c ready",
	"c drain", "c end", "b drain", "b end", "a drain", "a end",
}

func TestStartsInOrderAndStopsInReverse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, a, b, c, j := setup(time.Minute)
		// Each one takes its time: the next must wait for it.
		a.starting, b.starting, c.starting = 3*time.Second, 2*time.Second, time.Second
		a.draining, b.draining, c.draining = time.Second, 2*time.Second, 3*time.Second
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- g.Run(ctx) }()

		pass(4 * time.Second)
		synctest.Wait()
		require.EqualError(t, g.Check(), "starting: waiting for b")
		<-g.Ready()
		synctest.Wait()
		require.NoError(t, g.Check())

		cancel()
		synctest.Wait()
		require.EqualError(t, g.Check(), "stopping")
		require.NoError(t, <-done)
		require.EqualError(t, g.Check(), "stopped")
		require.Equal(t, inOrder, j.all())
	})
}

func TestStopEndsAsTheContextDoesAndTwiceIsHarmless(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, _, _, _, j := setup(time.Minute)
		done := make(chan error, 1)
		go func() { done <- g.Run(t.Context()) }()
		<-g.Ready()
		g.Stop()
		g.Stop()
		require.NoError(t, <-done)
		g.Stop()
		require.Equal(t, inOrder, j.all())
	})
}

func TestStopBeforeRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, _, _, _, j := setup(time.Minute)
		g.Stop()
		require.NoError(t, g.Run(t.Context()))
		require.Empty(t, j.all())
	})
}

func TestEndedContextStartsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, _, _, _, j := setup(time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, g.Run(ctx))
		require.Empty(t, j.all())
	})
}

func TestStopWhileStarting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, _, b, _, j := setup(time.Minute)
		b.starting = time.Hour
		b.stopped = context.Canceled // the usual answer of one that was stopped
		ctx, cancel := context.WithTimeout(t.Context(), 59*time.Minute+30*time.Second)
		defer cancel()
		require.NoError(t, g.Run(ctx))
		require.Equal(t, []string{
			"a start", "a ready", "b start", "b ready", "b drain", "b end", "a drain", "a end",
		}, j.all())
		select {
		case <-g.Ready():
			require.Fail(t, "the group was never ready")
		default:
		}
	})
}

func TestFirstErrorStopsAllInReverse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, a, b, c, j := setup(time.Minute)
		diskFull, lost := errors.New("disk full"), errors.New("lost a batch")
		b.lives, b.dies = time.Second, diskFull
		a.stopped, c.stopped = nil, lost
		err := g.Run(t.Context())
		require.ErrorIs(t, err, diskFull)
		require.ErrorIs(t, err, lost)
		require.EqualError(t, err, "c: lost a batch\nb: disk full")
		require.Equal(t, []string{
			"a start", "a ready", "b start", "b ready", "c start", "c ready",
			"b die", "c drain", "c end", "a drain", "a end",
		}, j.all())
	})
}

func TestErrorWhileStartingStopsWhatWasStarted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		taken := errors.New("the port is taken")
		j := new(journal)
		g := lifecycle.NewGroup(lifecycle.GroupConfig{})
		g.Add("a", newPart(j, "a"))
		g.Add("b", neverReady{err: taken})
		g.Add("c", newPart(j, "c"))
		err := g.Run(t.Context())
		require.ErrorIs(t, err, taken)
		require.EqualError(t, err, "b: the port is taken")
		require.Equal(t, []string{"a start", "a ready", "a drain", "a end"}, j.all())
	})
}

// neverReady fails instead of becoming ready.
type neverReady struct{ err error }

func (neverReady) Ready() <-chan struct{}      { return nil }
func (n neverReady) Run(context.Context) error { return n.err }

func TestEndingUnaskedIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, _, b, _, _ := setup(time.Minute)
		b.lives = time.Second
		require.ErrorIs(t, g.Run(t.Context()), lifecycle.ErrEnded)
	})
}

func TestCancelledUnaskedIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, _, b, _, _ := setup(time.Minute)
		b.lives, b.dies = time.Second, context.Canceled // of some context of its own
		require.ErrorIs(t, g.Run(t.Context()), context.Canceled)
	})
}

func TestDrainDeadlineLeavesOneBehindAndGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, _, b, _, j := setup(10 * time.Second)
		b.draining = time.Minute
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- g.Run(ctx) }()
		<-g.Ready()
		begun := time.Now()
		cancel()
		err := <-done
		require.ErrorIs(t, err, lifecycle.ErrDrainTimeout)
		require.EqualError(t, err, "b: did not stop in time: still running after 10s")
		require.Equal(t, 10*time.Second, time.Since(begun))
		require.Equal(t, []string{"c drain", "c end", "b drain", "a drain", "a end"}, j.all()[6:])
		pass(time.Minute) // the bubble wants all its goroutines to end
	})
}

func TestValuesOfTheContextReachTheServices(t *testing.T) {
	t.Parallel()
	type key struct{}
	g := lifecycle.NewGroup(lifecycle.GroupConfig{})
	var got any
	g.Add("a", lifecycle.Func(func(ctx context.Context) error {
		got = ctx.Value(key{})
		return errors.New("enough")
	}))
	require.Error(t, g.Run(context.WithValue(t.Context(), key{}, "value")))
	require.Equal(t, "value", got)
}

func TestGroupsNest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		inner, _, _, _, j := setup(time.Minute)
		outer := lifecycle.NewGroup(lifecycle.GroupConfig{})
		outer.Add("below", newPart(j, "below"))
		outer.Add("inner", inner)
		done := make(chan error, 1)
		go func() { done <- outer.Run(t.Context()) }()
		<-outer.Ready()
		require.NoError(t, inner.Check())
		outer.Stop()
		require.NoError(t, <-done)
		want := append([]string{"below start", "below ready"}, inOrder...)
		require.Equal(t, append(want, "below drain", "below end"), j.all())
	})
}

func TestRunTwice(t *testing.T) {
	t.Parallel()
	g := lifecycle.NewGroup(lifecycle.GroupConfig{})
	g.Stop()
	require.NoError(t, g.Run(t.Context()))
	require.ErrorIs(t, g.Run(t.Context()), lifecycle.ErrRunTwice)
	require.Panics(t, func() { g.Add("late", lifecycle.Func(nil)) })
}

// TestPanicEndsTheProcess runs itself in a process of its own, which has to die.
func TestPanicEndsTheProcess(t *testing.T) {
	t.Parallel()
	const mark = "LIFECYCLE_TEST_PANIC"
	if os.Getenv(mark) != "" {
		g := lifecycle.NewGroup(lifecycle.GroupConfig{})
		g.Add("a", lifecycle.Func(func(context.Context) error { panic("the invariant is broken") }))
		_ = g.Run(t.Context())
		return
	}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self, "-test.run", "^TestPanicEndsTheProcess$")
	cmd.Env = append(os.Environ(), mark+"=1")
	out, err := cmd.CombinedOutput()
	var exitErr *exec.ExitError
	require.ErrorAs(t, err, &exitErr)
	require.Contains(t, string(out), "panic: the invariant is broken")
}
