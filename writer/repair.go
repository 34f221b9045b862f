package writer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// RepairOptions are the flags of the commands that repair the writers' records.
type RepairOptions struct {
	command.Repair
	clickhouse.Config
}

// Check implements config.Checker.
func (o RepairOptions) Check() error {
	return errors.Join(o.Repair.Check(), o.WithOwner(o.DataDir).CheckGiven())
}

// RepairTableCommand is `sendhouse repair table`.
type RepairTableCommand struct{ RepairOptions }

// RepairPositionsCommand is `sendhouse repair positions`.
type RepairPositionsCommand struct{ RepairOptions }

// Run creates missing tables and views, and records that the deployment writes into this table.
func (c *RepairTableCommand) Run(in *command.Invocation) error {
	return c.ask(in, "repair the table", repairTableOf)
}

// Run recreates missing positions from the rows of the table.
func (c *RepairPositionsCommand) Run(in *command.Invocation) error {
	return c.ask(in, "repair the positions", repairPositions)
}

type tableRepair func(ctx context.Context, js jetstream.JetStream, client *clickhouse.Client, d topology.Deployment, out io.Writer, yes bool) error

func (o RepairOptions) ask(in *command.Invocation, what string, repair tableRepair) error {
	return o.Ask(in, func(ctx context.Context, js jetstream.JetStream, d topology.Deployment) (err error) {
		client, err := clickhouse.Open(o.WithOwner(o.DataDir), in.Log)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		defer func() { err = errors.Join(err, client.Close()) }()
		if err := repair(ctx, js, client, d, in.Stdout, o.Yes); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

func repairTableOf(ctx context.Context, js jetstream.JetStream, client *clickhouse.Client, d topology.Deployment, out io.Writer, yes bool) error {
	err := command.Confirm(out, yes, "This creates missing tables and views in database %s, and records the database as the one that deployment %s writes into, for all %d partitions.\n"+
		"Stop the writers first. After their restart they insert the rows that the table lacks, as far back as the message log reaches.\n", client.Database(), d.ID, d.Partitions)
	if err != nil {
		return err //nolint:wrapcheck // the caller says what was being done
	}
	if err := client.Migrate(ctx); err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	if err := client.Check(ctx); err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	if err := AdoptTable(ctx, js, client, d); err != nil {
		return err
	}
	return command.Say(out, "Done. Start the writers again.\n") //nolint:wrapcheck // the caller says what was being done
}

func repairPositions(ctx context.Context, js jetstream.JetStream, client *clickhouse.Client, d topology.Deployment, out io.Writer, yes bool) error {
	err := command.Confirm(out, yes, "Each of the %d partitions without a position gets one: at its last row in database %s, if the message log holds the same message. Other positions remain unchanged.\n",
		d.Partitions, client.Database())
	if err != nil {
		return err //nolint:wrapcheck // the caller says what was being done
	}
	var failed error
	for p := range d.Partitions {
		done, err := RestorePosition(ctx, js, client, p)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("partition %d: %w", p, err))
			continue
		}
		if err := command.Say(out, "partition %d: its position is at message %d\n", p, done); err != nil {
			return err //nolint:wrapcheck // the caller says what was being done
		}
	}
	return failed
}
