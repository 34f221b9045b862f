// Sendhouse is a durable, ordered, exactly-once ingestion pipeline: messages come
// in over HTTP, get an ID and a gap-free sequence number in their channel, and
// end up as rows in ClickHouse. `sendhouse up` runs all of it in one process; the
// commands ingest, sequencer and writer run its roles apart.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/ingest"
	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/console"
	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/load"
	"github.com/sendhouse/sendhouse/pkg/process"
	"github.com/sendhouse/sendhouse/pkg/replay"
	"github.com/sendhouse/sendhouse/pkg/tail"
	"github.com/sendhouse/sendhouse/pkg/telemetry"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
	"github.com/sendhouse/sendhouse/sequencer"
	"github.com/sendhouse/sendhouse/writer"
	writeraudit "github.com/sendhouse/sendhouse/writer/audit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
	"github.com/sendhouse/sendhouse/writer/history"
	writerreplay "github.com/sendhouse/sendhouse/writer/replay"
)

const description = `A durable, ordered, exactly-once ingestion pipeline: POST /message/send in, ClickHouse rows out.

Every setting is a flag, a variable of the environment (SENDHOUSE_ and the flag's name in capitals, with underscores) or a key of the YAML file given by --config; the first of these that is set counts.`

// cli is the command line.
type cli struct {
	Config config.File `help:"Read settings from this YAML file; its keys are the names of the flags." placeholder:"PATH"`
	telemetry.LogConfig

	Up        upCommand     `cmd:"" help:"Run everything in one process, with NATS and ClickHouse inside unless URLs are given."`
	Ingest    ingestCommand `cmd:"" help:"Run the HTTP API alone."`
	Sequencer struct {
		Run    sequencerCommand       `cmd:"" default:"withargs" help:"Run the sequencer alone; it also sets up the streams."`
		Status sequencerStatusCommand `cmd:"" help:"Print each partition's owner, lag and checkpoint, and exit."`
	} `cmd:"" help:"Run the sequencer alone, or ask how the sequencers are."`
	Writer struct {
		Run    writerCommand       `cmd:"" default:"withargs" help:"Run the writer into ClickHouse alone; several share the partitions."`
		Status writerStatusCommand `cmd:"" help:"Print each partition's owner, state, lag and losses, and exit."`
	} `cmd:"" help:"Run the writer into ClickHouse alone, or ask how the writers are."`
	Audit  auditCommand `cmd:"" help:"Compare the logs and the rows with one another; exit status 0 if they are right, 1 if they differ, 2 if it could not be told."`
	Bench  benchCommand `cmd:"" help:"Put load on the API, measure it, and check every answer; exit status 1 if something is wrong with one."`
	Tail   tailCommand  `cmd:"" help:"Show messages of a channel or of all, past ones and as they come."`
	Replay struct {
		NDJSON     replayNDJSONCommand     `cmd:"" name:"ndjson" help:"Write messages as JSON, one object a line."`
		NATS       replayNATSCommand       `cmd:"" name:"nats" help:"Publish messages into another stream of the same NATS."`
		ClickHouse replayClickHouseCommand `cmd:"" name:"clickhouse" help:"Insert the messages that a table does not have."`
	} `cmd:"" help:"Read messages again, from the message log or the write-ahead log, into a file, a stream or a table; resumable."`
	DeadLetters deadLettersCommand `cmd:"" name:"deadletters" help:"Look at what could not be processed, try it again, or remove it."`
	Migrate     migrateCommand     `cmd:"" help:"Create the ClickHouse tables, or bring them up to date, and exit."`
	Version     versionCommand     `cmd:"" help:"Print the version and exit."`
}

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments; it gives the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	var c cli
	command, err := config.Parse(args, &c, kong.Description(description), kong.Writers(stdout, stderr), kong.UsageOnError())
	switch {
	case errors.Is(err, config.ErrHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "sendhouse: %s\nTry 'sendhouse --help'.\n", oneLine(err))
		return 2
	}
	log, level, err := telemetry.NewLogger(c.LogConfig, stderr)
	if err == nil {
		ctx, stop := lifecycle.WithSignals(context.Background(), log)
		defer stop()
		err = command.Run(process.New(log, level), &invocation{ctx: ctx, stdout: stdout, stderr: stderr})
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "sendhouse: %s\n", oneLine(err))
		var coder kong.ExitCoder
		if errors.As(err, &coder) {
			return coder.ExitCode()
		}
		return 1
	}
	return 0
}

