package main

import (
	"fmt"
	"slices"
	"strings"
)

// workload is a case: a load, and what it goes to.
type workload struct {
	name  string
	about string

	connections int
	channels    int    // 0: as the flag says
	fill        bool   // each channel has a message before the measurement
	apart       bool   // the roles and the servers have processes of their own
	scale       bool   // measured only when named
	against     string // the case whose rate this one's is held against

	// 0: as the binary does it, and one process of each role that is apart.
	partitions                   int
	ingests, sequencers, writers int

	// If one of these is set, the load comes from the generator of `sendhouse bench`; else from wrk.
	bulk       int
	sizes      string // of payloads
	duplicates float64
	half       bool // the highest rate is found first, and what counts is what happens at half of it
}

// workloads are all cases, in the order in which they are measured: those that are
// held against each other are neighbours, so that the machine drifts little between
// them.
func workloads() []workload {
	return []workload{
		{name: "64", about: "single sends, 64 connections", connections: 64},
		{name: "256", about: "single sends, 256 connections", connections: yardstickConnections},
		{name: "hot", about: "single sends, 256 connections, one channel", connections: yardstickConnections, channels: 1, against: "256"},
		{name: "million", about: "single sends, 256 connections, 1,000,000 channels that have messages already", connections: yardstickConnections, channels: 1_000_000, fill: true, against: "256"},
		{name: apartCase, about: "single sends, 256 connections; ingest, sequencer, writer, nats-server and ClickHouse each in a process of its own", connections: yardstickConnections, apart: true, against: "256"},
		{name: "1024", about: "single sends, 1,024 connections", connections: 1024},
		{name: "bulk", about: "bulks of 100, 32 connections, counted in messages; the handler that does nothing gets single requests over 256 connections", connections: 32, bulk: 100},
		{name: "mixed", about: "single sends, 256 connections, payloads of 100 B to 32 KiB, 2.2 KiB on average", connections: yardstickConnections, sizes: "100B-1KiB:80,1KiB-8KiB:15,8KiB-32KiB:5"},
		{name: "duplicates", about: "single sends, 256 connections, one in ten repeats an earlier one", connections: yardstickConnections, duplicates: 0.1, against: "256"},
		{name: "half", about: "single sends at half of the highest rate, whatever the answers, over 256 connections", connections: yardstickConnections, half: true},
	}
}

// apartCase is what cases with more processes of a role are held against.
const apartCase = "apart"

// yardstickConnections is what most cases use, so that they can be held against each other.
const yardstickConnections = 256

// usesWRK says which generator makes the load.
func (w workload) usesWRK() bool {
	return w.bulk == 0 && w.sizes == "" && w.duplicates == 0 && !w.half
}

// nothing is the load for the handler that does nothing: the same, but it knows no bulks.
func (w workload) nothing() workload {
	if w.bulk > 0 {
		w.bulk, w.connections = 0, yardstickConnections
	}
	return w
}

func caseList() string {
	var out strings.Builder
	for _, w := range workloads() {
		fmt.Fprintf(&out, "  %-12s %s\n", w.name, w.about)
	}
	out.WriteString("only where they are named:\n")
	for _, w := range scaleCases() {
		fmt.Fprintf(&out, "  %-12s %s\n", w.name, w.about)
	}
	fmt.Fprintf(&out, "  %-12s these, and %s", scaleGroup, apartCase)
	return out.String()
}

// chooseCases takes those that are named, themselves or by their group, in their own order.
func chooseCases(names string, channels int) ([]workload, error) {
	usual := len(workloads())
	all := slices.Concat(workloads(), scaleCases())
	for i := range all {
		if all[i].channels == 0 {
			all[i].channels = channels
		}
	}
	if names == "" || names == "all" {
		return all[:usual], nil
	}
	var chosen []workload
	wanted := strings.Split(names, ",")
	for i := range wanted {
		wanted[i] = strings.TrimSpace(wanted[i])
		if !slices.ContainsFunc(all, func(w workload) bool { return w.name == wanted[i] || w.inGroup(wanted[i]) }) {
			return nil, fmt.Errorf("-cases: there is no %q; there are\n%s", wanted[i], caseList())
		}
	}
	for _, w := range all {
		if slices.ContainsFunc(wanted, func(name string) bool { return w.name == name || w.inGroup(name) }) {
			chosen = append(chosen, w)
		}
	}
	return chosen, nil
}
