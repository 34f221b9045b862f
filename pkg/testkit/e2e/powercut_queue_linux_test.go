package e2e

import (
	"cmp"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/testkit/powercut"
)

// TestEndToEndPowerCutQueue cuts the power of a client with a queue on disk again and again, at random moments, the first ones while it makes its
// folder. Each send whose Enqueue has returned is in ClickHouse in the end, once and in order, also if the power comes back when the server has
// forgotten the client_msg_no.
func TestEndToEndPowerCutQueue(t *testing.T) {
	t.Parallel()
	if only := os.Getenv("POWERCUT_HISTORY"); only != "" && !slices.Contains(strings.Split(only, ","), "queue") {
		t.Skip("only some histories are wanted")
	}
	seed := newSeed(t)
	//nolint:paralleltest // one at a time is load enough
	for _, filesystem := range strings.Split(cmp.Or(os.Getenv("POWERCUT_FS"), "ext4"), ",") {
		t.Run(filesystem, func(t *testing.T) {
			missingDisks(t, filesystem)
			cutQueue(t, filesystem, seed, numberOf(t, "POWERCUT_CUTS", 6))
		})
	}
}

func cutQueue(t *testing.T, filesystem string, seed uint64, cuts int) {
	random := rand.New(rand.NewPCG(seed, 7))
	up, table := startShort(t, 5*time.Second)
	disk := powercut.NewDisk(t, filesystem)
	user := newQueueUser(t, up.api, queueSettleVariable+"=1", queueDiskVariable+"="+filepath.Join(disk.Path(), "some", "queue"))
	for cut := range cuts {
		user.Launch()
		if cut > 2 || random.IntN(2) == 0 {
			user.await(enqueuedFile, 1+random.IntN(300))
		}
		require.NoError(t, lifecycle.Pause(t.Context(), time.Duration(random.IntN(200))*time.Millisecond)) // power goes at any time
		if random.IntN(2) == 0 {
			disk.WriteBack(random)
		}
		how := powercut.PowerOff(random, powercut.RandomOutcome(random), func() { user.Signal(syscall.SIGKILL) }, disk)
		<-user.Done()
		disk.PowerOn()
		forgotten := random.IntN(3) == 0
		if forgotten {
			awaitForgotten(t, up)
		}
		t.Logf("cut %d, %d sends enqueued, forgotten: %t: %v", cut+1, user.lines(enqueuedFile), forgotten, how)
	}
	user.Launch()
	user.await(enqueuedFile, 100)
	records := user.finish()
	verify(t, table, records)
	t.Logf("%d sends, none lost, twice or out of order", len(records))
}
