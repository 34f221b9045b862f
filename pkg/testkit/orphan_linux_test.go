package testkit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// TestProcessesDieWithTheTestBinary runs itself in a process of its own, which starts a command and
// is then killed before it can clean up.
func TestProcessesDieWithTheTestBinary(t *testing.T) {
	t.Parallel()
	const mark = "TESTKIT_TEST_ORPHAN"
	if os.Getenv(mark) != "" {
		p := testkit.StartProcess(t, testkit.ProcessConfig{Path: "sleep", Args: []string{"1000"}})
		fmt.Println("pid", p.PID())
		p.Wait(time.Hour)
		return
	}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self, "-test.run", "^TestProcessesDieWithTheTestBinary$")
	cmd.Env = append(os.Environ(), mark+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())

	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	word, number, _ := strings.Cut(lines.Text(), " ")
	require.Equal(t, "pid", word)
	child, err := strconv.Atoi(number)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(child, 0))

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	testkit.WaitFor(t, time.Minute, "the command to be gone", func(context.Context) error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if errors.Is(err, os.ErrNotExist) || err == nil && strings.Contains(string(stat), ") Z ") {
			return nil // gone, or dead and not yet collected by the process that has inherited it
		}
		return errors.Join(errors.New("it is still there"), err)
	})
}
