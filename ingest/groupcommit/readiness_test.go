package groupcommit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/lease"
)

// Partition states and the readiness derived from them.
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
		became      outcome.Outcome
		gathering   time.Duration
		probe       probe
		want        string // "": ready
		wantOutcome outcome.Outcome
	}{
		"owned":                         {owner: owned(lease.Condition{}, time.Second)},
		"no lease was seen":             {want: "no sequencer has a lease", wantOutcome: outcome.NoAnswer},
		"between two owners":            {owner: &owner{at: ago(time.Second)}},
		"given back":                    {owner: &owner{at: ago(3 * time.Second)}, want: "no sequencer has owned it for 3s", wantOutcome: outcome.NoAnswer},
		"not renewed":                   {owner: owned(lease.Condition{}, 4600*time.Millisecond), want: "a has not renewed its lease for 4.6s", wantOutcome: outcome.NoAnswer},
		"not renewed, but it answers":   {owner: owned(lease.Condition{}, 5*time.Second), answered: time.Second},
		"refused":                       {owner: owned(lease.Condition{Refused: true, Problem: "record 2 is damaged"}, 0), answered: time.Second, want: "record 2 is damaged", wantOutcome: outcome.PartitionRefused},
		"a problem":                     {owner: owned(lease.Condition{Problem: "no space left"}, 0), want: "a: no space left", wantOutcome: outcome.NoAnswer},
		"a problem, but it answers":     {owner: owned(lease.Condition{Problem: "passing"}, 0), answered: time.Second},
		"behind":                        {owner: owned(lease.Condition{Behind: true}, 0), want: "to the end", wantOutcome: outcome.NoAnswer},
		"the last send failed":          {owner: owned(lease.Condition{}, 0), answered: 2 * time.Second, failed: time.Second, became: outcome.WALFull, want: "wal_full", wantOutcome: outcome.WALFull},
		"answered since":                {owner: owned(lease.Condition{}, 0), answered: time.Second, failed: 2 * time.Second, became: outcome.WALFull},
		"failed long ago":               {owner: owned(lease.Condition{}, 0), failed: 5 * time.Second, became: outcome.WALFull},
		"a send waits":                  {owner: owned(lease.Condition{}, 0), gathering: 4500 * time.Millisecond, want: "a send has waited", wantOutcome: outcome.NoAnswer},
		"the log refuses a probe":       {owner: owned(lease.Condition{}, 0), probe: probe{problem: "JetStream not enabled"}, want: "JetStream not enabled", wantOutcome: outcome.WALUnavailable},
		"the log does not answer":       {owner: owned(lease.Condition{}, 0), probe: probe{asked: ago(4 * time.Second)}, want: "has not answered for 4s", wantOutcome: outcome.WALUnavailable},
		"a probe is under way":          {owner: owned(lease.Condition{}, 0), probe: probe{asked: ago(time.Second)}},
		"no probe counts if it answers": {owner: owned(lease.Condition{}, 0), answered: time.Second, probe: probe{problem: "old"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPartition(0, &Committer{Config: Config{AckTimeout: 3 * time.Second}})
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