// oneLine keeps joined errors on one line, where an operator and a log collector
// look for them.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

type invocation struct {
	ctx    context.Context //nolint:containedctx // the life of the process, for kong's Run methods
	stdout io.Writer
	stderr io.Writer
}

// toolFlags are the broker's flags of a command that asks: without a URL, the broker that `up` embeds.
type toolFlags struct{ broker.ClientConfig }

func (f toolFlags) broker() broker.ClientConfig {
	f.URL = cmp.Or(f.URL, "nats://127.0.0.1:4222")
	return f.ClientConfig
}

type upCommand struct {
	DataDir        string      `help:"Folder of the embedded servers' data." default:"./data" placeholder:"PATH"`
	NATSAddr       config.Addr `name:"nats-addr" help:"Where the embedded NATS listens for other clients." default:"127.0.0.1:4222"`
	ClickHouseAddr config.Addr `name:"clickhouse-addr" help:"Where the embedded ClickHouse listens (HTTP interface)." default:"127.0.0.1:8123"`
	broker.ClientConfig
	topology.Deployment
	topology.Options
	ingest.Config
	Sequencer sequencer.Config `embed:""`
	Writer    writer.Config    `embed:""`
	History   history.Config   `embed:""`
	telemetry.AdminConfig
	Trace tracing.Config `embed:""`
}

// Run wires everything in one process:
//
//	              ┌────────────── this process ───────────────┐
//	producers ──▶ │ ingest ──▶ NATS ◀──▶ sequencer            │
//	              │   │         │                             │
//	              │   │         └──────▶ writer ──▶ ClickHouse│ ◀── curl, Grafana
//	              │   └──▶ history ◀───────────────────┘      │
//	              └─ admin ───────────────────────────────────┘
//
// Services start in the order in which they are added and stop in the reverse one:
// ingest first, when every request is answered; the servers last.
func (c *upCommand) Run(p *process.Process, in *invocation) error {
	if c.URL == "" {
		c.PartitionsFirst = topology.PartitionsOfMachine(runtime.GOMAXPROCS(0))
	}
	return p.Serve(in.ctx, c.AdminConfig, c.Trace, "sendhouse", func(ctx context.Context) error {
		if c.Writer.ClickHouseDSN == "" {
			if err := c.Writer.CheckEmbedded(); err != nil {
				return err
			}
			dsn, err := p.StartClickHouse(filepath.Join(c.DataDir, "clickhouse"), c.ClickHouseAddr.String())
			if err != nil {
				return err
			}
			c.Writer.ClickHouseDSN = dsn
		}
		if c.URL == "" {
			if err := p.StartNATS(filepath.Join(c.DataDir, "nats"), c.NATSAddr.String()); err != nil {
				return err
			}
		}
		instance := "" // of a sequencer and a writer beside others
		if c.URL == "" {
			instance = "embedded" // the data folder's lock keeps a second one out
		}
		deployment, err := addSequencer(ctx, p, c.ClientConfig, instance, c.Sequencer, c.Deployment, c.Options)
		if err != nil {
			return err
		}
		if err := addWriter(ctx, p, c.ClientConfig, instance, c.Writer, deployment); err != nil {
			return err
		}
		routes, _, err := addHistory(ctx, p, c.ClientConfig, c.History, c.Writer.Config, deployment)
		if err != nil {
			return err
		}
		return addIngest(ctx, p, c.ClientConfig, c.Config, deployment, routes)
	})
}

type ingestCommand struct {
	broker.ClientConfig
	ingest.Config
	History    history.Config    `embed:""`
	ClickHouse clickhouse.Config `embed:""`
	telemetry.AdminConfig
	Trace tracing.Config `embed:""`
}

