// Package repair mends what belongs to a deployment as a whole. What belongs to a role is mended beside that role.
package repair

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// DeploymentCommand is `sendhouse repair deployment`.
type DeploymentCommand struct {
	command.Repair
	topology.Deployment
}

// Check implements config.Checker.
func (c *DeploymentCommand) Check() error {
	return errors.Join(c.Repair.Check(), c.Or(topology.DefaultDeployment()).Check())
}

// Run writes the record of the deployment again, from what the metadata of its streams say.
func (c *DeploymentCommand) Run(in *command.Invocation) error {
	return c.AskNATS(in, func(ctx context.Context, js jetstream.JetStream) error {
		if err := c.repair(ctx, js, in); err != nil {
			return fmt.Errorf("repair the deployment's record: %w", err)
		}
		return nil
	})
}

func (c *DeploymentCommand) repair(ctx context.Context, js jetstream.JetStream, in *command.Invocation) error {
	found, err := broker.FindDeployment(ctx, js, c.Deployment)
	if err != nil {
		return err //nolint:wrapcheck // Run says what was being done
	}
	text := fmt.Sprintf("deployment %s: %d partitions, a deduplication window of %s and %d entries", found.ID, found.Partitions, found.DedupWindow, found.DedupEntriesMax)
	if found.Recorded {
		return command.Say(in.Stdout, "%s; the record says the same, nothing to repair\n", text)
	}
	from := "the parameters given, since no stream names a deployment"
	if len(found.From) > 0 {
		from = "the metadata of " + strings.Join(found.From, ", ")
	}
	if err := command.Confirm(in.Stdout, c.Yes, "%s, from %s.\nThe record is written again with this.\n", text, from); err != nil {
		return err //nolint:wrapcheck // Run says what was being done
	}
	if err := found.Record(ctx, js); err != nil {
		return err //nolint:wrapcheck // Run says what was being done
	}
	return command.Say(in.Stdout, "Done. Start the sequencers again.\n")
}
