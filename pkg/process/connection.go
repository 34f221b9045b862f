package process

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// drainTimeout bounds how long a connection may take to hand over what it has.
const drainTimeout = 5 * time.Second

// Connect opens a role's own connection to NATS.
func (p *Process) Connect(ctx context.Context, flags broker.ClientConfig, role string) (*nats.Conn, jetstream.JetStream, error) {
	return p.ConnectAs(ctx, flags, role, role)
}

// ConnectAs opens one more connection of a role, with a name of its own in logs and metrics. It receives replies below the same inbox prefix as the role's
// other connections, so it needs no further permission of NATS.
func (p *Process) ConnectAs(ctx context.Context, flags broker.ClientConfig, role, name string) (*nats.Conn, jetstream.JetStream, error) {
	nc, js, err := p.dial(ctx, flags, role, name)
	if err != nil {
		return nil, nil, err
	}
	p.Own(name+" connection", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		return broker.Drained(ctx, nc)
	})
	connection := broker.Watch(nc)
	p.Registry.MustRegister(broker.ConnectionCollector(name, connection))
	p.Readiness.Register(name+" nats", func() error {
		if !connection.Connected() {
			return errors.New("not connected to NATS, reconnecting")
		}
		return nil
	})
	return nc, js, nil
}

// dial connects to the embedded server or to the one that the flags name. For a server on this machine without credentials it first tries
// the key of an embedded server that is in the data folder.
func (p *Process) dial(ctx context.Context, flags broker.ClientConfig, role, name string) (*nats.Conn, jetstream.JetStream, error) {
	if p.embedded == nil && flags.URL == "" {
		return nil, nil, errors.New("--nats-url is missing (for example nats://localhost:4222)")
	}
	if p.embedded == nil {
		if keyed, found := flags.WithOperator(); found {
			nc, js, err := p.dialWith(ctx, keyed, role, name)
			if !broker.RefusesKey(err) {
				return nc, js, err
			}
		}
	}
	return p.dialWith(ctx, flags, role, name)
}

func (p *Process) dialWith(ctx context.Context, flags broker.ClientConfig, role, name string) (*nats.Conn, jetstream.JetStream, error) {
	options, err := flags.Options(role)
	if err != nil {
		return nil, nil, err
	}
	cfg := broker.Config{URL: flags.URL, Name: "sendhouse-" + name, Options: options, Logger: p.Log}
	if role != string(command.Reader) {
		cfg.Check = flags.CheckWrites
	}
	if p.embedded != nil {
		cfg.Check = nil
		cfg.URL, cfg.Options = p.embedded.URL(), append(cfg.Options, p.embedded.InProcess())
	}
	return broker.Connect(ctx, cfg)
}

// Ask connects for one question.
func (p *Process) Ask(ctx context.Context, flags broker.ClientConfig, who command.Asker, question command.Question) error {
	return p.AskNATS(ctx, flags, who, func(ctx context.Context, js jetstream.JetStream) error {
		deployment, err := p.Deployment(ctx, js, topology.Deployment{})
		if err != nil {
			return err
		}
		return question(ctx, js, deployment)
	})
}

// AskNATS is Ask without a deployment, whose record may be lost.
func (p *Process) AskNATS(ctx context.Context, flags broker.ClientConfig, who command.Asker, question func(context.Context, jetstream.JetStream) error) error {
	_, js, err := p.Connect(ctx, flags, string(who))
	if err != nil {
		return err
	}
	defer func() { _ = p.opened[len(p.opened)-1]() }() // nothing was written
	return question(ctx, js)
}

// awaitTimeout is how long a role that does not set the deployment up waits for
// one that does.
const awaitTimeout = 7 * time.Second

// Deployment returns the given one or, if a role runs apart, the recorded one.
func (p *Process) Deployment(ctx context.Context, js jetstream.JetStream, given topology.Deployment) (topology.Deployment, error) {
	if given != (topology.Deployment{}) {
		return given, nil
	}
	ctx, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	deployment, err := broker.AwaitDeployment(ctx, js, topology.Deployment{})
	if err == nil {
		p.ShowDeployment(deployment)
	}
	return deployment, err
}

// ShowDeployment shows how many partitions there are to be served, so that an alert can compare it with how many are served. It
// is called once.
func (p *Process) ShowDeployment(deployment topology.Deployment) {
	p.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sendhouse_deployment_partitions", Help: "Partitions of the deployment.",
	}, func() float64 { return float64(deployment.Partitions) }))
}
