package frontpage

import (
	"net/http"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/telemetry"
)

// state is what a process knows without asking anybody.
type state struct {
	Build telemetry.Build `json:"build"`
	// Started tells one process from the next at the same address: counters begin anew.
	Started time.Time `json:"started"`
	// UptimeMillis is by a clock that nobody sets, so rates are right.
	UptimeMillis int64            `json:"uptime_millis"`
	Readiness    lifecycle.Report `json:"readiness"`
	Stages       []stage          `json:"stages"`
	Log          []telemetry.Line `json:"log"` // warnings and errors, the newest first
	Form         form             `json:"form"`
}

// form says whether the page may send.
type form struct {
	Offered bool   `json:"offered"`
	Why     string `json:"why,omitempty"` // not
	Token   bool   `json:"token"`         // one is needed
}

func (p *Page) serveState(w http.ResponseWriter, _ *http.Request) {
	stages, err := p.stages()
	if err != nil {
		p.log.Debug("some metrics could not be gathered", "error", err) // /metrics counts it; what there is is shown
	}
	p.answer(w, state{
		Build: p.deps.Build, Started: p.started, UptimeMillis: time.Since(p.started).Milliseconds(),
		Readiness: p.deps.Readiness.Check(), Stages: stages, Log: p.deps.Recent.Lines(), Form: p.form(),
	})
}
