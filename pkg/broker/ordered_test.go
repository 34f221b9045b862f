package broker_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// Readings that have ended leave no consumer behind, of which a stream may have only so many.
func TestOrderedReadersLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	nc := startWithoutDirectGet(t)
	plain, err := jetstream.New(nc)
	require.NoError(t, err)
	const consumersMax = 4
	stream, err := plain.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, MaxConsumers: consumersMax})
	require.NoError(t, err)
	for range 3 {
		_, err := plain.Publish(t.Context(), "s", nil)
		require.NoError(t, err)
	}
	domain, err := jetstream.NewWithDomain(nc, "hub")
	require.NoError(t, err)
	for _, js := range []jetstream.JetStream{plain, domain} {
		for range 2 * consumersMax {
			r, err := broker.ReadOrdered(t.Context(), js, "S", 2)
			require.NoError(t, err)
			for _, want := range []uint64{2, 3} {
				m, err := r.Next()
				require.NoError(t, err)
				meta, err := m.Metadata()
				require.NoError(t, err)
				require.Equal(t, want, meta.Sequence.Stream)
			}
			r.Stop()
			_, err = r.Next()
			require.ErrorIs(t, err, jetstream.ErrMsgIteratorClosed)
		}
	}
	testkit.WaitFor(t, time.Minute, "the last consumer to be gone", func(ctx context.Context) error {
		info, err := stream.Info(ctx)
		if err == nil && info.State.Consumers > 0 {
			err = fmt.Errorf("%d consumers", info.State.Consumers)
		}
		return err
	})

	_, err = broker.ReadOrdered(t.Context(), plain, "NONE", 1)
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
	require.ErrorContains(t, err, "NONE")
}
