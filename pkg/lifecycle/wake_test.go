package lifecycle_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

func TestWakeKeepsOneSignal(t *testing.T) {
	t.Parallel()
	w := lifecycle.NewWake()
	require.Empty(t, w)
	w.Signal()
	w.Signal() // does not block
	require.Len(t, w, 1)
	<-w
	require.Empty(t, w)
	w.Signal()
	require.Len(t, w, 1)
}
