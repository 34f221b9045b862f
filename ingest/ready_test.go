package ingest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lease"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// What is known of a partition, and what follows from it.
func TestUnready(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	owned := func(c lease.Condition, age time.Duration) *owner {
		return &owner{Owner: lease.Owner{Condition: c, Instance: "a", TTL: 6 * time.Second}, at: ago(age)}
	}
	for name, c := range map[string]struct {
		owner       *owner
		answered    time.Duration // ago; 0: never
		failed      time.Duration
		became      outcome
		gathering   time.Duration
		probe       probe
		want        string // "": ready
		wantOutcome outcome
	}{
		"owned":                         {owner: owned(lease.Condition{}, time.Second)},
		"no lease was seen":             {want: "no sequencer has a lease", wantOutcome: outcomeNoAnswer},
		"between two owners":            {owner: &owner{at: ago(time.Second)}},
		"given back":                    {owner: &owner{at: ago(3 * time.Second)}, want: "no sequencer has owned it for 3s", wantOutcome: outcomeNoAnswer},
		"not renewed":                   {owner: owned(lease.Condition{}, 4600*time.Millisecond), want: "a has not renewed its lease for 4.6s", wantOutcome: outcomeNoAnswer},
		"not renewed, but it answers":   {owner: owned(lease.Condition{}, 5*time.Second), answered: time.Second},
		"refused":                       {owner: owned(lease.Condition{Refused: true, Problem: "record 2 is damaged"}, 0), answered: time.Second, want: "record 2 is damaged", wantOutcome: outcomePartitionRefused},
		"a problem":                     {owner: owned(lease.Condition{Problem: "no space left"}, 0), want: "a: no space left", wantOutcome: outcomeNoAnswer},
		"a problem, but it answers":     {owner: owned(lease.Condition{Problem: "passing"}, 0), answered: time.Second},
		"behind":                        {owner: owned(lease.Condition{Behind: true}, 0), want: "to the end", wantOutcome: outcomeNoAnswer},
		"the last send failed":          {owner: owned(lease.Condition{}, 0), answered: 2 * time.Second, failed: time.Second, became: outcomeWALFull, want: "wal_full", wantOutcome: outcomeWALFull},
		"answered since":                {owner: owned(lease.Condition{}, 0), answered: time.Second, failed: 2 * time.Second, became: outcomeWALFull},
		"failed long ago":               {owner: owned(lease.Condition{}, 0), failed: 5 * time.Second, became: outcomeWALFull},
		"a send waits":                  {owner: owned(lease.Condition{}, 0), gathering: 4500 * time.Millisecond, want: "a send has waited", wantOutcome: outcomeNoAnswer},
		"the log refuses a probe":       {owner: owned(lease.Condition{}, 0), probe: probe{problem: "JetStream not enabled"}, want: "JetStream not enabled", wantOutcome: outcomeWALUnavailable},
		"the log does not answer":       {owner: owned(lease.Condition{}, 0), probe: probe{asked: ago(4 * time.Second)}, want: "has not answered for 4s", wantOutcome: outcomeWALUnavailable},
		"a probe is under way":          {owner: owned(lease.Condition{}, 0), probe: probe{asked: ago(time.Second)}},
		"no probe counts if it answers": {owner: owned(lease.Condition{}, 0), answered: time.Second, probe: probe{problem: "old"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPartition(0, &committer{ackTimeout: 3 * time.Second})
			p.owner.Store(c.owner)
			p.probe, p.failed = c.probe, c.became
			if c.answered > 0 {
				p.answeredAt = ago(c.answered)
			}
			if c.failed > 0 {
				p.failedAt = ago(c.failed)
			}
			if c.gathering > 0 {
				p.queue = []*batch{{gathered: ago(c.gathering)}}
			}
			became, reason := p.unready(now)
			if c.want == "" {
				require.Empty(t, reason)
				return
			}
			require.Contains(t, reason, c.want)
			require.Equal(t, c.wantOutcome, became)
		})
	}
}

// awaitReadyz waits until /readyz answers with the status and a text that contains what is said.
func (b *bundle) awaitReadyz(status int, said ...string) {
	b.t.Helper()
	testkit.WaitFor(b.t, testTimeout, fmt.Sprint("/readyz to say ", status, said), func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/readyz", http.NoBody)
		if err != nil {
			return err
		}
		g, err := b.do(req)
		if g.status != status {
			return fmt.Errorf("%d %s %w", g.status, g.raw, err)
		}
		for _, part := range said {
			if !strings.Contains(g.raw, part) {
				return errors.New(g.raw)
			}
		}
		return nil
	})
}

// Readiness follows the leases and the logs while nothing is sent, names the partition, and has the code that a send would get.
func TestReadinessWithoutSends(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 2, noOwners: true})
	kv, err := b.js.KeyValue(t.Context(), topology.LeaseBucket)
	require.NoError(t, err)
	b.awaitReadyz(http.StatusServiceUnavailable, "no_answer", "partition 0: no sequencer", "partition 1: no sequencer")
	b.lease(kv, 0, "{}")
	b.lease(kv, 1, `{"behind":true}`)
	b.awaitReadyz(http.StatusServiceUnavailable, "partition 1: its sequencer a has not read")
	b.lease(kv, 1, `{"problem":"stream SENDS_1 cannot be written to: no space left on device"}`)
	b.awaitReadyz(http.StatusServiceUnavailable, "no space left on device")
	b.lease(kv, 1, `{"refused":true,"problem":"record 2 is damaged"}`)
	b.awaitReadyz(http.StatusServiceUnavailable, "partition_refused", "partition 1: ", "record 2 is damaged")
	b.lease(kv, 1, `{}`)
	b.awaitReadyz(http.StatusOK, "ready")

	// Probes have left nothing in the logs.
	for partition := range 2 {
		p := b.service.partitions[partition]
		testkit.WaitFor(t, testTimeout, "answers to probes", func(context.Context) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.probe.no < 2 || p.probe.problem != "" {
				return fmt.Errorf("%+v", p.probe)
			}
			return nil
		})
		stream, err := b.js.Stream(t.Context(), topology.WALStream(partition))
		require.NoError(t, err)
		require.Zero(t, stream.CachedInfo().State.LastSeq)
	}

	config, err := b.js.Stream(t.Context(), topology.WALStream(1))
	require.NoError(t, err)
	require.NoError(t, b.js.DeleteStream(t.Context(), topology.WALStream(1)))
	b.awaitReadyz(http.StatusServiceUnavailable, "wal_unavailable", "partition 1: its write-ahead log: no stream takes its subject")
	_, err = b.js.CreateStream(t.Context(), config.CachedInfo().Config)
	require.NoError(t, err)
	b.awaitReadyz(http.StatusOK, "ready")
}

// A send that failed counts until one is answered.
func TestReadinessAfterSends(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, config: func(c *Config) { c.AckTimeout, c.AnswerTimeout = time.Second, time.Second }})
	b.awaitReadyz(http.StatusOK, "ready")
	require.Equal(t, http.StatusServiceUnavailable, b.post(send("g", "1")).status)
	var unready *PartitionsError
	require.ErrorAs(t, b.service.Check(), &unready)
	require.Contains(t, []outcome{outcomeNoAnswer, outcomeUnknown, outcomeWALStalled}, unready.Partitions[0].outcome)
	b.sequence()
	testkit.WaitFor(t, testTimeout, "an answer", func(context.Context) error {
		if g := b.post(send("g", "2")); g.status != http.StatusOK {
			return errors.New(g.raw)
		}
		return nil
	})
	require.NoError(t, b.service.Check())
}
