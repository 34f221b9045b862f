// Package command is what the commands of the command line have in common that look at a deployment, or work
// on it, and end: status, tail, replay and the like. Each stands, with its flags, beside what it does; main
// lists them and passes them what they work with.
package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Asker is the name under which a command asks. It receives the replies below an inbox of that name, so that a user of NATS with fewer
// permissions does not get in the way of one with more, and cannot read its answers.
type Asker string

const (
	// Operator looks at everything, or changes something.
	Operator Asker = "question"
	// Reader reads the message log.
	Reader Asker = "reader"
)

// Question is asked of a deployment over a connection that is closed when it returns.
type Question func(context.Context, jetstream.JetStream, topology.Deployment) error

// Invocation is one run of the program: what a command works with.
type Invocation struct {
	Ctx    context.Context //nolint:containedctx // the life of the process, for kong's Run methods
	Stdout io.Writer
	Stderr io.Writer
	Log    *slog.Logger
	// Ask connects for one question.
	Ask func(context.Context, broker.ClientConfig, Asker, Question) error
	// AskNATS is Ask without a deployment, whose record may be lost.
	AskNATS func(context.Context, broker.ClientConfig, Asker, func(context.Context, jetstream.JetStream) error) error
	// OpenNATS makes the NATS of a data folder reachable, by the returned URL, until closing is called.
	OpenNATS func(dataDir string) (url string, closing func(), err error)
}

// localNATS is where `sendhouse up` embeds its broker, unless told otherwise.
const localNATS = "nats://127.0.0.1:4222"

// Broker are the broker's flags of a command that, without a URL, goes to the broker that `up` embeds.
type Broker struct{ broker.ClientConfig }

// OrLocal returns the flags, with the URL of the embedded broker if there is none.
func (b Broker) OrLocal() broker.ClientConfig {
	b.URL = cmp.Or(b.URL, localNATS)
	return b.ClientConfig
}

// Status are the flags of a command that prints how the partitions are.
type Status struct {
	broker.ClientConfig
	JSON bool `help:"Print JSON instead of a table."`
}

// Check implements config.Checker.
func (s Status) Check() error { return s.CheckGiven() }

// Print prints a status as it was asked for.
func Print[T any](out io.Writer, flags Status, status T, table func(io.Writer, T) error) error {
	if !flags.JSON {
		return table(out, status)
	}
	if err := json.NewEncoder(out).Encode(status); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// Repair are the flags that all repairs have.
type Repair struct {
	Broker
	Yes bool `help:"Do it. Without this flag the command only says what it would do." env:"-"`
}

// Ask asks the deployment that is to be repaired.
func (r Repair) Ask(in *Invocation, question Question) error {
	return r.connected(in, func(flags broker.ClientConfig) error { return in.Ask(in.Ctx, flags, Operator, question) })
}

// AskNATS is Ask without a deployment, whose record may be lost.
func (r Repair) AskNATS(in *Invocation, question func(context.Context, jetstream.JetStream) error) error {
	return r.connected(in, func(flags broker.ClientConfig) error { return in.AskNATS(in.Ctx, flags, Operator, question) })
}

func (r Repair) connected(in *Invocation, ask func(broker.ClientConfig) error) error {
	if r.URL != "" {
		return ask(r.ClientConfig)
	}
	// The default folder may be an old one that nothing uses: what runs comes first.
	if r.DataDir == "" || r.DataDir == broker.DefaultDataDir {
		if err := ask(r.OrLocal()); r.DataDir == "" || !errors.Is(err, nats.ErrNoServers) {
			return err
		}
	}
	url, closing, err := in.OpenNATS(r.DataDir)
	if err != nil {
		return fmt.Errorf("no NATS to repair: %w (give --nats-url, or with --data-dir the data folder of a 'sendhouse up')", err)
	}
	defer closing()
	r.URL = url
	return ask(r.ClientConfig)
}

// ErrNotConfirmed is returned by a repair that was not told to change anything.
var ErrNotConfirmed = errors.New("nothing was changed: run the command again with --yes to do this")

// Confirm prints what a repair is about to do. It is ErrNotConfirmed unless the repair is to do it.
func Confirm(out io.Writer, yes bool, format string, args ...any) error {
	if err := Say(out, format, args...); err != nil {
		return err
	}
	if !yes {
		return ErrNotConfirmed
	}
	return nil
}

// Say prints.
func Say(out io.Writer, format string, args ...any) error {
	if _, err := fmt.Fprintf(out, format, args...); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
