package process

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/frontpage"
	"github.com/sendhouse/sendhouse/pkg/guard"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/telemetry"
	"github.com/sendhouse/sendhouse/pkg/tracing"
)

// Process is what a process has beside its roles, and who its roles belong to. The exported fields are for those who
// build roles; all are set by New but FrontPage, Tracing and Hosts, which Serve sets before it calls build.
type Process struct {
	Log       *slog.Logger
	Registry  *prometheus.Registry
	Readiness *lifecycle.Readiness
	Group     *lifecycle.Group
	FrontPage *frontpage.Page
	Tracing   *tracing.Provider // nil: nothing is traced
	Hosts     guard.Hosts       // for each listener

	files    fileLimit // set by Serve
	level    *slog.LevelVar
	recent   *telemetry.Recent
	opened   []func() error // closes what was opened so far, should the services not come to it
	embedded *broker.Embedded
}

// New makes a process that logs to log, whose level is level.
func New(log *slog.Logger, level *slog.LevelVar) *Process {
	registry := telemetry.NewRegistry(telemetry.ReadBuild())
	log, recent := telemetry.KeepLines(telemetry.CountLines(log, registry))
	return &Process{
		Log: log, level: level, recent: recent, Registry: registry,
		Readiness: new(lifecycle.Readiness),
		Group:     lifecycle.NewGroup(lifecycle.GroupConfig{Logger: log}),
	}
}

// Serve starts with the admin listener, builds the other services, and runs all of them until ctx
// ends. Name is that of the process in traces.
func (p *Process) Serve(ctx context.Context, adminConfig telemetry.AdminConfig, traceConfig tracing.Config, name string, build func(context.Context) error) (err error) {
	p.Hosts = adminConfig.Hosts
	p.files, err = readFileLimit()
	if err != nil {
		return err
	}
	p.FrontPage, err = frontpage.New(frontpage.Deps{
		Logger: p.Log, Registry: p.Registry, Readiness: p.Readiness, Recent: p.recent, Build: telemetry.ReadBuild(),
	})
	if err != nil {
		return err
	}
	admin, err := telemetry.NewAdmin(adminConfig, telemetry.AdminDeps{Logger: p.Log, Level: p.level, Registry: p.Registry, Readiness: p.Readiness, Front: p.FrontPage, ConnectionsMax: p.connections("the admin listener", shareAdmin, adminConnectionsMax)})
	if err != nil {
		return err
	}
	p.Readiness.Register("process", p.Group.Check)
	p.Group.Add("admin", admin)
	// What was opened before its service was started, or never got one, is closed here.
	defer func() { err = errors.Join(err, p.closeOpened()) }()
	p.Tracing, err = tracing.New(ctx, traceConfig, tracing.Deps{Service: name, Version: telemetry.ReadBuild().Version, Logger: p.Log, Registerer: p.Registry})
	if err != nil {
		return err
	}
	p.Own("tracing", p.Tracing.Close)
	if err := build(ctx); err != nil {
		return err
	}
	p.Group.Add("start", lifecycle.Func(func(ctx context.Context) error {
		p.Log.Info("sendhouse is up", "version", telemetry.ReadBuild().Version)
		<-ctx.Done()
		return nil
	}))
	return p.Group.Run(ctx)
}

// opens remembers how to close something that is open already. The returned function does it the first time
// it is called, and later calls do not wait for the first: it may hang.
func (p *Process) opens(closing func() error) func() error {
	var closed atomic.Bool
	first := func() error {
		if closed.Swap(true) {
			return nil
		}
		return closing()
	}
	p.opened = append(p.opened, first)
	return first
}

func (p *Process) closeOpened() (err error) {
	for i := len(p.opened) - 1; i >= 0; i-- {
		err = errors.Join(err, p.opened[i]())
	}
	return err
}

// Own makes something that is open already a service: it is closed in its turn.
func (p *Process) Own(name string, closing func() error) {
	closing = p.opens(closing)
	p.Group.Add(name, lifecycle.Func(func(ctx context.Context) error {
		<-ctx.Done()
		return closing()
	}))
}
