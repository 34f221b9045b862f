package tail

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Command is `sendhouse tail`.
type Command struct {
	command.Broker
	Config
}

// Run shows the messages.
func (c *Command) Run(in *command.Invocation) error {
	return in.Ask(in.Ctx, c.OrLocal(), command.Reader, func(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) error {
		return Run(ctx, c.Config, js, deployment.Partitions, in.Stdout)
	})
}
