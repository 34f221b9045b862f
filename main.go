// Sendhouse is a durable, ordered, exactly-once ingestion pipeline: messages come
// in over HTTP, get an ID and a gap-free sequence number in their channel, and
// end up as rows in ClickHouse. `sendhouse up` runs all of it in one process; the
// commands ingest, sequencer and writer run its roles apart.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/ingest"
	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/audit"
	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/engine"
	"github.com/sendhouse/sendhouse/pkg/frontpage"
	"github.com/sendhouse/sendhouse/pkg/guard"
	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/load"
	"github.com/sendhouse/sendhouse/pkg/process"
	"github.com/sendhouse/sendhouse/pkg/repair"
	"github.com/sendhouse/sendhouse/pkg/replay"
	"github.com/sendhouse/sendhouse/pkg/tail"
	"github.com/sendhouse/sendhouse/pkg/telemetry"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/pkg/tracing"
	"github.com/sendhouse/sendhouse/sequencer"
	sequenceraudit "github.com/sendhouse/sendhouse/sequencer/audit"
	sequencerrepair "github.com/sendhouse/sendhouse/sequencer/repair"
	sequencerreplay "github.com/sendhouse/sendhouse/sequencer/replay"
	"github.com/sendhouse/sendhouse/writer"
	writeraudit "github.com/sendhouse/sendhouse/writer/audit"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
	"github.com/sendhouse/sendhouse/writer/history"
	writerreplay "github.com/sendhouse/sendhouse/writer/replay"
)

const description = `A durable, ordered, exactly-once ingestion pipeline: POST /message/send in, ClickHouse rows out.

Every setting is a flag, a variable of the environment (SENDHOUSE_ and the flag's name in capitals, with underscores) or a key of the YAML file given by --config; the first of these that is set counts. An empty variable is not set, and numbers are decimal.`

