package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// buildDir is where the binary is built, if any test needs it.
var buildDir string

func TestMain(m *testing.M) {
	if dir := os.Getenv(queueDirVariable); dir != "" {
		if err := runQueueProcess(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(engineDirVariable); dir != "" {
		if err := runEngineProcess(dir, os.Getenv(engineAddrVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sendhouse-e2e-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // a left-over folder fails no test
	buildDir = dir
	return m.Run()
}

// build builds the binary as the Makefile does, once.
var build = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "sendhouse")
	cmd := exec.Command("go", "build", "-o", path, "github.com/sendhouse/sendhouse") // belongs to all tests
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, text)
	}
	return path, nil
})

func binary(t *testing.T) string {
	t.Helper()
	path, err := build()
	require.NoError(t, err)
	return path
}

// seedVariable replays a random test: TEST_SEED=… go test -run …
const seedVariable = "TEST_SEED"

// newSeed gives the seed of a random test, and prints it if the test fails.
func newSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, seedVariable)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to choose the same again: %s=%d go test -run '^%s$' ./pkg/testkit/e2e", seedVariable, seed, t.Name())
		}
	})
	return seed
}
