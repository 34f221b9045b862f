package lifecycle_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

func TestPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		require.NoError(t, lifecycle.Pause(t.Context(), time.Minute))
		require.Equal(t, time.Minute, time.Since(begun))

		ended := errors.New("ended")
		ctx, end := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { end(ended) })
		require.ErrorIs(t, lifecycle.Pause(ctx, time.Minute), ended)
		require.Equal(t, time.Minute+time.Second, time.Since(begun))
	})
}