// cli is the command line.
type cli struct {
	Config config.File `help:"Read settings from this YAML file; its keys are the names of the flags." placeholder:"PATH"`
	telemetry.LogConfig

	Up        upCommand     `cmd:"" help:"Run everything in one process, with NATS and ClickHouse inside unless URLs are given."`
	Ingest    ingestCommand `cmd:"" help:"Run the HTTP API alone."`
	Sequencer struct {
		Run    sequencerCommand        `cmd:"" default:"withargs" help:"Run the sequencer alone; it also sets up the streams."`
		Status sequencer.StatusCommand `cmd:"" help:"Print each partition's owner, lag and checkpoint, and exit."`
	} `cmd:"" help:"Run the sequencer alone, or ask how the sequencers are."`
	Writer struct {
		Run    writerCommand        `cmd:"" default:"withargs" help:"Run the writer into ClickHouse alone; several share the partitions."`
		Status writer.StatusCommand `cmd:"" help:"Print each partition's owner, state, lag and losses, and exit."`
	} `cmd:"" help:"Run the writer into ClickHouse alone, or ask how the writers are."`
	Audit  auditCommand `cmd:"" help:"Compare the logs and the rows with one another; exit status 0 if they are right, 1 if they differ, 2 if that could not be determined."`
	Bench  benchCommand `cmd:"" help:"Put load on the API, measure it, and check every answer; exit status 1 if something is wrong with one."`
	Tail   tail.Command `cmd:"" help:"Show messages of a channel or of all, past ones and as they come."`
	Replay struct {
		NDJSON     replay.NDJSONCommand `cmd:"" name:"ndjson" help:"Write messages as JSON, one object a line."`
		NATS       replay.NATSCommand   `cmd:"" name:"nats" help:"Publish messages into another stream of the same NATS."`
		ClickHouse writerreplay.Command `cmd:"" name:"clickhouse" help:"Insert the messages that a table does not have."`
	} `cmd:"" help:"Read messages again, from the message log or the write-ahead log, into a file, a stream or a table; resumable."`
	DeadLetters struct {
		Ls      deadletter.ListCommand  `cmd:"" help:"List dead letters, and how many there are for each reason."`
		Show    deadletter.ShowCommand  `cmd:"" help:"Print one dead letter with what it holds."`
		Requeue writer.RequeueCommand   `cmd:"" help:"Insert what the writer put aside into ClickHouse, each message at its own place and once, and remove the letters that are there."`
		Purge   deadletter.PurgeCommand `cmd:"" help:"Remove dead letters for good, and with them what they hold."`
	} `cmd:"" name:"deadletters" help:"Look at what could not be processed, try it again, or remove it."`
	Repair struct {
		Deployment  repair.DeploymentCommand          `cmd:"" help:"Write the record of the deployment again, from what its streams say."`
		MessageLog  sequencerrepair.MessageLogCommand `cmd:"" help:"Derive a partition's message log again, from its first wrong record on."`
		WAL         sequencerrepair.WALCommand        `cmd:"" name:"wal" help:"Continue a partition whose write-ahead log has lost records that were answered, from what the message log has of them."`
		Permissions permission.RepairCommand          `cmd:"" help:"Make the bucket of permissions again with the records that can be read."`
		Positions   writer.RepairPositionsCommand     `cmd:"" help:"Make the writers' positions again that are missing, from the rows of the table."`
		Table       writer.RepairTableCommand         `cmd:"" help:"Make missing tables and views, and record that the table is the one that the deployment writes into."`
	} `cmd:"" help:"Mend what a refusal or an alert has named. Each repair says what it would do and does it with --yes; it may be run again."`
	Migrate migrateCommand `cmd:"" help:"Create the ClickHouse tables, or bring them up to date, and exit."`
	Version versionCommand `cmd:"" help:"Print the version and exit."`
}

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 && args[0] == engine.Command {
		return runEngine(stderr)
	}
	var c cli
	empty := config.EmptyVariables()
	chosen, err := config.Parse(args, &c, kong.Description(description), kong.Writers(stdout, stderr), kong.UsageOnError())
	if errors.Is(err, config.ErrHelp) {
		return 0
	}
	log, level, logErr := telemetry.NewLogger(c.LogConfig, stderr)
	if log != nil && chosen != nil {
		for _, found := range config.ExposedCredentials(chosen) {
			log.Warn("credentials on the command line can be read by every user of the machine: give them by a variable or in the configuration file",
				"flag", found.Flag, "variable", strings.Join(found.Envs, ","))
		}
	}
	status := 2
	if err = cmp.Or(err, logErr); err == nil {
		status = 1
		ctx, stop := lifecycle.WithSignals(context.Background(), log)
		defer stop()
		for _, name := range empty {
			log.Debug("empty environment variable counts as absent", "variable", name)
		}
		p := process.New(log, level)
		err = chosen.Run(p, &command.Invocation{Ctx: ctx, Stdout: stdout, Stderr: stderr, Log: p.Log, Ask: p.Ask, AskNATS: p.AskNATS, OpenNATS: p.OpenNATS}, replay.OpenWAL(sequencerreplay.NewSource))
	}
	var coder kong.ExitCoder
	switch {
	case err == nil:
		return 0
	case log != nil && c.LogFormat == telemetry.LogJSON:
		log.Error("sendhouse ended", "error", oneLine(err))
	default:
		_, _ = fmt.Fprintf(stderr, "sendhouse: %s\n", oneLine(err))
		if status == 2 {
			_, _ = fmt.Fprintln(stderr, "Try 'sendhouse --help'.")
		}
	}
	if status == 1 && errors.As(err, &coder) {
		return coder.ExitCode()
	}
	return status
}

// runEngine is the process of the embedded ClickHouse, which `up` starts. It has no flags, so it does without the parser's memory.
func runEngine(stderr io.Writer) int {
	if err := engine.Serve(); err != nil {
		_, _ = fmt.Fprintf(stderr, "sendhouse: %s\n", oneLine(err))
		return 1
	}
	return 0
}

// oneLine keeps joined errors on one line, where an operator and a log collector
// look for them, and credentials out of it.
func oneLine(err error) string { return config.RedactText(strings.ReplaceAll(err.Error(), "\n", "; ")) }

