package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/ingest"
	"github.com/sendhouse/sendhouse/pkg/console"
	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer"
	"github.com/sendhouse/sendhouse/writer"
)

// What the front page is told of each role that the process has.

func (p *process) showIngest(cfg ingest.Config, service *ingest.Service) {
	p.console.ShowAPI(console.API{
		Handler: service.Handler(), Addr: cfg.APIAddr.String(), Tokens: cfg.APITokensFile != "", ClientCertificates: cfg.TLSClientCAFile != "",
	})
}

func (p *process) showSequencer(js jetstream.JetStream, deployment topology.Deployment) {
	p.showDeadLetters(js)
	p.console.ShowSequencer(func(ctx context.Context) ([]console.Partition, error) {
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

func (p *process) showWriter(js jetstream.JetStream, deployment topology.Deployment) {
	p.showDeadLetters(js)
	p.console.ShowWriter(func(ctx context.Context) ([]console.Partition, error) {
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

func (p *process) showDeadLetters(js jetstream.JetStream) {
	p.console.ShowDeadLetters(func(ctx context.Context) ([]deadletter.Pile, error) {
		box, err := deadletter.Open(ctx, js)
		if err != nil {
			return nil, err
		}
		return box.Piles(ctx)
	})
}