func (c *ingestCommand) Run(p *process.Process, in *invocation) error {
	return p.Serve(in.ctx, c.AdminConfig, c.Trace, "sendhouse-ingest", func(ctx context.Context) error {
		routes, deployment, err := addHistory(ctx, p, c.ClientConfig, c.History, c.ClickHouse, topology.Deployment{})
		if err != nil {
			return err
		}
		return addIngest(ctx, p, c.ClientConfig, c.Config, deployment, routes)
	})
}

type sequencerCommand struct {
	broker.ClientConfig
	topology.Deployment
	topology.Options
	sequencer.Config
	telemetry.AdminConfig
	Trace tracing.Config `embed:""`
}

func (c *sequencerCommand) Run(p *process.Process, in *invocation) error {
	return p.Serve(in.ctx, c.AdminConfig, c.Trace, "sendhouse-sequencer", func(ctx context.Context) error {
		_, err := addSequencer(ctx, p, c.ClientConfig, "", c.Config, c.Deployment, c.Options)
		return err
	})
}

// statusFlags are those of a command that prints how the partitions are.
type statusFlags struct {
	broker.ClientConfig
	JSON bool `help:"Print JSON instead of a table."`
}

func printStatus[T any](w io.Writer, asJSON bool, all T, writeTable func(io.Writer, T) error) error {
	if asJSON {
		return json.NewEncoder(w).Encode(all)
	}
	return writeTable(w, all)
}

type sequencerStatusCommand struct{ statusFlags }

func (c *sequencerStatusCommand) Run(p *process.Process, in *invocation) error {
	return p.Ask(in.ctx, c.ClientConfig, func(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) error {
		all, err := sequencer.Status(ctx, js, deployment)
		if err != nil {
			return err
		}
		return printStatus(in.stdout, c.JSON, all, sequencer.WriteStatus)
	})
}

type auditCommand struct {
	toolFlags
	ClickHouse  clickhouse.Config `embed:""`
	AuditMemory config.ByteSize   `help:"Memory for the sequences of channels; where they need more, the message log is read several times." default:"512MiB"`
}

// Run prints the report as JSON, whatever it says. Without a ClickHouse the logs alone are audited.
func (c *auditCommand) Run(p *process.Process, in *invocation) error {
	report := audit.NewReport()
	err := p.Ask(in.ctx, c.broker(), func(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) error {
		sequencer.Audit(ctx, js, deployment, int64(c.AuditMemory), p.Log, report)
		if c.ClickHouse.ClickHouseDSN == "" {
			p.Log.Info("rows are not compared: --clickhouse-dsn is not given")
			return nil
		}
		client, err := clickhouse.Open(c.ClickHouse, p.Log)
		if err != nil {
			return err
		}
		writeraudit.New(js, client, deployment.Partitions, p.Log).Audit(ctx, report)
		return client.Close()
	})
	report.Finish(err)
	return errors.Join(report.Write(in.stdout), report.Err())
}

type tailCommand struct {
	toolFlags
	tail.Config
}

func (c *tailCommand) Run(p *process.Process, in *invocation) error {
	return p.Ask(in.ctx, c.broker(), func(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) error {
		return tail.Run(ctx, c.Config, js, deployment.Partitions, in.stdout)
	})
}

// replayFlags are what all replays have in common.
type replayFlags struct {
	toolFlags
	replay.Config
}

// openSink opens what a replay writes to, and says how to close it.
type openSink func(context.Context, jetstream.JetStream) (sink replay.Sink, closing func() error, err error)

func (f replayFlags) run(p *process.Process, in *invocation, open openSink) error {
	return p.Ask(in.ctx, f.broker(), func(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) error {
		sink, closing, err := open(ctx, js)
		if err != nil {
			return err
		}
		source := replay.NewMessageLog(js)
		if f.Source == replay.FromWAL {
			source = sequencer.NewReplaySource(js, deployment, p.Log)
		}
		_, err = replay.Run(ctx, f.Config, source, deployment.Partitions, sink, in.stderr)
		return errors.Join(err, closing())
	})
}

type replayNDJSONCommand struct {
	replayFlags
	Output string `help:"File to write to; with --state, a replay that was killed goes on there exactly. Default: standard output." placeholder:"PATH"`
}

