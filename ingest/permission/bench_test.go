package permission

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// heap returns the size of the live heap.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

const (
	benchChannels = 100_000
	benchMembers  = 10 // each
)

func benchUIDs(channel int) (uids []string) {
	for i := range benchMembers {
		uids = append(uids, fmt.Sprintf("user-%08d", (channel*benchMembers+i)*7919%5_000_000))
	}
	return uids
}

// BenchmarkMemory measures the memory of 1,000,000 members: over 100,000 channels, in a single one, and, for comparison,
// over 100,000 channels stored as maps.
func BenchmarkMemory(b *testing.B) {
	measure := func(name string, build func(b *testing.B) any) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				before := heap()
				kept := build(b)
				b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
				if c, ok := kept.(*cache); ok {
					b.ReportMetric(float64(c.bytes.Load())/(1<<20), "counted-MiB")
				}
				runtime.KeepAlive(kept)
			}
		})
	}
	measure("packed", func(b *testing.B) any {
		c := newCache()
		for n := range benchChannels {
			p, err := (*Policy)(nil).edit(define(benchUIDs(n)...))
			require.NoError(b, err)
			c.put(group(fmt.Sprintf("group-%d", n)), p)
		}
		return c
	})
	measure("packed-one-channel", func(b *testing.B) any {
		c := newCache()
		p, err := (*Policy)(nil).edit(define(numbered("user", benchChannels*benchMembers)...))
		require.NoError(b, err)
		c.put(group("g"), p)
		return c
	})
	measure("maps", func(*testing.B) any {
		all := make(map[Channel]map[string]struct{})
		for n := range benchChannels {
			set := make(map[string]struct{}, benchMembers)
			for _, uid := range benchUIDs(n) {
				set[uid] = struct{}{}
			}
			all[group(fmt.Sprintf("group-%d", n))] = set
		}
		return all
	})
}

// BenchmarkDecide measures the decision on a send.
func BenchmarkDecide(b *testing.B) {
	bundle := setup(b)
	s := bundle.store()
	cache := s.cache.Load()
	for n := range 10_000 {
		p, err := (*Policy)(nil).edit(define(benchUIDs(n)...))
		require.NoError(b, err)
		cache.put(group(fmt.Sprintf("group-%d", n)), p)
	}
	large, err := (*Policy)(nil).edit(define(numbered("user", 100_000)...))
	require.NoError(b, err)
	cache.put(group("large"), large)
	member := benchUIDs(77)[5]
	for name, send := range map[string]Send{
		"undefined": {From: member, Type: message.ChannelGroup, Name: "unknown"},
		"person":    {From: member, Type: message.ChannelPerson, Name: "somebody"},
		"group":     {From: member, Type: message.ChannelGroup, Name: "group-77"},
		"large":     {From: "user-0077777", Type: message.ChannelGroup, Name: "large"},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if s.Decide(send) != Allowed {
						b.Error("refused")
					}
				}
			})
		})
	}
}

// BenchmarkStart measures how long a process takes to read 1,000,000 members: over 100,000 channels, and in a single one.
func BenchmarkStart(b *testing.B) {
	start := func(name string, fill func(b *testing.B, bundle *bundle)) {
		b.Run(name, func(b *testing.B) {
			bundle := setup(b)
			fill(b, bundle)
			for b.Loop() {
				s := bundle.idle(30 * time.Second)
				stop := bundle.run(s)
				require.EqualValues(b, benchChannels*benchMembers, s.cache.Load().members.Load())
				stop()
			}
		})
	}
	start("100000-channels", func(b *testing.B, bundle *bundle) {
		var acks []jetstream.PubAckFuture
		for n := range benchChannels {
			p, err := (*Policy)(nil).edit(define(benchUIDs(n)...))
			require.NoError(b, err)
			data, err := p.record()
			require.NoError(b, err)
			ack, err := bundle.js.PublishAsync(bucketSubjects+group(fmt.Sprintf("group-%d", n)).key(), data)
			require.NoError(b, err)
			acks = append(acks, ack)
			if len(acks) == 1_000 {
				<-acks[0].Ok()
				acks = acks[1:]
			}
		}
		for _, ack := range acks {
			<-ack.Ok()
		}
	})
	start("one-channel", func(b *testing.B, bundle *bundle) {
		s := bundle.store()
		uids := numbered("user", benchChannels*benchMembers)
		began := time.Now()
		for i := 0; i < len(uids); i += 10_000 {
			bundle.change(s, group("g"), define(uids[i:i+10_000]...))
		}
		b.Logf("filled by calls of 10,000 in %s", time.Since(began))
		began = time.Now()
		bundle.change(s, group("g"), Edit{Lists: [lists]ListEdit{Subscribers: {Remove: uids[:1]}}})
		b.Logf("one less in %s", time.Since(began))
		began = time.Now()
		bundle.change(s, group("g"), define(uids[0]))
		b.Logf("one more in %s", time.Since(began))
	})
}
