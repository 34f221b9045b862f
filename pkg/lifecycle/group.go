package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// DrainTimeoutDefault is how long a service may take to end after its context has ended, unless
// GroupConfig says otherwise.
const DrainTimeoutDefault = 30 * time.Second

var (
	// ErrEnded is the error of a service that returned nil before its context ended.
	ErrEnded = errors.New("ended before it was to stop")
	// ErrDrainTimeout is the error of a service that did not end in time after its context had ended.
	ErrDrainTimeout = errors.New("did not stop in time")
	// ErrRunTwice is returned by the second Run of a group.
	ErrRunTwice = errors.New("a group can be run only once")
)

// Service is a part of the process.
//
// Run works until ctx ends, then finishes or hands over what it has begun, and returns. To need
// time for this is normal: ctx is then over already, so the calls that finish the work take
// context.WithoutCancel(ctx) with a timeout of their own. It returns nil or ctx's error when it was
// stopped, any other error when it failed.
type Service interface {
	Run(ctx context.Context) error
}

// Readier is a Service that others can only use after some time. Ready returns the same channel
// each time; the service closes it once it can be used.
type Readier interface {
	Ready() <-chan struct{}
}

// Func makes a Service of a function.
type Func func(ctx context.Context) error

// Run calls f.
func (f Func) Run(ctx context.Context) error { return f(ctx) }

// GroupConfig are the settings of a Group; the zero value is valid.
type GroupConfig struct {
	// DrainTimeout is how long each service may take to end after its context has ended. Services end one
	// after another, so all of them together may take as many times as long. 0 means DrainTimeoutDefault.
	DrainTimeout time.Duration
	// Logger receives each start and stop; nil disables logging.
	Logger *slog.Logger
}

// Group is a list of services that live and die together. It is a Service and a Readier itself.
type Group struct {
	drainTimeout time.Duration
	log          *slog.Logger

	members []*member
	started []*member // only Run's goroutine uses it

	failed   chan struct{} // closed when a member has ended before it was to stop
	failOnce sync.Once
	stop     chan struct{} // closed by Stop
	stopOnce sync.Once
	ready    chan struct{} // closed when all members are ready

	mu    sync.Mutex
	state string // what Check reports; "" when serving
	ran   bool
}

// member is one service with what is known of it.
type member struct {
	name    string
	service Service
	cancel  context.CancelFunc
	ended   chan struct{} // closed when Run has returned
	err     error         // Run's answer; read it after ended
}

// NewGroup makes an empty group.
func NewGroup(cfg GroupConfig) *Group {
	if cfg.DrainTimeout <= 0 {
		cfg.DrainTimeout = DrainTimeoutDefault
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Group{
		drainTimeout: cfg.DrainTimeout,
		log:          cfg.Logger,
		failed:       make(chan struct{}),
		stop:         make(chan struct{}),
		ready:        make(chan struct{}),
		state:        "not started",
	}
}

// Add appends a service: it is started after those already there and stopped before them.
// The name stands in errors and logs. Add after Run has no meaning and panics.
func (g *Group) Add(name string, service Service) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ran {
		panic(fmt.Sprintf("lifecycle: service %q was added to a group that already runs", name))
	}
	g.members = append(g.members, &member{name: name, service: service, ended: make(chan struct{})})
}

// Run starts the services and blocks until all have ended. They end when ctx does, when Stop is
// called, or when one of them fails. The answer joins the errors of all services, each with its
// name in front; it is nil after a stop in which all ended well and in time.
//
// A service that exceeds the drain timeout is left behind and reported with [ErrDrainTimeout]; the
// ones below it are then stopped all the same. A panic in a service ends the process.
func (g *Group) Run(ctx context.Context) error {
	g.mu.Lock()
	again := g.ran
	g.ran = true
	g.mu.Unlock()
	if again {
		return ErrRunTwice
	}

	if g.startAll(ctx) {
		g.setState("")
		close(g.ready)
		select {
		case <-ctx.Done():
		case <-g.stop:
		case <-g.failed:
		}
	}
	g.setState("stopping")
	return g.stopAll()
}

// Ready is closed when every service is.
func (g *Group) Ready() <-chan struct{} { return g.ready }

// Stop makes Run end as the end of its context does. It does not wait. Any number of calls, at any
// time, are as good as one.
func (g *Group) Stop() { g.stopOnce.Do(func() { close(g.stop) }) }

// Check is nil while the group serves, and otherwise says what it is doing. It is meant for a
// [Readiness].
func (g *Group) Check() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == "" {
		return nil
	}
	return errors.New(g.state)
}

func (g *Group) setState(state string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state = state
}

// startAll starts the members in order and reports whether all became ready.
func (g *Group) startAll(ctx context.Context) bool {
	for _, m := range g.members {
		// Asked first: nothing should start that would have to stop at once.
		if g.over(ctx) {
			return false
		}
		g.setState("starting: waiting for " + m.name)
		g.log.Debug("starting service", "service", m.name)
		g.start(ctx, m)

		var ready <-chan struct{}
		if r, ok := m.service.(Readier); ok {
			ready = r.Ready()
		} else {
			ready = closedChan()
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return false
		case <-g.stop:
			return false
		case <-g.failed:
			return false
		}
	}
	return true
}

// over reports whether the group is stopping.
func (g *Group) over(ctx context.Context) bool {
	select {
	case <-ctx.Done():
	case <-g.stop:
	case <-g.failed:
	default:
		return false
	}
	return true
}

// start runs one member in a goroutine that ends with the member.
func (g *Group) start(ctx context.Context, m *member) {
	// Not a child of ctx: the end of ctx must reach the members one after another.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.cancel = cancel
	g.started = append(g.started, m)
	go func() {
		// No recover: a panic means that the state can no longer be trusted.
		err := m.service.Run(own)
		switch {
		case own.Err() == nil && err == nil:
			err = ErrEnded
		case own.Err() != nil && errors.Is(err, context.Canceled):
			err = nil
		}
		m.err = err
		close(m.ended)
		if err != nil {
			g.failOnce.Do(func() { close(g.failed) })
		}
	}()
}

// stopAll stops what was started, the last first, and joins what went wrong in the order of time
// in which it is seen: the last started first.
func (g *Group) stopAll() error {
	var errs []error
	for i := len(g.started) - 1; i >= 0; i-- {
		m := g.started[i]
		g.log.Debug("stopping service", "service", m.name)
		begun := time.Now()
		m.cancel()
		deadline := time.NewTimer(g.drainTimeout)
		select {
		case <-m.ended:
			if m.err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", m.name, m.err))
			}
			g.log.Debug("service stopped", "service", m.name, "duration", time.Since(begun))
		case <-deadline.C:
			errs = append(errs, fmt.Errorf("%s: %w: still running after %s", m.name, ErrDrainTimeout, g.drainTimeout))
			g.log.Error("service did not stop in time, it is left behind", "service", m.name, "timeout", g.drainTimeout)
		}
		deadline.Stop()
	}
	g.setState("stopped")
	return errors.Join(errs...)
}

func closedChan() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