type upCommand struct {
	NATSAddr       config.Addr `name:"nats-addr" help:"Where the embedded NATS listens for other clients. Without credentials they may read the message log; the file nats/operator.nk of the data folder is the key to everything." default:"127.0.0.1:4222"`
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

// Check implements config.Checker.
func (c *upCommand) Check() error {
	errs := []error{
		c.ClientConfig.Check(), c.Options.CheckAsked(c.Deployment), c.Config.Check(c.Hosts), c.Sequencer.Check(), c.Writer.Check(), c.History.Check(),
		c.AdminConfig.Check(), c.Trace.Check(),
	}
	if c.URL == "" && !guard.IsLoopback(c.NATSAddr.String()) && !c.Access.Insecure { // any client that reaches it may read the message log
		errs = append(errs, fmt.Errorf("--nats-addr %s: others can reach this address, and would need no credentials to read all messages: listen on 127.0.0.1, say --insecure, or run a NATS of your own (--nats-url)", c.NATSAddr))
	}
	return errors.Join(errs...)
}

// Run wires everything in one process:
//
//	              ┌────────────── this process ───┐
//	producers ──▶ │ ingest ──▶ NATS ◀──▶ sequencer│
//	              │   │         │                 │    its child
//	              │   │         └──────▶ writer ──┼─▶ ClickHouse ◀── curl, Grafana
//	              │   └──▶ history ◀──────────────┼────────┘
//	              └─ admin ───────────────────────┘
//
// Services start in the order in which they are added and stop in the reverse one:
// ingest first, when every request is answered; the servers last.
func (c *upCommand) Run(p *process.Process, in *command.Invocation) error {
	if c.URL == "" {
		c.PartitionsFirst = topology.PartitionsOfMachine(runtime.GOMAXPROCS(0))
		c.MessagesAsync = true
	}
	err := p.Serve(in.Ctx, c.AdminConfig, c.Trace, "sendhouse", func(ctx context.Context) error {
		if c.Writer.ClickHouseDSN == "" {
			dsn, dial, err := p.StartClickHouse(c.DataDir, c.ClickHouseAddr.String())
			if err != nil {
				return err
			}
			c.Writer.ClickHouseDSN, c.Writer.ClickHouseDial = dsn, dial
		}
		if c.URL == "" {
			if err := p.StartNATS(c.DataDir, c.NATSAddr.String()); err != nil {
				return err
			}
		}
		instance := "" // of a sequencer and a writer beside others
		if c.URL == "" {
			instance = "embedded" // the data folder's lock keeps a second one out
		}
		table, err := clickhouse.Open(c.Writer.Config, p.Log)
		if err != nil {
			return err
		}
		p.Own("start-up clickhouse", table.Close)
		deployment, err := addSequencer(ctx, p, c.ClientConfig, instance, c.Sequencer, c.Deployment, c.Options, table)
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
	if err != nil && c.URL == "" {
		return process.RefusedStart(err, c.DataDir)
	}
	return err
}

type ingestCommand struct {
	broker.ClientConfig
	ingest.Config
	History    history.Config    `embed:""`
	ClickHouse clickhouse.Config `embed:""`
	telemetry.AdminConfig
	Trace tracing.Config `embed:""`
}

// Check implements config.Checker.
func (c *ingestCommand) Check() error {
	return errors.Join(c.ClientConfig.CheckGiven(), c.Config.Check(c.Hosts), c.History.Check(), c.ClickHouse.Check(), c.AdminConfig.Check(), c.Trace.Check())
}

func (c *ingestCommand) Run(p *process.Process, in *command.Invocation) error {
	return p.Serve(in.Ctx, c.AdminConfig, c.Trace, "sendhouse-ingest", func(ctx context.Context) error {
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

// Check implements config.Checker.
func (c *sequencerCommand) Check() error {
	return errors.Join(c.ClientConfig.CheckGiven(), c.Options.CheckAsked(c.Deployment), c.Config.Check(), c.AdminConfig.Check(), c.Trace.Check())
}

func (c *sequencerCommand) Run(p *process.Process, in *command.Invocation) error {
	return p.Serve(in.Ctx, c.AdminConfig, c.Trace, "sendhouse-sequencer", func(ctx context.Context) error {
		_, err := addSequencer(ctx, p, c.ClientConfig, "", c.Config, c.Deployment, c.Options, nil)
		return err
	})
}

type auditCommand struct {
	command.Broker
	ClickHouse  clickhouse.Config `embed:""`
	AuditMemory config.ByteSize   `help:"Memory for the sequences of channels; if they need more, the message log is read several times." default:"512MiB"`
}

// Check implements config.Checker.
func (c *auditCommand) Check() error { return errors.Join(c.Broker.Check(), c.ClickHouse.Check()) }

// Run prints the report as JSON, whatever it says. Without a ClickHouse the logs alone are audited.
func (c *auditCommand) Run(p *process.Process, in *command.Invocation) error {
	report := audit.NewReport()
	err := p.Ask(in.Ctx, c.OrLocal(), command.Operator, func(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) error {
		sequenceraudit.Audit(ctx, js, deployment, int64(c.AuditMemory), p.Log, report)
		if c.ClickHouse.ClickHouseDSN == "" {
			rows := &audit.Part{Check: writeraudit.CheckRows, Partition: audit.AllPartitions}
			rows.Omit("the rows: --clickhouse-dsn is not given")
			report.Add(p.Log, rows, nil)
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
	return errors.Join(report.Write(in.Stdout), report.Err())
}

type benchCommand struct {
	Load       load.Config       `embed:""`
	ClickHouse clickhouse.Config `embed:""`
	Verify     bool              `help:"Afterwards, compare the rows in ClickHouse with what was answered. Without --clickhouse-dsn: in the one that 'sendhouse up' embeds."`
	Patience   time.Duration     `name:"verify-patience" help:"How long no row may arrive, with some missing, before they count as missing." default:"30s"`
	JSON       string            `name:"json" help:"Write the report as JSON to this file; - for standard output, in place of the table." placeholder:"PATH"`
}

// Check implements config.Checker.
func (c *benchCommand) Check() error {
	errs := []error{c.Load.Check()}
	if c.Verify {
		errs = append(errs, c.clickHouse().CheckGiven())
	} else {
		errs = append(errs, c.ClickHouse.Check())
	}
	if c.Patience <= 0 {
		errs = append(errs, fmt.Errorf("--verify-patience %s: must be above 0", c.Patience))
	}
	return errors.Join(errs...)
}

// clickHouse is the one to verify in.
func (c *benchCommand) clickHouse() clickhouse.Config {
	cfg := c.ClickHouse
	cfg.ClickHouseDSN = cmp.Or(cfg.ClickHouseDSN, "http://127.0.0.1:8123/sendhouse")
	return cfg
}

func (c *benchCommand) Run(p *process.Process, in *command.Invocation) error {
	run, err := load.New(c.Load, c.Verify)
	if err != nil {
		return err
	}
	report, err := run.Do(in.Ctx, in.Stderr)
	if err != nil {
		return err
	}
	if c.Verify {
		client, openErr := clickhouse.Open(c.clickHouse(), p.Log)
		if openErr != nil {
			return openErr
		}
		table := load.Table{Conn: client.Conn(), Name: client.MessagesTable(), Patience: c.Patience}
		err = errors.Join(run.Verify(context.WithoutCancel(in.Ctx), table, report), client.Close())
	}
	return errors.Join(err, report.Write(in.Stdout, c.JSON), report.Err())
}

type writerCommand struct {
	broker.ClientConfig
	writer.Config
	telemetry.AdminConfig
	Trace tracing.Config `embed:""`
}

// Check implements config.Checker.
func (c *writerCommand) Check() error {
	return errors.Join(c.ClientConfig.CheckGiven(), c.Config.CheckGiven(), c.Config.Check(), c.AdminConfig.Check(), c.Trace.Check())
}

func (c *writerCommand) Run(p *process.Process, in *command.Invocation) error {
	return p.Serve(in.Ctx, c.AdminConfig, c.Trace, "sendhouse-writer", func(ctx context.Context) error {
		return addWriter(ctx, p, c.ClientConfig, "", c.Config, topology.Deployment{})
	})
}

type migrateCommand struct {
	clickhouse.Config
	clickhouse.MigrateOptions
}

// Check implements config.Checker.
func (c *migrateCommand) Check() error {
	if !c.All {
		return c.CheckGiven()
	}
	if !c.DryRun {
		return errors.Join(c.Config.Check(), errors.New("--all: requires --dry-run"))
	}
	return c.Config.Check()
}

func (c *migrateCommand) Run(p *process.Process, in *command.Invocation) error {
	return clickhouse.RunMigrate(in.Ctx, c.Config, c.MigrateOptions, p.Log, in.Stdout)
}

type versionCommand struct{}

func (versionCommand) Run(in *command.Invocation) error {
	_, err := fmt.Fprintln(in.Stdout, telemetry.ReadBuild())
	return err
}

// addSequencer sets the deployment up and adds its sequencer. If one process has all roles, table is what they write into, and a partition
// is not served if the table has rows that are ahead of its log.
func addSequencer(ctx context.Context, p *process.Process, flags broker.ClientConfig, instance string, cfg sequencer.Config, asked topology.Deployment, options topology.Options, table *clickhouse.Client) (topology.Deployment, error) {
	nc, js, err := p.Connect(ctx, flags, "sequencer")
	if err != nil {
		return topology.Deployment{}, err
	}
	answers, _, err := p.ConnectAs(ctx, flags, "sequencer", "sequencer-answers")
	if err != nil {
		return topology.Deployment{}, err
	}
	setup := broker.Setup{JetStream: js, Asked: asked, Options: options, Logger: p.Log}
	var admit func(context.Context, int) error
	if table != nil {
		setup.BeforeFirst = func(ctx context.Context) error { return writer.NotFirst(ctx, table) }
		admit = writer.Admit(js, table, p.Log)
	}
	deployment, err := setup.Ensure(ctx)
	if err != nil {
		return topology.Deployment{}, err
	}
	p.ShowDeployment(deployment)
	service, err := sequencer.New(cfg, sequencer.Deps{NATS: nc, Answers: answers, JetStream: js, Deployment: deployment, Replicas: options.Replicas, Instance: instance, Logger: p.Log, Registerer: p.Registry, Tracer: p.Tracing.Tracer("sequencer"), Admit: admit})
	if err != nil {
		return topology.Deployment{}, err
	}
	wanted, err := options.StreamConfigs(deployment)
	if err != nil {
		return topology.Deployment{}, err
	}
	monitor, err := broker.NewMonitor(js, append(wanted, lease.Streams(options.Replicas, deployment.Metadata())...), p.Registry, p.Log)
	if err != nil {
		return topology.Deployment{}, err
	}
	p.Group.Add("stream monitor", monitor)
	p.FrontPage.ShowSequencer(func(ctx context.Context) ([]frontpage.Partition, error) { return sequencer.Shown(ctx, js, deployment) })
	showDeadLetters(p, js)
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
	service, err := writer.New(cfg, writer.Deps{JetStream: js, Partitions: deployment.Partitions, Deployment: deployment, Instance: instance, Logger: p.Log, Registerer: p.Registry, Tracer: p.Tracing.Tracer("writer")})
	if err != nil {
		return err
	}
	p.FrontPage.ShowWriter(func(ctx context.Context) ([]frontpage.Partition, error) { return writer.Shown(ctx, js, deployment) })
	showDeadLetters(p, js)
	p.Readiness.Register("writer", service.Check)
	// As a Func it is not waited for: ingest starts whatever ClickHouse's state is.
	p.Group.Add("writer", lifecycle.Func(service.Run))
	return nil
}

// addHistory makes the routes by which clients read. Without a ClickHouse they answer that there is none. It returns the deployment too, which
// a process looks up once.
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
	p.Own("history", service.Close)
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
	cfg.ConnectionsMax = p.APIConnections(cfg.ConnectionsMax)
	service, err := ingest.New(cfg, ingest.Deps{NATS: nc, JetStream: js, Partitions: partitions, Logger: p.Log, Registerer: p.Registry, Tracer: p.Tracing.Tracer("ingest"), Routes: routes, Hosts: p.Hosts})
	if err != nil {
		return err
	}
	p.FrontPage.ShowAPI(frontpage.API{
		Handler: service.Handler(), Tokens: cfg.Access.APITokensFile != "", ClientCertificates: cfg.Access.TLSClientCAFile != "",
	})
	p.Readiness.Register("ingest", service.Check)
	p.Group.Add("ingest", service)
	return nil
}

// showDeadLetters tells the front page, of whichever role comes first: they are the deployment's.
func showDeadLetters(p *process.Process, js jetstream.JetStream) {
	p.FrontPage.ShowDeadLetters(func(ctx context.Context) ([]deadletter.Group, error) { return deadletter.Groups(ctx, js) })
}
