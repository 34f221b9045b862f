package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/engine"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

const (
	// askTimeout bounds one question to a process.
	askTimeout = 5 * time.Second
	// arriveTimeout bounds how long rows may take. How fast they should be is the benchmark's business.
	arriveTimeout = time.Minute
)

// small makes a deployment fit on a machine with little disk: JetStream reserves the size of its streams.
var small = []string{"--wal-bytes-max=256MiB", "--messages-bytes-max=512MiB"}

// node is one process of the binary under test; what it does not have is empty.
type node struct {
	*testkit.Process
	path                         string // of the binary
	api, admin, nats, clickHouse string // host:port
	dataDir                      string
	args                         []string
}

// newUp prepares `sendhouse up` on free ports and an empty data folder. Flags that come later win.
func newUp(t *testing.T, flags ...string) *node {
	t.Helper()
	return newUpOn(t, t.TempDir(), flags...)
}

func newUpOn(t *testing.T, dataDir string, flags ...string) *node {
	t.Helper()
	return newUpOf(t, binary(t), dataDir, flags...)
}

// newUpOf prepares `up` of another binary.
func newUpOf(t *testing.T, path, dataDir string, flags ...string) *node {
	t.Helper()
	h := &node{
		path: path,
		api:  testkit.FreeAddr(t), admin: testkit.FreeAddr(t), nats: testkit.FreeAddr(t), clickHouse: testkit.FreeAddr(t),
		dataDir: dataDir,
	}
	dataDirs.Store(h.nats, dataDir)
	t.Cleanup(func() { dataDirs.CompareAndDelete(h.nats, dataDir) }) // another test may get the port, for a server that has no folder
	h.args = append([]string{
		"up", "--data-dir=" + dataDir, "--api-addr=" + h.api, "--admin-addr=" + h.admin,
		"--nats-addr=" + h.nats, "--clickhouse-addr=" + h.clickHouse,
	}, small...)
	h.args = append(h.args, flags...)
	h.prepare(t, "up")
	return h
}

// newRole prepares a role that runs apart.
func newRole(t *testing.T, role string, flags ...string) *node {
	t.Helper()
	h := &node{path: binary(t), admin: testkit.FreeAddr(t)}
	h.args = []string{role, "--admin-addr=" + h.admin}
	if role == "ingest" {
		h.api = testkit.FreeAddr(t)
		h.args = append(h.args, "--api-addr="+h.api)
	}
	h.args = append(h.args, flags...)
	h.prepare(t, role)
	return h
}

// with prepares another process in the place of this one, with more flags.
func (h *node) with(t *testing.T, flags ...string) *node {
	t.Helper()
	other := *h
	other.args = slices.Concat(h.args, flags)
	other.prepare(t, "up with "+strings.Join(flags, " "))
	return &other
}

func (h *node) prepare(t *testing.T, name string) {
	t.Helper()
	h.Process = testkit.NewProcess(t, testkit.ProcessConfig{
		Name: name, Path: h.path, Args: asOperator(h.args), Ready: func(ctx context.Context) error { return h.ready(ctx) },
	})
}

// ready is nil if the process says that it is able to serve.
func (h *node) ready(ctx context.Context) error {
	status, body, err := ask(ctx, "http://"+h.admin+"/readyz")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("/readyz: %d %s", status, body)
	}
	return nil
}

// awaitNotReady waits until the process says that it is not able to serve, and why.
func (h *node) awaitNotReady(t *testing.T, why string) {
	t.Helper()
	testkit.WaitFor(t, arriveTimeout, "/readyz to say no", func(ctx context.Context) error {
		status, body, err := ask(ctx, "http://"+h.admin+"/readyz")
		if err == nil && (status != http.StatusServiceUnavailable || !strings.Contains(body, why)) {
			err = fmt.Errorf("it says %d %s", status, body)
		}
		return err
	})
}

// awaitAPI waits until /readyz of the API answers with the status and a text that contains what is said.
func (h *node) awaitAPI(t *testing.T, status int, said string) {
	t.Helper()
	testkit.WaitFor(t, arriveTimeout, fmt.Sprintf("/readyz of the API to say %d %s", status, said), func(ctx context.Context) error {
		got, body, err := ask(ctx, "http://"+h.api+"/readyz")
		if err == nil && (got != status || !strings.Contains(body, said)) {
			err = fmt.Errorf("it says %d %s", got, body)
		}
		return err
	})
}

func (h *node) awaitReady(t *testing.T) {
	t.Helper()
	testkit.WaitFor(t, arriveTimeout, "/readyz to say yes", h.ready)
}

// awaitCheckpoints waits until each partition of the process has stored its state.
func (h *node) awaitCheckpoints(t *testing.T) {
	t.Helper()
	stored := regexp.MustCompile(`(?m)^sendhouse_sequencer_checkpoint_bytes\{partition="\d+"\} [1-9]`)
	none := regexp.MustCompile(`(?m)^sendhouse_sequencer_checkpoint_bytes\{partition="\d+"\} 0$`)
	testkit.WaitFor(t, arriveTimeout, "checkpoints", func(ctx context.Context) error {
		_, page, err := ask(ctx, "http://"+h.admin+"/metrics")
		if err == nil && (!stored.MatchString(page) || none.MatchString(page)) {
			err = errors.New("there are partitions without one")
		}
		return err
	})
}

// requireRuns fails the test if the process has ended.
func (h *node) requireRuns(t *testing.T) {
	t.Helper()
	select {
	case <-h.Done():
		require.Fail(t, "the process has ended")
	default:
	}
}

// query asks the embedded ClickHouse in plain HTTP.
func (h *node) query(t *testing.T, sql string) string {
	t.Helper()
	status, body, err := ask(t.Context(), "http://"+h.clickHouse+"/?query="+url.QueryEscape(sql))
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, body)
	return body
}

// owner are the flags of a command that may do everything in the embedded ClickHouse.
func (h *node) owner(database string) []string {
	return append(ownerFlags(h.dataDir), "--clickhouse-dsn=http://"+h.clickHouse+"/"+database)
}

func ownerFlags(dataDir string) []string {
	return []string{"--clickhouse-user=" + engine.User, "--clickhouse-password-file=" + filepath.Join(dataDir, engine.PasswordFile)}
}

// password is that of the embedded ClickHouse, which makes it when it is first started.
func (h *node) password() (string, error) {
	text, err := os.ReadFile(filepath.Join(h.dataDir, engine.PasswordFile))
	return strings.TrimSpace(string(text)), err
}

// ownerDSN is that of a driver that may do everything in the embedded ClickHouse, which has been launched once.
func (h *node) ownerDSN(t *testing.T) string {
	t.Helper()
	var secret string
	testkit.WaitFor(t, arriveTimeout, "the password of ClickHouse", func(context.Context) (err error) {
		secret, err = h.password()
		return err
	})
	return "http://" + engine.User + ":" + secret + "@" + h.clickHouse + "/default"
}

// execute has the embedded ClickHouse do something.
func (h *node) execute(t *testing.T, sql string) {
	t.Helper()
	require.NoError(t, h.try(t.Context(), sql))
}

// try is execute for a process that may end.
func (h *node) try(ctx context.Context, sql string) error {
	secret, err := h.password()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+h.clickHouse+"/", strings.NewReader(sql))
	if err != nil {
		return err
	}
	req.SetBasicAuth(engine.User, secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", sql, resp.Status, text)
	}
	return nil
}

// ask gets a page.
func ask(ctx context.Context, address string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return 0, "", err
	}
	return resp.StatusCode, string(text), nil
}
