package testkit_test

import (
	"context"
	"net"
	"os/exec"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// A child holds a copy of every open descriptor until its exec.
func TestFreePortIsFreeWhileProcessesStart(t *testing.T) {
	t.Parallel()
	starting, enough := context.WithCancel(t.Context())
	var starters sync.WaitGroup
	for range 4 {
		starters.Go(func() {
			for starting.Err() == nil {
				if err := exec.CommandContext(t.Context(), "true").Run(); err != nil {
					t.Errorf("start a process: %v", err)
					return
				}
			}
		})
	}
	defer starters.Wait()
	defer enough()
	for range 500 {
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", testkit.FreeAddr(t))
		require.NoError(t, err)
		require.NoError(t, listener.Close())
	}
}
