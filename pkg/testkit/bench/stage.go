package main

import (
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// Stages of a message's way, as far as they are named below; anything else goes by
// its package.
const (
	stageSockets   = "HTTP: connections, in the kernel"
	stageHTTP      = "HTTP: fast path, net/http, chi"
	stageIngest    = "ingest"
	stageNATS      = "NATS client"
	stageServer    = "NATS server: connections"
	stageStreams   = "NATS server: streams and consumers"
	stageStore     = "NATS server: streams on disk"
	stageSequencer = "sequencer"
	stageWriter    = "writer"
	stageInsert    = "clickhouse-go"
	stageChDB      = "ClickHouse: its HTTP interface and calls"
	stageEngine    = "ClickHouse: threads of its own, at most" // Go's profiler attributes to them some of other threads' time
	stageGC        = "garbage collection"
	stageScheduler = "scheduler and timers"
)

const (
	sendhouseModule = "github.com/sendhouse/sendhouse/"
	fastpathPackage = sendhouseModule + "ingest/fastpath."
)

// stagePrefix is how the functions of a stage begin. What allocates, copies, encodes
// or calls the kernel is in no list, so that it counts for those that call it. The
// compiler writes dots in the last element of a path as %2e.
type stagePrefix struct{ prefix, stage string }

// stagePrefixes holds what is more special before what is less so.
func stagePrefixes() []stagePrefix {
	return []stagePrefix{
		{"runtime.gcBgMarkWorker", stageGC}, {"runtime.gcAssistAlloc", stageGC}, {"runtime.gcStart", stageGC}, {"runtime.gcDrain", stageGC},
		{"runtime.gcMark", stageGC}, {"runtime.bgsweep", stageGC}, {"runtime.bgscavenge", stageGC}, {"runtime._GC", stageGC},
		{"runtime._ExternalCode", stageEngine}, {"runtime._LostExternalCode", stageEngine},
		// The client in this process is clickhouse-go's alone; the servers are those of ingest and, seldom asked, of the engine.
		{"net/http.(*persistConn)", stageInsert}, {"net/http.(*Transport)", stageInsert}, {"net/http.(*Client)", stageInsert}, {"net/http.persistConnWriter", stageInsert},
		{"net/http.", stageHTTP}, {"github.com/go-chi/", stageHTTP},
		{"github.com/ClickHouse/", stageInsert},
		{"github.com/nats-io/nats-server/v2/server.(*fileStore)", stageStore}, {"github.com/nats-io/nats-server/v2/server.(*msgBlock)", stageStore},
		{"github.com/nats-io/nats-server/v2/server.(*consumerFileStore)", stageStore}, {"github.com/nats-io/nats-server/v2/server.(*cache)", stageStore},
		{"github.com/nats-io/nats-server/v2/server.(*stream)", stageStreams}, {"github.com/nats-io/nats-server/v2/server.(*consumer)", stageStreams},
		{"github.com/nats-io/nats-server/", stageServer}, {"github.com/nats-io/nats%2ego", stageNATS},
		{fastpathPackage, stageHTTP}, {sendhouseModule + "ingest", stageIngest}, {sendhouseModule + "sequencer", stageSequencer}, {sendhouseModule + "writer", stageWriter},
		{sendhouseModule + "pkg/chdb", stageChDB}, {"github.com/ebitengine/purego", stageChDB},
	}
}

// stageOf says which stage a sample counts for: that of the innermost function which
// belongs to one. The stack begins with the innermost. inKernel reports whether it was in
// a system call.
func stageOf(stack []string, prefixes []stagePrefix) (stage string, inKernel bool) {
	inKernel = len(stack) > 0 && isSystemCall(stack[0])
	if inKernel && anyBegins(stack, "net.(*conn).") && (anyBegins(stack, "net/http.(*conn") || anyBegins(stack, fastpathPackage+"(*conn)")) {
		return stageSockets, true
	}
	for _, function := range stack {
		for _, p := range prefixes {
			if strings.HasPrefix(function, p.prefix) {
				return p.stage, inKernel
			}
		}
	}
	// The outermost function that is not the runtime's began the work.
	for i := len(stack) - 1; i >= 0; i-- {
		if pkg := packageOf(stack[i]); pkg != "runtime" && !strings.HasPrefix(pkg, "internal/runtime/") {
			return strings.TrimPrefix(pkg, sendhouseModule), inKernel
		}
	}
	return stageScheduler, inKernel
}

func anyBegins(stack []string, prefix string) bool {
	return slices.ContainsFunc(stack, func(function string) bool { return strings.HasPrefix(function, prefix) })
}

func isSystemCall(function string) bool {
	name := function[strings.LastIndexByte(function, '.')+1:]
	return strings.HasPrefix(name, "Syscall") || strings.HasPrefix(name, "RawSyscall") || strings.HasPrefix(name, "rawSyscall") ||
		function == "runtime.futex" || function == "runtime.epollwait"
}

// packageOf is the import path of a function: what stands before the first dot behind
// the last slash.
func packageOf(function string) string {
	slash := strings.LastIndexByte(function[:len(function)-len(bracketed(function))], '/') + 1
	name, _, _ := strings.Cut(function[slash:], ".")
	return function[:slash] + name
}

// bracketed is what stands from the first bracket on: type arguments have slashes of
// their own.
func bracketed(function string) string {
	if i := strings.IndexAny(function, "[("); i >= 0 {
		return function[i:]
	}
	return ""
}

// sampled is processor time in seconds, and how much of it was in system calls.
type sampled struct{ all, kernel float64 }

// stagesOf adds up the samples of a processor profile by stage.
func stagesOf(p *profile.Profile) map[string]sampled {
	value := len(p.SampleType) - 1 // samples, then nanoseconds
	prefixes := stagePrefixes()
	out := make(map[string]sampled)
	var stack []string
	for _, sample := range p.Sample {
		stack = stack[:0]
		for _, location := range sample.Location {
			for _, line := range location.Line { // what was inlined comes first
				if line.Function != nil {
					stack = append(stack, line.Function.Name)
				}
			}
		}
		stage, inKernel := stageOf(stack, prefixes)
		seconds := float64(sample.Value[value]) / 1e9
		sum := out[stage]
		sum.all += seconds
		if inKernel {
			sum.kernel += seconds
		}
		out[stage] = sum
	}
	return out
}