func (c *replayNDJSONCommand) Run(p *process.Process, in *invocation) error {
	return c.run(p, in, func(context.Context, jetstream.JetStream) (replay.Sink, func() error, error) {
		sink, err := replay.NewNDJSON(in.stdout, c.Output)
		return sink, sink.Close, err
	})
}

type replayNATSCommand struct {
	replayFlags
	Subject string `required:"" help:"Publish what was on messages.<rest> on this subject, a dot and the rest. A stream must take it." placeholder:"PREFIX"`
}

func (c *replayNATSCommand) Run(p *process.Process, in *invocation) error {
	return c.run(p, in, func(ctx context.Context, js jetstream.JetStream) (replay.Sink, func() error, error) {
		sink, err := replay.NewSubject(ctx, js, c.Subject)
		return sink, func() error { return nil }, err
	})
}

type replayClickHouseCommand struct {
	replayFlags
	ClickHouse clickhouse.Config `embed:""`
}

func (c *replayClickHouseCommand) Run(p *process.Process, in *invocation) error {
	return c.run(p, in, func(ctx context.Context, js jetstream.JetStream) (replay.Sink, func() error, error) {
		client, err := clickhouse.Open(c.ClickHouse, p.Log)
		if err != nil {
			return nil, nil, err
		}
		sink, err := writerreplay.New(ctx, js, client, p.Log)
		return sink, client.Close, err
	})
}

type benchCommand struct {
	Load       load.Config       `embed:""`
	ClickHouse clickhouse.Config `embed:""`
	Verify     bool              `help:"Afterwards, compare the rows in ClickHouse with what was answered. Without --clickhouse-dsn: in the one that 'sendhouse up' embeds."`
	JSON       string            `name:"json" help:"Write the report as JSON to this file; - for standard output, in place of the table." placeholder:"PATH"`
}

func (c *benchCommand) Run(p *process.Process, in *invocation) error {
	run, err := load.New(c.Load, c.Verify)
	if err != nil {
		return err
	}
	report, err := run.Do(in.ctx, in.stderr)
	if err != nil {
		return err
	}
	if c.Verify {
		c.ClickHouse.ClickHouseDSN = cmp.Or(c.ClickHouse.ClickHouseDSN, "http://127.0.0.1:8123/sendhouse")
		client, openErr := clickhouse.Open(c.ClickHouse, p.Log)
		if openErr != nil {
			return openErr
		}
		table := load.Table{Conn: client.Conn(), Name: client.MessagesTable()}
		err = errors.Join(run.Verify(context.WithoutCancel(in.ctx), table, report), client.Close())
	}
	return errors.Join(err, report.Write(in.stdout, c.JSON), report.Err())
}

type writerCommand struct {
	broker.ClientConfig
	writer.Config
	telemetry.AdminConfig
	Trace tracing.Config `embed:""`
}

func (c *writerCommand) Run(p *process.Process, in *invocation) error {
	return p.Serve(in.ctx, c.AdminConfig, c.Trace, "sendhouse-writer", func(ctx context.Context) error {
		return addWriter(ctx, p, c.ClientConfig, "", c.Config, topology.Deployment{})
	})
}

type writerStatusCommand struct{ statusFlags }

func (c *writerStatusCommand) Run(p *process.Process, in *invocation) error {
	return p.Ask(in.ctx, c.ClientConfig, func(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) error {
		all, err := writer.Status(ctx, js, deployment.Partitions)
		if err != nil {
			return err
		}
		return printStatus(in.stdout, c.JSON, all, writer.WriteStatus)
	})
}

// deadLettersCommand is about the stream of dead letters, whichever role has put them there; to requeue is to make
// rows of them, so that is the writer's.
type deadLettersCommand struct {
	Ls      deadLettersListCommand    `cmd:"" help:"List dead letters, and how many there are for each reason."`
	Show    deadLettersShowCommand    `cmd:"" help:"Print one dead letter with what it holds."`
	Requeue deadLettersRequeueCommand `cmd:"" help:"Insert what the writer put aside into ClickHouse, each message at its own place and once, and remove the letters that are there."`
	Purge   deadLettersPurgeCommand   `cmd:"" help:"Remove dead letters for good, and with them what they hold."`
}

