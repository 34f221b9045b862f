package sequencer_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/sequencer/internal/sequencertest"
)

const (
	benchRecords = 1_000
	benchBatch   = 256
)

// fill writes a log of full group commits over 10,000 channels.
func (h *harness) fill() {
	n := 0
	for range benchRecords {
		var data []byte
		for range benchBatch {
			n++
			var err error
			data, err = message.AppendSend(data, &message.Send{
				ChannelId: fmt.Sprintf("u%d@c%d", n%97, n%10_000), ChannelType: 1, FromUid: "u1",
				ClientMsgNo: fmt.Sprintf("1763900000-0-%d", n), RedDot: true, Payload: make([]byte, 70),
			})
			require.NoError(h.T, err)
		}
		_, err := h.JS.PublishMsg(h.Ctx, &nats.Msg{Subject: topology.WALSubject(0), Data: data})
		require.NoError(h.T, err)
	}
}

// BenchmarkRecovery takes a partition from nothing to the end of a log of 256,000
// sends: deriving the message log for the first time, and with it there already, as
// after a restart.
func BenchmarkRecovery(b *testing.B) {
	for range b.N {
		h := setup(b)
		h.fill()
		for _, kind := range []string{"deriving", "restart"} {
			caughtUp := make(chan struct{})
			p := h.Partition(time.Now, func() { close(caughtUp) })
			ctx, cancel := context.WithCancel(h.Ctx)
			done := make(chan error, 1)
			started := time.Now()
			go func() { done <- p.Run(ctx, sequencertest.Patience) }()
			<-caughtUp
			b.ReportMetric(benchRecords*benchBatch/time.Since(started).Seconds(), kind+"-sends/s")
			cancel()
			require.NoError(b, <-done)
			if kind == "deriving" {
				b.ReportMetric(benchRecords*benchBatch/time.Since(started).Seconds(), "derived/s")
			}
		}
	}
}
