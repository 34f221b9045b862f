package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/guard"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// The limits of the admin listener. They are not settings: no deployment has needed others.
const (
	readTimeout  = 10 * time.Second
	writeTimeout = 30 * time.Second // profiles and traces extend it by what they were asked for
	idleTimeout  = 2 * time.Minute
	// closeTimeout is how long a scrape or a profile may take once the process stops.
	closeTimeout   = 3 * time.Second
	headerBytesMax = 16 << 10
)

// AdminConfig says where the admin listener is. Embed it in the command line.
type AdminConfig struct {
	AdminAddr config.Addr `help:"Address of the admin listener: a front page, /metrics, /healthz, /readyz, /loglevel, /debug/pprof. Clients on other machines get /metrics, /healthz and /readyz only." default:"127.0.0.1:5002"`
	guard.Hosts
}

// Check reports everything that is wrong with the settings.
func (c AdminConfig) Check() error {
	_, err := guard.New(guard.Config{Hosts: c.Hosts})
	return err //nolint:wrapcheck // names the flag
}

// AdminDeps is what the admin listener shows. All fields but Front must be set.
type AdminDeps struct {
	Logger    *slog.Logger
	Level     *slog.LevelVar
	Registry  *prometheus.Registry
	Readiness *lifecycle.Readiness
	// Front answers / and what is below /frontpage/; nil: nothing is there.
	Front http.Handler
	// ConnectionsMax is how many connections may be open; more wait. 0 means that there is no limit.
	ConnectionsMax int
}

// Admin is the admin listener: a lifecycle.Service that is ready once it accepts connections.
type Admin struct {
	addr  string
	log   *slog.Logger
	root  http.Handler
	max   int
	ready chan struct{}
	bound net.Addr // set before ready is closed
}

// NewAdmin checks cfg and deps and reports everything that is wrong with them. It opens nothing.
func NewAdmin(cfg AdminConfig, deps AdminDeps) (*Admin, error) {
	var errs []error
	require := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("admin listener: %s is missing", what))
		}
	}
	require(cfg.AdminAddr != "", "the address")
	require(deps.Logger != nil, "the logger")
	require(deps.Level != nil, "the log level")
	require(deps.Registry != nil, "the metrics registry")
	require(deps.Readiness != nil, "the readiness")
	keeper, err := guard.New(guard.Config{Hosts: cfg.Hosts})
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Admin{
		addr:  cfg.AdminAddr.String(),
		log:   deps.Logger,
		root:  guard.Protect(keeper.Check, routes(deps, keeper)),
		max:   deps.ConnectionsMax,
		ready: make(chan struct{}),
	}, nil
}

// routes lays out the paths of the admin listener. Metrics and health are for every client that reaches it. The rest is for this machine, and for no
// page of another origin: it shows or changes what is the operator's.
func routes(deps AdminDeps, keeper *guard.Guard) http.Handler {
	r := chi.NewRouter()
	r.Method(http.MethodGet, "/metrics", promhttp.HandlerFor(deps.Registry, promhttp.HandlerOpts{
		Registry:          deps.Registry, // errors of the exposition itself are counted there
		ErrorLog:          &scrapeLog{log: deps.Logger},
		EnableOpenMetrics: true,
	}))
	r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n")) // a prober that has gone need not know
	})
	r.Method(http.MethodGet, "/readyz", deps.Readiness)

	r.Group(func(r chi.Router) {
		r.Use(thisMachine)
		if deps.Front != nil {
			r.Handle("/", deps.Front) // also for a link from another page
		}
		r.Group(func(r chi.Router) {
			r.Use(func(next http.Handler) http.Handler { return guard.Protect(keeper.CheckSameOrigin, next) })
			r.Get("/loglevel", getLevel(deps.Level))
			r.Put("/loglevel", putLevel(deps.Level, deps.Logger))
			if deps.Front != nil {
				r.Handle("/frontpage/*", deps.Front)
			}
			r.Handle("/debug/pprof", http.RedirectHandler("/debug/pprof/", http.StatusMovedPermanently))
			r.Handle("/debug/pprof/*", profiles())
		})
	})
	return r
}

// thisMachine refuses clients on other machines.
func thisMachine(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !guard.IsLoopback(r.RemoteAddr) {
			http.Error(w, "other machines may ask for /metrics, /healthz and /readyz; ask for this path on the machine itself, or through a tunnel to it", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// scrapeLog hears what goes wrong with a scrape, most often that the scraper has hung up before its end.
type scrapeLog struct {
	log    *slog.Logger
	faults lifecycle.Repeated
}

// Println implements promhttp.Logger.
func (l *scrapeLog) Println(v ...any) {
	if skipped, due := l.faults.Due("scrape"); due {
		l.log.Warn("metrics scrape failed", "error", strings.TrimSpace(fmt.Sprintln(v...)), "skipped", skipped)
	}
}

// ServeHTTP answers as the listener does, for a process that wants these paths elsewhere as well.
func (a *Admin) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.root.ServeHTTP(w, r) }

// Ready is closed once the listener accepts connections.
func (a *Admin) Ready() <-chan struct{} { return a.ready }

// Addr is the address that is listened on, with the port that the system chose if it was to. It is
// nil before Ready.
func (a *Admin) Addr() net.Addr {
	select {
	case <-a.ready:
		return a.bound
	default:
		return nil
	}
}

// reach describes what clients on other machines may do.
func (a *Admin) reach() string {
	if guard.IsLoopback(a.bound.String()) {
		return "not reached"
	}
	return "metrics and health only"
}

// Run listens until ctx ends.
func (a *Admin) Run(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", a.addr)
	if err != nil {
		return fmt.Errorf("admin listener: %w (choose another address with --admin-addr)", err)
	}
	server := &http.Server{
		Handler:           a.root,
		ReadTimeout:       readTimeout,
		ReadHeaderTimeout: readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytesMax,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelWarn),
	}
	if a.max > 0 {
		listener = netutil.LimitListener(listener, a.max)
	}
	a.bound = listener.Addr()
	close(a.ready)
	a.log.Info("admin listener is up", "addr", a.bound.String(), "other_machines", a.reach())

	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }() // ends with Shutdown or Close below

	select {
	case err := <-served:
		return fmt.Errorf("admin listener: %w", err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := server.Shutdown(closing); err != nil {
		// A long profile is still being taken; it is cut short.
		err = server.Close()
		if err != nil {
			return fmt.Errorf("admin listener: close: %w", err)
		}
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin listener: %w", err)
	}
	return nil
}
