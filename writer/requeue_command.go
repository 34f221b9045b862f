package writer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// RequeueOptions are the flags of the command that requeues dead letters.
type RequeueOptions struct {
	clickhouse.Config
	deadletter.Selection
	JSON bool `help:"Print one JSON object per letter." env:"-"`
}

// Check reports everything that is wrong with the options.
func (o RequeueOptions) Check() error {
	return errors.Join(o.Config.CheckGiven(), o.Selection.Check())
}

// RequeueCommand is `sendhouse deadletters requeue`.
type RequeueCommand struct {
	broker.ClientConfig
	RequeueOptions
}

// Check implements config.Checker.
func (c *RequeueCommand) Check() error {
	return errors.Join(c.ClientConfig.CheckGiven(), c.WithOwner(c.DataDir).CheckGiven(), c.Selection.Check())
}

// Run requeues the selected dead letters.
func (c *RequeueCommand) Run(in *command.Invocation) error {
	c.Config = c.WithOwner(c.DataDir)
	return in.Ask(in.Ctx, c.ClientConfig, command.Operator, func(ctx context.Context, js jetstream.JetStream, _ topology.Deployment) error {
		return Requeue(ctx, c.RequeueOptions, js, in.Log, in.Stdout)
	})
}

// Requeue inserts dead letters of the writer into ClickHouse, each as the row that it would have been, and removes those
// whose row is there. Letters that stay cause an error at the end, except that those selected by a filter or --all that
// can never become a row are only reported.
func Requeue(ctx context.Context, o RequeueOptions, js jetstream.JetStream, log *slog.Logger, out io.Writer) (err error) {
	if err := o.Check(); err != nil {
		return err
	}
	q, err := newRequeuer(ctx, o.Config, js, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.client.Close()) }()
	return q.run(ctx, o, out)
}

func (q *requeuer) run(ctx context.Context, o RequeueOptions, out io.Writer) error {
	done := make(map[string]int)
	tell := func(r Requeued) error {
		done[r.Outcome]++
		return r.write(out, o.JSON)
	}
	_, err := o.Walk(ctx, q.letters, func(letter deadletter.Entry) error {
		result, fatal := q.requeue(ctx, letter)
		return errors.Join(tell(result), fatal)
	}, func(id uint64, err error) error {
		return tell(Requeued{ID: id, Outcome: outcomeGone, Error: err.Error()})
	})
	stayed := done[outcomeFailed]
	if len(o.IDs) > 0 {
		stayed += done[outcomeNever] + done[outcomeGone]
	}
	switch {
	case err != nil:
		return fmt.Errorf("requeue: %w", err)
	case stayed > 0:
		return fmt.Errorf("requeue: %d of %d dead letters could not be requeued", stayed, sum(done))
	case !o.JSON:
		_, err = fmt.Fprintf(out, "%d inserted, %d stored already, %d expired, %d cannot be requeued\n",
			done[outcomeInserted], done[outcomeStored], done[outcomeExpired], done[outcomeNever])
	}
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

func sum(counts map[string]int) int {
	total := 0
	for _, n := range counts {
		total += n
	}
	return total
}

func (r Requeued) write(out io.Writer, asJSON bool) error {
	var err error
	switch {
	case asJSON:
		err = json.NewEncoder(out).Encode(r)
	case r.Error != "":
		_, err = fmt.Fprintf(out, "%d %s: %s\n", r.ID, r.Outcome, r.Error)
	default:
		_, err = fmt.Fprintf(out, "%d %s\n", r.ID, r.Outcome)
	}
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
