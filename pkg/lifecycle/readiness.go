package lifecycle

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Readiness is the set of checks that report whether the process can serve. The zero value has no
// checks and is ready. It is safe for concurrent use.
type Readiness struct {
	mu     sync.Mutex
	checks map[string]func() error
}

// Report is the outcome of all checks at one moment.
type Report struct {
	Ready  bool          `json:"ready"`
	Checks []CheckResult `json:"checks"`
}

// CheckResult is the outcome of one check; Error is empty when it passed.
type CheckResult struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// Register adds a check under a name that no other check has, and returns a function that removes
// it again. A check answers at once from what is already known: it is called for every probe and
// must not block on a neighbour. nil means able to serve.
func (r *Readiness) Register(name string, check func() error) (unregister func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if name == "" || check == nil {
		panic("lifecycle: a readiness check needs a name and a function")
	}
	if _, taken := r.checks[name]; taken {
		panic(fmt.Sprintf("lifecycle: two readiness checks are named %q", name))
	}
	if r.checks == nil {
		r.checks = make(map[string]func() error)
	}
	r.checks[name] = check
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.checks, name)
	})
}

// Check runs all checks and reports them in the order of their names.
func (r *Readiness) Check() Report {
	type named struct {
		name  string
		check func() error
	}
	r.mu.Lock()
	all := make([]named, 0, len(r.checks))
	for name, check := range r.checks {
		all = append(all, named{name, check})
	}
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b named) int { return strings.Compare(a.name, b.name) })

	// The checks run unlocked: one that registers another must not lock up.
	report := Report{Ready: true, Checks: make([]CheckResult, 0, len(all))}
	for _, c := range all {
		result := CheckResult{Name: c.name, OK: true}
		if err := c.check(); err != nil {
			result.OK, result.Error = false, err.Error()
			report.Ready = false
		}
		report.Checks = append(report.Checks, result)
	}
	return report
}

// ServeHTTP answers 200 when every check passes and 503 otherwise, with the Report as JSON.
func (r *Readiness) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	report := r.Check()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !report.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	// A failure to write means that the prober has gone: there is no one to tell.
	_ = json.NewEncoder(w).Encode(report)
}
