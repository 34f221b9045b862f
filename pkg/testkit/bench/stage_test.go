package main

import (
	"bytes"
	"testing"

	"github.com/google/pprof/profile"
	"github.com/stretchr/testify/require"
)

func TestStageOf(t *testing.T) {
	t.Parallel()
	const (
		syscall = "internal/runtime/syscall/linux.Syscall6"
		server  = "github.com/nats-io/nats-server/v2/server."
	)
	for name, c := range map[string]struct {
		stack  []string // the innermost first
		stage  string
		kernel bool
	}{
		"an answer, through a connection of ingest's": {
			[]string{syscall, "syscall.write", "internal/poll.(*FD).Write", "net.(*conn).Write", sendhouseModule + "ingest.(*conn).Write", "net/http.checkConnErrorWriter.Write", "bufio.(*Writer).Flush", "net/http.(*conn).serve"},
			stageSockets, true,
		},
		"an answer on the fast path":          {[]string{syscall, "syscall.write", "internal/poll.(*FD).Write", "net.(*conn).Write", sendhouseModule + "ingest.(*conn).Write", fastpathPackage + "(*conn).serve", fastpathPackage + "(*conn).run"}, stageSockets, true},
		"a head on the fast path":             {[]string{"strings.IndexByte", fastpathPackage + "(*head).parse", fastpathPackage + "(*conn).run"}, stageHTTP, false},
		"a handler's allocation":              {[]string{"runtime.mallocgc", "runtime.newobject", sendhouseModule + "ingest.(*sendHandler).ServeHTTP", "github.com/go-chi/chi/v5.(*Mux).routeHTTP", "net/http.(*conn).serve"}, stageIngest, false},
		"routing":                             {[]string{"github.com/go-chi/chi/v5.(*node).findRoute", "github.com/go-chi/chi/v5.(*Mux).routeHTTP", "net/http.(*conn).serve"}, stageHTTP, false},
		"what roles share, called by one":     {[]string{sendhouseModule + "pkg/message.(*Send).UnmarshalVT", sendhouseModule + "sequencer.(*runner).fold"}, stageSequencer, false},
		"what roles share, by itself":         {[]string{"runtime.memmove", sendhouseModule + "pkg/messagelog.(*reader).read"}, "pkg/messagelog", false},
		"a role that publishes":               {[]string{"runtime.memmove", "bytes.(*Buffer).Write", "github.com/nats-io/nats%2ego.(*Conn).publish", sendhouseModule + "sequencer/natslog.(*Logs).Answer"}, stageNATS, false},
		"syncing a stream":                    {[]string{syscall, "syscall.Fsync", "os.(*File).Sync", server + "(*fileStore).StoreMsg", server + "(*stream).processJetStreamMsg", server + "(*stream).internalLoop"}, stageStore, true},
		"writing down what was stored":        {[]string{"runtime.memmove", server + "(*stream).processJetStreamMsg", server + "(*stream).internalLoop"}, stageStreams, false},
		"the server otherwise":                {[]string{server + "(*client).parse", server + "(*client).readLoop"}, stageServer, false},
		"an insert's request":                 {[]string{syscall, "internal/poll.(*FD).Write", "net.(*conn).Write", "net/http.persistConnWriter.Write", "net/http.(*persistConn).writeLoop"}, stageInsert, true},
		"waiting for an insert":               {[]string{"runtime.selectgo", "net/http.(*persistConn).roundTrip", "net/http.(*Transport).roundTrip"}, stageInsert, false},
		"a call into the engine":              {[]string{"runtime.cgocall", "github.com/ebitengine/purego.RegisterFunc.func4", sendhouseModule + "pkg/chdb.(*connection).query", "net/http.HandlerFunc.ServeHTTP", "net/http.(*conn).serve"}, stageChDB, false},
		"a thread of the engine":              {[]string{"[libchdb.so]", "runtime._ExternalCode"}, stageEngine, false},
		"an allocation that helps to collect": {[]string{"runtime.scanObject", "runtime.gcDrainN", "runtime.gcAssistAlloc", "runtime.mallocgc", sendhouseModule + "ingest.(*sendHandler).ServeHTTP"}, stageGC, false},
		"looking for something to run":        {[]string{"runtime.futex", "runtime.futexsleep", "runtime.findRunnable", "runtime.schedule", "runtime.mcall"}, stageScheduler, true},
		"something else, with type arguments": {[]string{"runtime.mapassign", "example.org/a/b.(*T[go.shape.example.org/c/d.E]).Do", "example.org/a/b.Run"}, "example.org/a/b", false},
		"nothing is known":                    {nil, stageScheduler, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stage, kernel := stageOf(c.stack, stagePrefixes())
			require.Equal(t, c.stage, stage)
			require.Equal(t, c.kernel, kernel)
		})
	}
}

