package runner

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// TestOutboxIsBoundByMessagesAndRecords: a record that is larger than the limit gets in alone, and those without messages are
// bound by their number.
func TestOutboxIsBoundByMessagesAndRecords(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const messagesMax = 8
		o := newOutbox(messagesMax, 1<<20, 0)
		seq := uint64(0)
		put := func(messages int) <-chan error {
			seq++
			done := make(chan error, 1)
			next := Derived{StreamSeq: seq, Messages: messages, Data: []byte{1}}
			go func() { done <- o.put(t.Context(), next) }()
			synctest.Wait()
			return done
		}
		chunk, err := o.take(nil)
		require.NoError(t, err)
		require.Empty(t, chunk)

		require.NoError(t, <-put(3*messagesMax))
		waiting := put(0)
		require.Empty(t, waiting, "a record without messages waits after it")
		chunk, err = o.take(nil)
		require.NoError(t, err)
		require.Len(t, chunk, 1)
		o.ack(1, nil)
		require.NoError(t, <-waiting)
		require.Zero(t, o.waits())

		for range messagesMax - 1 {
			require.NoError(t, <-put(0))
		}
		waiting = put(0)
		require.Empty(t, waiting, "as many records are queued as there may be messages")
		_, err = o.take(nil)
		require.NoError(t, err)
		o.ack(messagesMax+1, nil)
		require.NoError(t, <-waiting)
	})
}

// TestOutboxGoesOnOnlyBehindItsOwnRecord: the tail is held against what was derived, whole.
func TestOutboxGoesOnOnlyBehindItsOwnRecord(t *testing.T) {
	t.Parallel()
	setup := func() *outbox {
		o := newOutbox(64, 1<<20, 4)
		for seq, data := range []string{"five", "six", "seven"} {
			require.NoError(t, o.put(context.Background(), Derived{StreamSeq: uint64(seq + 5), Messages: 1, Data: []byte(data)}))
		}
		_, err := o.take(nil)
		require.NoError(t, err)
		return o
	}
	o := setup()
	require.NoError(t, o.rewind(Tail{StreamSeq: 6, Found: true, Data: []byte("six")}, 4))
	chunk, err := o.take(nil)
	require.NoError(t, err)
	require.Len(t, chunk, 1)
	require.EqualValues(t, 7, chunk[0].StreamSeq)
	require.ErrorIs(t, setup().rewind(Tail{StreamSeq: 6, Found: true, Data: []byte("six and more")}, 4), ErrInvariant)
	require.NoError(t, setup().rewind(Tail{StreamSeq: 6}, 4), "retention has taken it: nothing can be held against it")
	require.ErrorIs(t, setup().rewind(Tail{StreamSeq: 3}, 4), errOutputLost)
	require.ErrorIs(t, setup().rewind(Tail{StreamSeq: 8, Found: true}, 4), errOutputLost)
}
