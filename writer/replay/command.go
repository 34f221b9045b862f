package replay

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/replay"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// Command is `sendhouse replay clickhouse`.
type Command struct {
	replay.Flags
	ClickHouse clickhouse.Config `embed:""`
}

// Check implements config.Checker.
func (c *Command) Check() error {
	return errors.Join(c.Flags.Check(), c.ClickHouse.WithOwner(c.DataDir).CheckGiven())
}

// Run inserts the rows that the table lacks.
func (c *Command) Run(in *command.Invocation, wal replay.OpenWAL) error {
	c.ClickHouse = c.ClickHouse.WithOwner(c.DataDir)
	return c.Replay(in, wal, func(ctx context.Context, js jetstream.JetStream) (replay.Sink, func() error, error) {
		client, err := clickhouse.Open(c.ClickHouse, in.Log)
		if err != nil {
			return nil, nil, err //nolint:wrapcheck // a clickhouse.Error says it all
		}
		sink, err := New(ctx, js, client, c.ClickHouse.ClickHouseCluster != "", in.Log)
		return sink, client.Close, err
	})
}
