package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit/enginetest"
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
	if isServer, err := enginetest.RunServer(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	} else if isServer {
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
var build = sync.OnceValues(func() (string, error) { return buildAs("sendhouse") })

func buildAs(name string, flags ...string) (string, error) {
	path := filepath.Join(buildDir, name)
	args := append([]string{"build", "-o", path}, flags...)
	cmd := exec.Command("go", append(args, "github.com/sendhouse/sendhouse")...) // belongs to all tests
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, text)
	}
	return path, nil
}

// buildOver builds a binary of which some source files are replaced by others.
func buildOver(name string, replaced map[string]string) (string, error) {
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		return "", fmt.Errorf("encode the overlay: %w", err)
	}
	list := filepath.Join(buildDir, name+".json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", err
	}
	return buildAs(name, "-overlay="+list)
}

// mistake is a change to the product's source that a test makes in a binary of its own, to see that it is noticed.
type mistake struct {
	name  string
	edits []edit
}

type edit struct {
	file         string // from the root of the module
	right, wrong string // right is in the file once
}

func (m mistake) build(t *testing.T) string {
	t.Helper()
	path, err := buildOver("sendhouse-"+strings.ReplaceAll(m.name, " ", "-"), m.replaced(t))
	require.NoError(t, err)
	return path
}

// replaced writes the files with the mistake, and returns their paths by those of the files that they replace.
func (m mistake) replaced(t *testing.T) map[string]string {
	t.Helper()
	root, err := filepath.Abs("../../..")
	require.NoError(t, err)
	dir := t.TempDir()
	replaced := make(map[string]string)
	for i, e := range m.edits {
		file := filepath.Join(root, e.file)
		source, err := os.ReadFile(cmp.Or(replaced[file], file))
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(source), e.right), "%s: the place of the mistake has changed", e.file)
		replaced[file] = filepath.Join(dir, fmt.Sprintf("%d.go", i))
		require.NoError(t, os.WriteFile(replaced[file], []byte(strings.Replace(string(source), e.right, e.wrong, 1)), 0o600))
	}
	return replaced
}

func binary(t *testing.T) string {
	t.Helper()
	path, err := build()
	require.NoError(t, err)
	return path
}

// seedVariable replays a random test: TEST_SEED=… go test -run …
const seedVariable = "TEST_SEED"

// newSeed returns the seed of a random test, and prints it if the test fails.
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
