package frontpage

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/telemetry"
)

//go:embed page.html page.css page.js
var files embed.FS

// securityPolicy lets the page use what this process serves, and nothing else; no page may frame it.
const securityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Deps is what the page shows of the process. All fields must be set.
type Deps struct {
	Logger    *slog.Logger
	Registry  prometheus.Gatherer
	Readiness *lifecycle.Readiness
	Recent    *telemetry.Recent
	Build     telemetry.Build
}

// Page is the front page. Tell it what the process does with the Show methods before it is served; it is safe for concurrent
// use from then on.
type Page struct {
	deps    Deps
	log     *slog.Logger
	started time.Time
	root    http.Handler

	api        *API
	sequencers func(context.Context) ([]Partition, error)
	writers    func(context.Context) ([]Partition, error)
	letters    func(context.Context) ([]deadletter.Group, error)
	asked      memory
}

// New makes the page of a process without a role.
func New(deps Deps) (*Page, error) {
	var errs []error
	require := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("front page: %s is missing", what))
		}
	}
	require(deps.Logger != nil, "the logger")
	require(deps.Registry != nil, "the metrics registry")
	require(deps.Readiness != nil, "the readiness")
	require(deps.Recent != nil, "the latest lines of the log")
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p := &Page{deps: deps, log: deps.Logger.With("component", "front_page"), started: time.Now(), asked: newMemory()}
	p.root = p.routes()
	return p, nil
}

// ShowSequencer says that the process is a sequencer, and how to ask for the partitions of all of them. The function is
// given a context with a deadline.
func (p *Page) ShowSequencer(partitions func(context.Context) ([]Partition, error)) {
	p.sequencers = partitions
}

// ShowWriter does the same for a writer.
func (p *Page) ShowWriter(partitions func(context.Context) ([]Partition, error)) {
	p.writers = partitions
}

// ShowDeadLetters says how to ask for the dead letters.
func (p *Page) ShowDeadLetters(groups func(context.Context) ([]deadletter.Group, error)) {
	p.letters = groups
}

// ShowAPI says that the process has the API.
func (p *Page) ShowAPI(api API) { p.api = &api }

// ServeHTTP answers / and everything below /frontpage/. The admin listener has refused other machines, other hosts and other origins before.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.root.ServeHTTP(w, r) }

func (p *Page) routes() http.Handler {
	r := chi.NewRouter()
	r.Use(headers)
	r.Get("/", file("page.html", "text/html; charset=utf-8"))
	r.Get("/frontpage/page.css", file("page.css", "text/css; charset=utf-8"))
	r.Get("/frontpage/page.js", file("page.js", "text/javascript; charset=utf-8"))
	r.Get("/frontpage/state", p.serveState)
	r.Get("/frontpage/deployment", p.serveDeployment)
	r.Post(apiPrefix+pathSend, p.forward)
	r.Get(apiPrefix+pathStatus, p.forward)
	r.Post(apiPrefix+pathSync, p.forward)
	return r
}

func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", securityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// file serves an embedded file.
func file(name, contentType string) http.HandlerFunc {
	text, err := files.ReadFile(name)
	if err != nil {
		panic(err) // it is in the binary
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(text) // an error means that the client has gone
	}
}

// answer writes v as JSON.
func (p *Page) answer(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		p.log.Error("cannot encode the figures of the front page", "error", err)
		http.Error(w, "cannot encode the figures; the log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // an error means that the client has gone
}

// state is what a process knows without asking anybody.
type state struct {
	Build telemetry.Build `json:"build"`
	// Started tells one process from the next at the same address: counters start again from zero.
	Started time.Time `json:"started"`
	// UptimeMillis is by the monotonic clock, so rates are right.
	UptimeMillis int64            `json:"uptime_millis"`
	Readiness    lifecycle.Report `json:"readiness"`
	Stages       []stage          `json:"stages"`
	Log          []telemetry.Line `json:"log"` // warnings and errors, the newest first
	Form         form             `json:"form"`
}

// form reports whether the page may send.
type form struct {
	Offered bool   `json:"offered"`
	Why     string `json:"why,omitempty"` // not
	Token   bool   `json:"token"`         // one is needed
}

func (p *Page) serveState(w http.ResponseWriter, _ *http.Request) {
	stages, err := p.stages()
	if err != nil {
		p.log.Debug("cannot gather some metrics", "error", err) // /metrics counts it; what there is is shown
	}
	p.answer(w, state{
		Build: p.deps.Build, Started: p.started, UptimeMillis: time.Since(p.started).Milliseconds(),
		Readiness: p.deps.Readiness.Check(), Stages: stages, Log: p.deps.Recent.Lines(), Form: p.form(),
	})
}
