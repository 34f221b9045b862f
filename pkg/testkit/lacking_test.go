package testkit_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// childLacks makes TestLacking lack something, in a process of its own.
const childLacks = "TESTKIT_CHILD_LACKS"

// A test that lacks something is skipped and noted; in CI it fails.
func TestLacking(t *testing.T) {
	t.Parallel()
	if os.Getenv(childLacks) != "" {
		testkit.Program(t, "no-such-program", "no-such-package")
		t.Fatal("it goes no further")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "lacking")
	run := func(ci string) (string, error) {
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestLacking$", "-test.v")
		cmd.Env = append(os.Environ(), childLacks+"=1", "TEST_LACKING_FILE="+file, "CI="+ci)
		output, err := cmd.CombinedOutput()
		return string(output), err
	}
	const what = "no-such-program (Debian: apt-get install no-such-package)"
	output, err := run("")
	require.NoError(t, err, output)
	require.Contains(t, output, "--- SKIP: TestLacking")
	require.Contains(t, output, "this machine lacks "+what)
	noted, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, what+"\tTestLacking\n", string(noted))

	output, err = run("true")
	require.Error(t, err, output)
	require.Contains(t, output, "--- FAIL: TestLacking")
	require.Contains(t, output, "this machine lacks "+what)
}
