package frontpage

import (
	"context"
	"net/http"
	"time"

	"github.com/sendhouse/sendhouse/pkg/deadletter"
)

const (
	// askTimeout bounds each of the questions about the deployment.
	askTimeout = 3 * time.Second
	// answerKept is how long an answer is shown before it is asked for again, so that many who look cost as much as one.
	answerKept = 4 * time.Second
)

// Partition is how a partition is served by one role.
type Partition struct {
	Number  int    `json:"number"`
	Owner   string `json:"owner"`             // empty: none
	Epoch   uint64 `json:"epoch"`             // of its lease
	State   string `json:"state,omitempty"`   // in the role's words
	Problem string `json:"problem,omitempty"` // what a person should look at
	Lag     uint64 `json:"lag"`               // records, or messages, that it has still to do
}

// deployment is what others had to be asked for.
type deployment struct {
	Sequencer   *partitions `json:"sequencer,omitempty"` // nil: the process is none, and cannot know
	Writer      *partitions `json:"writer,omitempty"`
	DeadLetters *letters    `json:"dead_letters,omitempty"`
}

type partitions struct {
	Partitions []Partition `json:"partitions"`
	Error      string      `json:"error,omitempty"` // instead of them
}

type letters struct {
	Groups []deadletter.Group `json:"groups"`
	Error  string             `json:"error,omitempty"` // instead of them
}

// memory keeps the last answer. Its lock is a channel, so that a request can stop waiting for it.
type memory struct {
	lock   chan struct{}
	answer deployment
	at     time.Time
}

func newMemory() memory { return memory{lock: make(chan struct{}, 1)} }

// serveDeployment answers from memory, or asks; one request asks, others wait for it.
func (p *Page) serveDeployment(w http.ResponseWriter, r *http.Request) {
	select {
	case p.asked.lock <- struct{}{}:
	case <-r.Context().Done():
		return // the client has gone
	}
	defer func() { <-p.asked.lock }()
	if p.asked.at.IsZero() || time.Since(p.asked.at) > answerKept {
		answer := p.ask(r.Context())
		if r.Context().Err() != nil {
			return // what was heard is cut short
		}
		p.asked.answer, p.asked.at = answer, time.Now()
	}
	p.answer(w, p.asked.answer)
}

func (p *Page) ask(ctx context.Context) deployment {
	var d deployment
	if p.sequencers != nil {
		all, problem := bounded(ctx, p.sequencers)
		d.Sequencer = &partitions{all, problem}
	}
	if p.writers != nil {
		all, problem := bounded(ctx, p.writers)
		d.Writer = &partitions{all, problem}
	}
	if p.letters != nil {
		all, problem := bounded(ctx, p.letters)
		d.DeadLetters = &letters{all, problem}
	}
	return d
}

func bounded[T any](ctx context.Context, question func(context.Context) ([]T, error)) (all []T, problem string) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	all, err := question(ctx)
	if err != nil {
		return []T{}, err.Error()
	}
	return all, ""
}
