package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// scaleGroup is the name of all cases that ask what more of something does: more partitions in one process, or more
// processes of a role where the roles run apart.
const scaleGroup = "scale"

// scaleCases are measured only where they, or their group, are named: for a table of the product's speed they are too
// many. One process of each role is the case `apart`.
func scaleCases() []workload {
	var out []workload
	for _, n := range []int{1, 2, 4, 8} {
		w := workload{name: fmt.Sprintf("partitions-%d", n), about: fmt.Sprintf("one process, --partitions %d", n), partitions: n}
		if n > 1 {
			w.against = "partitions-1"
		}
		out = append(out, w)
	}
	for n := 2; n <= 4; n++ {
		out = append(out,
			workload{name: fmt.Sprintf("ingest-%d", n), about: fmt.Sprintf("apart, with %d ingest processes that share the connections", n), ingests: n},
			workload{name: fmt.Sprintf("sequencer-%d", n), about: fmt.Sprintf("apart, with %d sequencers that share the partitions", n), sequencers: n},
			workload{name: fmt.Sprintf("writer-%d", n), about: fmt.Sprintf("apart, with %d writers that share the partitions", n), writers: n})
	}
	for i := range out {
		w := &out[i]
		w.scale, w.connections, w.about = true, yardstickConnections, "single sends, 256 connections; "+w.about
		if w.partitions == 0 {
			w.apart, w.against = true, apartCase
		}
	}
	return out
}

// inGroup reports whether a case is measured for a group of cases.
func (w workload) inGroup(group string) bool {
	return group == scaleGroup && (w.scale || w.name == apartCase)
}

// shareOut divides connections among generators, as evenly as it goes.
func shareOut(connections, generators int) []int {
	out := make([]int, generators)
	for i := range out {
		out[i] = connections / generators
		if i < connections%generators {
			out[i]++
		}
	}
	return out
}

// wrkEach runs one wrk for each target at a time; they share the connections.
func wrkEach(ctx context.Context, w workload, targets []string, dir string, duration time.Duration) (figures, error) {
	parts := make([]figures, len(targets))
	group, ctx := errgroup.WithContext(ctx)
	for i, connections := range shareOut(w.connections, len(targets)) {
		group.Go(func() (err error) {
			parts[i], err = wrk(ctx, w, targets[i], dir, i, connections, duration)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return figures{}, err //nolint:wrapcheck // wrk says what it is of
	}
	return addUp(parts), nil
}

// addUp is what several generators saw together. Percentiles cannot be added up: the worst of them are taken.
func addUp(parts []figures) figures {
	var all figures
	for _, f := range parts {
		all.Messages += f.Messages
		all.Rows += f.Rows
		all.Refused += f.Refused
		all.Broken += f.Broken
		all.PerSecond += f.PerSecond
		all.Generator += f.Generator * float64(f.Messages)
		all.Seconds, all.P50, all.P99 = max(all.Seconds, f.Seconds), max(all.P50, f.P50), max(all.P99, f.P99)
	}
	all.Generator /= float64(all.Messages)
	return all
}

// sharing is how the instances of a role know that a partition is theirs: a series for each that they hold.
func sharing() map[string]string {
	return map[string]string{"sequencer": "sendhouse_sequencer_lease_epoch", "writer": "sendhouse_writer_lease_epoch"}
}

// awaitShares waits until the instances of each role have shared the partitions out: those that were there first take
// all and give some back, which is not to be measured.
func (d *deployment) awaitShares(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for role, series := range sharing() {
		instances := slices.DeleteFunc(slices.Clone(d.servers), func(s *server) bool { return s.name != role })
		if len(instances) == 0 {
			continue
		}
		err := poll(ctx, pollInterval, instances[0].ended, func() error {
			held := make([]int, len(instances))
			for i, s := range instances {
				text, err := get(ctx, s.metricsURL)
				if err != nil {
					return err
				}
				held[i] = sumSeries(string(text))[series].count
			}
			if !shared(held, apartPartitions) {
				return fmt.Errorf("of %d partitions the instances hold %v", apartPartitions, held)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", role, err)
		}
	}
	return nil
}

// shared reports whether all partitions are held, in shares that differ by one at most.
func shared(held []int, partitions int) bool {
	total := 0
	for _, n := range held {
		total += n
	}
	return total == partitions && slices.Max(held)-slices.Min(held) <= 1
}