func TestPackageOf(t *testing.T) {
	t.Parallel()
	for function, want := range map[string]string{
		"runtime.mallocgc":       "runtime",
		"net/http.(*conn).serve": "net/http",
		"github.com/a/b/v2.F[go.shape.struct { c/d.E.f int }]": "github.com/a/b/v2",
		"github.com/a/b.(*T[github.com/c/d.E]).M.func1":        "github.com/a/b",
		"gogo": "gogo",
	} {
		require.Equal(t, want, packageOf(function), function)
	}
}

// A profile is read as the server writes it, with functions that were inlined.
func TestSplit(t *testing.T) {
	t.Parallel()
	functions := map[string]*profile.Function{}
	p := &profile.Profile{
		SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		PeriodType: &profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: 10_000_000,
	}
	line := func(name string) profile.Line {
		if functions[name] == nil {
			functions[name] = &profile.Function{ID: uint64(len(functions) + 1), Name: name}
			p.Function = append(p.Function, functions[name])
		}
		return profile.Line{Function: functions[name]}
	}
	add := func(count int64, locations ...[]string) {
		sample := &profile.Sample{Value: []int64{count, count * 10_000_000}}
		for _, names := range locations {
			location := &profile.Location{ID: uint64(len(p.Location) + 1)}
			for _, name := range names {
				location.Line = append(location.Line, line(name))
			}
			p.Location = append(p.Location, location)
			sample.Location = append(sample.Location, location)
		}
		p.Sample = append(p.Sample, sample)
	}
	const internalLoop = "github.com/nats-io/nats-server/v2/server.(*stream).internalLoop"
	add(50, []string{"syscall.Syscall"}, []string{"syscall.Fsync", "github.com/nats-io/nats-server/v2/server.(*msgBlock).flush"}, []string{internalLoop})
	add(30, []string{"runtime.memmove", "github.com/nats-io/nats-server/v2/server.(*msgBlock).write"}, []string{internalLoop})
	add(80, []string{sendhouseModule + "ingest.decode"})
	add(40, []string{"[libchdb.so]"}, []string{"runtime._ExternalCode"})
	var text bytes.Buffer
	require.NoError(t, p.Write(&text))
	read, err := profile.ParseData(text.Bytes())
	require.NoError(t, err)

	before := map[string]thread{"1": {"sendhouse", 1}, "2": {"ThreadPool", 0.5}}
	after := map[string]thread{"1": {"sendhouse", 2.6}, "2": {"MergeMutate", 0.75}, "3": {"MergeMutate", 0.05}, "4": {"Fetch", 0}}
	// The kernel counted 2.5 s for 100,000 messages, of which the profile saw 2.
	s := splitUp(figures{Messages: 100_000, CPU: 25}, stagesOf(read), spent(before, after), "sendhouse")
	require.InDelta(t, 0.8, s.Sampled, 1e-9)
	want := []Stage{{stageStore, 10, 6.25}, {stageIngest, 10, 0}, {stageEngine, 5, 0}}
	require.Len(t, s.Stages, len(want))
	for i := range want {
		require.Equal(t, want[i].Name, s.Stages[i].Name)
		require.InDelta(t, want[i].CPU, s.Stages[i].CPU, 1e-9)
		require.InDelta(t, want[i].Kernel, s.Stages[i].Kernel, 1e-9)
	}
	require.Len(t, s.Threads, 1)
	require.Equal(t, "MergeMutate", s.Threads[0].Name)
	require.InDelta(t, 3, s.Threads[0].CPU, 1e-9)
	var out bytes.Buffer
	s.print(&out)
	require.Contains(t, out.String(), "The profile saw 80%")
}
