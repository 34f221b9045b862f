package writer

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// leaseRole is the role's name in its lease bucket.
const leaseRole = "writer"

// holding is a partition that this instance may write.
type holding struct {
	partition int
	epoch     uint64 // grows with each change of ownership
	// good reports whether this instance certainly owns the partition now.
	good func() bool
}

// holdFunc writes a partition until ctx ends; its cause is the reason.
type holdFunc func(ctx context.Context, h holding)

// shareByLease shares the partitions with the other writers of the deployment by leases.
func (s *Service) shareByLease(ctx context.Context, hold holdFunc) error {
	kv, err := s.leaseBucket(ctx)
	if err != nil {
		return err
	}
	instance := s.deps.Instance
	if instance == "" {
		instance = s.name
	}
	balancer, err := lease.New(kv, lease.Config{
		Role: leaseRole, Instance: instance, Partitions: s.deps.Partitions, TTL: s.cfg.WriterLeaseTTL,
		Logger: s.log, Status: s.leaseStatus,
	}, func(ctx context.Context, l *lease.Lease) error {
		hold(ctx, holding{partition: l.Partition, epoch: l.Epoch, good: l.Good})
		return nil
	})
	if err != nil {
		return err //nolint:wrapcheck // says that it is of the leases
	}
	joining, joined := context.WithCancel(ctx)
	waited := make(chan struct{})
	go func() { // ends with Run at the latest
		defer close(waited)
		select {
		case <-balancer.Joined():
			s.joined()
		case <-joining.Done():
		}
	}()
	err = balancer.Run(ctx)
	joined()
	<-waited
	return err //nolint:wrapcheck // says that it is of the leases
}

// leaseBucket opens the bucket of the writers' leases. It has as many replicas as the bucket of the positions, which was
// created when the deployment was set up.
func (s *Service) leaseBucket(ctx context.Context) (jetstream.KeyValue, error) {
	once, cancel := context.WithTimeout(ctx, bucketWait)
	defer cancel()
	stream, err := s.deps.JetStream.Stream(once, "KV_"+topology.WriterBucket)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w", topology.WriterBucket, err)
	}
	return lease.OpenBucket(ctx, s.deps.JetStream, topology.WriterLeaseBucket, stream.CachedInfo().Config.Replicas, s.deps.Deployment.Metadata())
}

// problemBytesMax limits the problem text in a lease.
const problemBytesMax = 500

// leaseStatusValue is the status that the owner of a partition publishes in its lease.
type leaseStatusValue struct {
	State   state  `json:"state"`
	Problem string `json:"problem,omitempty"`
}

func (s *Service) leaseStatus(partition int) json.RawMessage {
	s.mu.Lock()
	r := s.runners[partition]
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	now := r.status.Load()
	value := leaseStatusValue{State: now.state}
	if now.problem != nil {
		value.Problem = now.problem.Error()
		value.Problem = value.Problem[:min(len(value.Problem), problemBytesMax)]
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return nil // two strings
	}
	return encoded
}