type deadLettersListCommand struct {
	broker.ClientConfig
	deadletter.ListOptions
}

func (c *deadLettersListCommand) Run(p *process.Process, in *invocation) error {
	return p.AskDeadLetters(in.ctx, c.ClientConfig, func(box *deadletter.Box) error { return deadletter.List(in.ctx, box, c.ListOptions, in.stdout) })
}

type deadLettersShowCommand struct {
	broker.ClientConfig
	deadletter.ShowOptions
}

func (c *deadLettersShowCommand) Run(p *process.Process, in *invocation) error {
	return p.AskDeadLetters(in.ctx, c.ClientConfig, func(box *deadletter.Box) error { return deadletter.Show(in.ctx, box, c.ShowOptions, in.stdout) })
}

type deadLettersPurgeCommand struct {
	broker.ClientConfig
	deadletter.PurgeOptions
}

func (c *deadLettersPurgeCommand) Run(p *process.Process, in *invocation) error {
	return p.AskDeadLetters(in.ctx, c.ClientConfig, func(box *deadletter.Box) error { return deadletter.Purge(in.ctx, box, c.PurgeOptions, in.stdout) })
}

type deadLettersRequeueCommand struct {
	broker.ClientConfig
	writer.RequeueOptions
}

func (c *deadLettersRequeueCommand) Run(p *process.Process, in *invocation) error {
	return p.Ask(in.ctx, c.ClientConfig, func(ctx context.Context, js jetstream.JetStream, _ topology.Deployment) error {
		return writer.Requeue(ctx, c.RequeueOptions, js, p.Log, in.stdout)
	})
}

type migrateCommand struct {
	clickhouse.Config
	clickhouse.MigrateOptions
}

func (c *migrateCommand) Run(p *process.Process, in *invocation) error {
	return clickhouse.RunMigrate(in.ctx, c.Config, c.MigrateOptions, p.Log, in.stdout)
}

type versionCommand struct{}

func (versionCommand) Run(in *invocation) error {
	_, err := fmt.Fprintln(in.stdout, telemetry.ReadBuild())
	return err
}

func addSequencer(ctx context.Context, p *process.Process, flags broker.ClientConfig, instance string, cfg sequencer.Config, asked topology.Deployment, options topology.Options) (topology.Deployment, error) {
	nc, js, err := p.Connect(ctx, flags, "sequencer")
	if err != nil {
		return topology.Deployment{}, err
	}
	deployment, err := broker.EnsureDeployment(ctx, js, asked, options)
	if err != nil {
		return topology.Deployment{}, err
	}
	p.ShowDeployment(deployment)
	service, err := sequencer.New(cfg, sequencer.Deps{NATS: nc, JetStream: js, Deployment: deployment, Replicas: options.Replicas, Instance: instance, Logger: p.Log, Registerer: p.Registry, Tracer: p.Tracing.Tracer("sequencer")})
	if err != nil {
		return topology.Deployment{}, err
	}
	monitor, err := broker.NewMonitor(js, p.Registry, p.Log)
	if err != nil {
		return topology.Deployment{}, err
	}
	p.Group.Add("stream monitor", monitor)
	showSequencer(p, js, deployment)
	p.Readiness.Register("sequencer", service.Check)
	p.Group.Add("sequencer", service)
	return deployment, nil
}

func addWriter(ctx context.Context, p *process.Process, flags broker.ClientConfig, instance string, cfg writer.Config, given topology.Deployment) error {
	_, js, err := p.Connect(ctx, flags, "writer")
	if err != nil {
		return err
	}
	deployment, err := p.Deployment(ctx, js, given)
	if err != nil {
		return err
	}
	service, err := writer.New(cfg, writer.Deps{JetStream: js, Partitions: deployment.Partitions, Instance: instance, Logger: p.Log, Registerer: p.Registry, Tracer: p.Tracing.Tracer("writer")})
	if err != nil {
		return err
	}
	showWriter(p, js, deployment)
	p.Readiness.Register("writer", service.Check)
	p.Group.Add("writer", service)
	return nil
}

