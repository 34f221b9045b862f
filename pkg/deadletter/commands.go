package deadletter

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// asked are the flags of a command, and its way to the box: listing, showing and purging. Trying again is the writer's.
type asked struct{ broker.ClientConfig }

func (a asked) ask(in *command.Invocation, question func(context.Context, *Box) error) error {
	return in.Ask(in.Ctx, a.ClientConfig, command.Operator, func(ctx context.Context, js jetstream.JetStream, _ topology.Deployment) error {
		box, err := Open(ctx, js)
		if err != nil {
			return err
		}
		return question(ctx, box)
	})
}

// ListCommand is `sendhouse deadletters ls`.
type ListCommand struct {
	asked
	ListOptions
}

// Run lists letters.
func (c *ListCommand) Run(in *command.Invocation) error {
	return c.ask(in, func(ctx context.Context, box *Box) error { return List(ctx, box, c.ListOptions, in.Stdout) })
}

// ShowCommand is `sendhouse deadletters show`.
type ShowCommand struct {
	asked
	ShowOptions
}

// Run shows a letter.
func (c *ShowCommand) Run(in *command.Invocation) error {
	return c.ask(in, func(ctx context.Context, box *Box) error { return Show(ctx, box, c.ShowOptions, in.Stdout) })
}

// PurgeCommand is `sendhouse deadletters purge`.
type PurgeCommand struct {
	asked
	PurgeOptions
}

// Run removes letters.
func (c *PurgeCommand) Run(in *command.Invocation) error {
	return c.ask(in, func(ctx context.Context, box *Box) error { return Purge(ctx, box, c.PurgeOptions, in.Stdout) })
}
