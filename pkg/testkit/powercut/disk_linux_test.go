package powercut_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/powercut"
)

// A synced file survives every cut, whole; one that was only written does not survive where the
// cache is lost, and one that was written back has its pages on the disk without a flush.
func TestWhatSurvives(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, filesystem := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(filesystem, func(t *testing.T) {
			t.Parallel()
			if err := powercut.Missing(filesystem); err != nil {
				testkit.Lacking(t, err.Error())
			}
			random := rand.New(rand.NewPCG(seed, 0))
			d := powercut.NewDisk(t, filesystem)
			content := bytes.Repeat([]byte("durable?"), 40_000)
			for n := range 16 {
				outcome := powercut.Outcome(n % 4)
				before := d.Flushes()
				synced, written := filepath.Join(d.Path(), fmt.Sprint("synced", n)), filepath.Join(d.Path(), "written")
				put(t, synced, content, true)
				require.Greater(t, d.Flushes(), before, "fsync brings a flush to the device")
				put(t, written, content, false)
				d.WriteBack(random)
				cuts := powercut.PowerOff(random, outcome, func() {}, d)
				d.PowerOn()
				for earlier := range n + 1 {
					have, err := os.ReadFile(filepath.Join(d.Path(), fmt.Sprint("synced", earlier)))
					require.NoError(t, err)
					require.True(t, bytes.Equal(content, have), "synced file %d after cut %d: %v", earlier, n, cuts)
				}
				if outcome == powercut.KeepNone {
					require.NoFileExists(t, written)
				}
				require.NoError(t, os.RemoveAll(written))
			}
		})
	}
}

// childVariable makes this test's binary one that has a disk and waits to be killed.
const childVariable = "POWERCUT_CHILD"

// A test may be killed while it waits for a disk that it serves itself. The next one takes that disk away.
func TestDiskOfAKilledTest(t *testing.T) {
	t.Parallel()
	if err := powercut.Missing("ext4"); err != nil {
		testkit.Lacking(t, err.Error())
	}
	if os.Getenv(childVariable) != "" {
		writeForEver(t, powercut.NewDisk(t, "ext4"))
	}
	binary, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), binary, "-test.run=^TestDiskOfAKilledTest$")
	child.Env = append(os.Environ(), childVariable+"=1", "TMPDIR="+t.TempDir())
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	path, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, child.Process.Kill())
	testkit.WaitFor(t, time.Minute, "the test to end, or to wait for its own disk", func(context.Context) error {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child.Process.Pid))
		if err == nil && !bytes.Contains(status, []byte(") Z ")) && !bytes.Contains(status, []byte(") D ")) {
			err = fmt.Errorf("it does neither: %s", status)
		}
		return err
	})

	put(t, filepath.Join(powercut.NewDisk(t, "ext4").Path(), "file"), []byte("durable?"), true)
	require.Error(t, child.Wait())
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), filepath.Dir(strings.TrimSpace(path)))
}

// writeForEver has some threads wait for the disk at any time, and prints where it is.
func writeForEver(t *testing.T, d *powercut.Disk) {
	t.Helper()
	for n := range 8 {
		go func() {
			for {
				if err := write(filepath.Join(d.Path(), fmt.Sprint(n)), make([]byte, 1<<20), true); err != nil {
					panic(err) // the parent sees it
				}
				if n == 0 {
					fmt.Println(d.Path())
				}
			}
		}()
	}
	select {}
}

// put is write for the test itself.
func put(t *testing.T, path string, content []byte, synced bool) {
	t.Helper()
	require.NoError(t, write(path, content, synced))
}

// write writes a file and its folder, synced or not.
func write(path string, content []byte, synced bool) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil && synced {
		err = errors.Join(f.Sync(), syncFolder(filepath.Dir(path)))
	}
	return errors.Join(err, f.Close())
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
