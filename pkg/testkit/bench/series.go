package main

import (
	"context"
	"strconv"
	"strings"
)

// series are those of one name: how many there are, and their sum.
type series struct {
	count int
	sum   float64
}

// sumSeries reads Prometheus's text format; labels do not matter.
func sumSeries(text string) map[string]series {
	out := make(map[string]series)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		end := strings.IndexAny(line, "{ ")
		if end < 0 {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
		if err != nil {
			continue // no sample
		}
		s := out[line[:end]]
		out[line[:end]] = series{s.count + 1, s.sum + value}
	}
	return out
}

// counters are those of all processes, added up.
func (d *deployment) counters(ctx context.Context) (map[string]float64, error) {
	out := make(map[string]float64)
	for _, s := range d.servers {
		if s.metricsURL == "" {
			continue
		}
		text, err := get(ctx, s.metricsURL)
		if err != nil {
			return nil, err
		}
		for name, one := range sumSeries(string(text)) {
			out[name] += one.sum
		}
	}
	return out, nil
}

// Pieces says into how many pieces the messages of a load were cut.
type Pieces struct {
	Commits   float64 `json:"commits_per_second"` // group commits of all ingest processes
	Sends     float64 `json:"sends_per_commit"`
	AckMS     float64 `json:"ack_ms"` // mean time from a group commit's publish to its acknowledgement
	Inserts   float64 `json:"inserts_per_second"`
	InsertRow float64 `json:"rows_per_insert"`
}

// piecesOf compares counters from before and after a load of so many seconds.
func piecesOf(before, after map[string]float64, seconds float64) Pieces {
	grown := func(name string) float64 { return after[name] - before[name] }
	mean := func(histogram string) float64 {
		if grown(histogram+"_count") == 0 {
			return 0
		}
		return grown(histogram+"_sum") / grown(histogram+"_count")
	}
	return Pieces{
		Commits: grown("sendhouse_ingest_batch_sends_count") / seconds, Sends: mean("sendhouse_ingest_batch_sends"),
		AckMS:   1e3 * mean("sendhouse_ingest_ack_duration_seconds"),
		Inserts: grown("sendhouse_writer_batch_rows_count") / seconds, InsertRow: mean("sendhouse_writer_batch_rows"),
	}
}
