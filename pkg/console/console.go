package console

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

// securityPolicy lets the page use what this process serves, and nothing else; nobody may frame it.
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

// Console is the front page. Tell it what the process does with the Show methods before it is served; it is safe for concurrent
// use from then on.
type Console struct {
	deps    Deps
	log     *slog.Logger
	started time.Time
	root    http.Handler

	api        *API
	sequencers func(context.Context) ([]Partition, error)
	writers    func(context.Context) ([]Partition, error)
	letters    func(context.Context) ([]deadletter.Pile, error)
	asked      memory
}

// New makes the page of a process without a role.
func New(deps Deps) (*Console, error) {
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
	c := &Console{deps: deps, log: deps.Logger.With("component", "console"), started: time.Now(), asked: newMemory()}
	c.root = c.routes()
	return c, nil
}

// ShowSequencer says that the process is a sequencer, and how to ask for the partitions of all of them. The function is
// given a context with a deadline.
func (c *Console) ShowSequencer(partitions func(context.Context) ([]Partition, error)) {
	c.sequencers = partitions
}

// ShowWriter does the same for a writer.
func (c *Console) ShowWriter(partitions func(context.Context) ([]Partition, error)) {
	c.writers = partitions
}

// ShowDeadLetters says how to ask for the dead letters.
func (c *Console) ShowDeadLetters(piles func(context.Context) ([]deadletter.Pile, error)) {
	c.letters = piles
}

// ShowAPI says that the process has the API.
func (c *Console) ShowAPI(api API) { c.api = &api }

// ServeHTTP answers / and everything below /console/. The admin listener has refused other machines, other hosts and other origins before.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.root.ServeHTTP(w, r) }

func (c *Console) routes() http.Handler {
	r := chi.NewRouter()
	r.Use(headers)
	r.Get("/", file("page.html", "text/html; charset=utf-8"))
	r.Get("/console/page.css", file("page.css", "text/css; charset=utf-8"))
	r.Get("/console/page.js", file("page.js", "text/javascript; charset=utf-8"))
	r.Get("/console/state", c.serveState)
	r.Get("/console/deployment", c.serveDeployment)
	r.Post(apiPrefix+pathSend, c.forward)
	r.Get(apiPrefix+pathStatus, c.forward)
	r.Post(apiPrefix+pathSync, c.forward)
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
		_, _ = w.Write(text) // a reader that has gone need not know
	}
}

// answer writes v as JSON.
func (c *Console) answer(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		c.log.Error("the front page's figures cannot be written", "error", err)
		http.Error(w, "the figures cannot be written; the log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // a reader that has gone need not know
}