// addHistory makes the routes by which clients read. Without a ClickHouse they say that there is none. It gives the deployment too, which
// is found out once in a process.
func addHistory(ctx context.Context, p *process.Process, flags broker.ClientConfig, cfg history.Config, table clickhouse.Config, given topology.Deployment) ([]api.Route, topology.Deployment, error) {
	if table.ClickHouseDSN == "" {
		return history.NotServed(), given, nil
	}
	client, err := clickhouse.Open(table, p.Log)
	if err != nil {
		return nil, given, err
	}
	p.Own("history clickhouse", client.Close)
	nc, js, err := p.Connect(ctx, flags, "history")
	if err != nil {
		return nil, given, err
	}
	deployment, err := p.Deployment(ctx, js, given)
	if err != nil {
		return nil, given, err
	}
	service, err := history.New(cfg, history.Deps{
		ClickHouse: client, NATS: nc, JetStream: js, Partitions: topology.Partitions(deployment.Partitions), Logger: p.Log, Registerer: p.Registry,
	})
	if err != nil {
		return nil, given, err
	}
	return service.Routes(), deployment, nil
}

func addIngest(ctx context.Context, p *process.Process, flags broker.ClientConfig, cfg ingest.Config, given topology.Deployment, routes []api.Route) error {
	nc, js, err := p.Connect(ctx, flags, "ingest")
	if err != nil {
		return err
	}
	deployment, err := p.Deployment(ctx, js, given)
	if err != nil {
		return err
	}
	partitions, err := topology.NewPartitions(deployment.Partitions)
	if err != nil {
		return err
	}
	service, err := ingest.New(cfg, ingest.Deps{NATS: nc, JetStream: js, Partitions: partitions, Logger: p.Log, Registerer: p.Registry, Tracer: p.Tracing.Tracer("ingest"), Routes: routes})
	if err != nil {
		return err
	}
	showIngest(p, cfg, service)
	p.Readiness.Register("ingest", service.Check)
	p.Group.Add("ingest", service)
	return nil
}

// What the front page is told of each role that the process has.

func showIngest(p *process.Process, cfg ingest.Config, service *ingest.Service) {
	p.Console.ShowAPI(console.API{
		Handler: service.Handler(), Addr: cfg.APIAddr.String(), Tokens: cfg.APITokensFile != "", ClientCertificates: cfg.TLSClientCAFile != "",
	})
}

func showSequencer(p *process.Process, js jetstream.JetStream, deployment topology.Deployment) {
	showDeadLetters(p, js)
	p.Console.ShowSequencer(func(ctx context.Context) ([]console.Partition, error) {
		all, err := sequencer.Status(ctx, js, deployment)
		if err != nil {
			return nil, err
		}
		shown := make([]console.Partition, 0, len(all))
		for _, s := range all {
			one := console.Partition{Number: s.Partition, Owner: s.Owner, Epoch: s.Epoch, Lag: s.WALLag, State: "no checkpoint"}
			if s.CheckpointAge > 0 {
				one.State = fmt.Sprintf("checkpoint %s ago", s.CheckpointAge.Round(time.Second))
			}
			shown = append(shown, one)
		}
		return shown, nil
	})
}

func showWriter(p *process.Process, js jetstream.JetStream, deployment topology.Deployment) {
	showDeadLetters(p, js)
	p.Console.ShowWriter(func(ctx context.Context) ([]console.Partition, error) {
		all, err := writer.Status(ctx, js, deployment.Partitions)
		if err != nil {
			return nil, err
		}
		shown := make([]console.Partition, 0, len(all))
		for _, s := range all {
			shown = append(shown, console.Partition{Number: s.Partition, Owner: s.Owner, Epoch: s.Epoch, Lag: s.Lag, State: s.State, Problem: s.Problem})
		}
		return shown, nil
	})
}

func showDeadLetters(p *process.Process, js jetstream.JetStream) {
	p.Console.ShowDeadLetters(func(ctx context.Context) ([]deadletter.Pile, error) {
		box, err := deadletter.Open(ctx, js)
		if err != nil {
			return nil, err
		}
		return box.Piles(ctx)
	})
}
