package replay

import (
	"context"
	"errors"
	"log/slog"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// OpenWAL makes the write-ahead log a source. That is the sequencer's to do, and main hands it in.
type OpenWAL func(jetstream.JetStream, topology.Deployment, *slog.Logger) Source

// OpenSink opens what a replay writes to, and says how to close it.
type OpenSink func(context.Context, jetstream.JetStream) (sink Sink, closing func() error, err error)

// Flags are what all replays have in common.
type Flags struct {
	command.Broker
	Config
}

// Check implements config.Checker.
func (f Flags) Check() error { return errors.Join(f.Broker.Check(), f.Config.Check()) }

// Replay runs the replay that the flags ask for.
func (f Flags) Replay(in *command.Invocation, wal OpenWAL, open OpenSink) error {
	who := command.Reader
	if f.Source == FromWAL {
		who = command.Operator
	}
	return in.Ask(in.Ctx, f.OrLocal(), who, func(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) error {
		sink, closing, err := open(ctx, js)
		if err != nil {
			return err
		}
		source := NewMessageLog(js)
		if f.Source == FromWAL {
			source = wal(js, deployment, in.Log)
		}
		_, err = Run(ctx, f.Config, source, deployment.Partitions, sink, in.Stderr)
		return errors.Join(err, closing())
	})
}

// NDJSONCommand is `sendhouse replay ndjson`.
type NDJSONCommand struct {
	Flags
	Output string `help:"File to write to; with --state, a replay that was killed continues there exactly. Default: standard output." placeholder:"PATH"`
}

// Run writes JSON lines.
func (c *NDJSONCommand) Run(in *command.Invocation, wal OpenWAL) error {
	return c.Replay(in, wal, func(context.Context, jetstream.JetStream) (Sink, func() error, error) {
		sink, err := NewNDJSON(in.Stdout, c.Output)
		return sink, sink.Close, err
	})
}

// NATSCommand is `sendhouse replay nats`.
type NATSCommand struct {
	Flags
	Subject string `required:"" help:"Publish each message on this subject, its partition, the type of its channel and the channel, with dots between. A stream must take it." placeholder:"PREFIX"`
}

// Check implements config.Checker.
func (c *NATSCommand) Check() error { return errors.Join(c.Flags.Check(), checkSubject(c.Subject)) }

// Run publishes into another stream.
func (c *NATSCommand) Run(in *command.Invocation, wal OpenWAL) error {
	return c.Replay(in, wal, func(ctx context.Context, js jetstream.JetStream) (Sink, func() error, error) {
		sink, err := NewSubject(ctx, js, c.Subject)
		return sink, func() error { return nil }, err
	})
}
