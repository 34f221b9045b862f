package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// image is one of our images, with its file system mounted to be read and not written, as a container has it that is
// started with --read-only.
type image struct {
	root   string
	Config struct {
		User            string
		Env             []string
		Entrypoint, Cmd []string
		Volumes         map[string]struct{}
	} `json:"config"`
}

// buildImage builds a target of the Dockerfile to its end.
func buildImage(t *testing.T, target string) *image {
	t.Helper()
	name := "sendhouse-tested:" + target
	buildah(t, "build", "--isolation=chroot", "--layers", "--file=../../../deploy/docker/Dockerfile", "--target="+target, "--build-arg=VERSION=tested", "--tag="+name, "../../..")
	container := buildah(t, "from", "--pull-never", name)
	t.Cleanup(func() { buildah(t, "rm", container) })
	var inspected struct {
		Image image `json:"OCIv1"`
	}
	require.NoError(t, json.Unmarshal([]byte(buildah(t, "inspect", "--type=image", name)), &inspected))
	i := &inspected.Image
	i.root = t.TempDir()
	mount := func(source, at, kind string, flags uintptr) {
		at = filepath.Join(i.root, at)
		require.NoError(t, syscall.Mount(source, at, kind, flags, ""), at)
		t.Cleanup(func() { require.NoError(t, syscall.Unmount(at, syscall.MNT_DETACH)) })
	}
	for _, folder := range []struct{ at, source string }{{"", buildah(t, "mount", container)}, {"dev", "/dev"}} {
		mount(folder.source, folder.at, "", syscall.MS_BIND)
		require.NoError(t, syscall.Mount("", filepath.Join(i.root, folder.at), "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	}
	mount("proc", "proc", "proc", syscall.MS_RDONLY)
	mount("sysfs", "sys", "sysfs", syscall.MS_RDONLY)
	for volume := range i.Config.Volumes {
		// As a new volume is: owned as the folder that it hides.
		dir := t.TempDir()
		info, err := os.Stat(filepath.Join(i.root, volume))
		require.NoError(t, err)
		owner, ok := info.Sys().(*syscall.Stat_t)
		require.True(t, ok)
		require.NoError(t, os.Chown(dir, int(owner.Uid), int(owner.Gid)))
		mount(dir, volume, "", syscall.MS_BIND)
	}
	return i
}

func buildah(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("buildah", args...).Output() // also at the end of the test, when its context has ended
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		require.Fail(t, "buildah failed", "%v: %s", args, failed.Stderr)
	}
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// prepare makes a process of the image, as its user, with its environment and no other.
func (i *image) prepare(t *testing.T, env, command []string, h *node) *testkit.Process {
	t.Helper()
	uid, err := strconv.Atoi(i.Config.User)
	require.NoError(t, err)
	require.NotZero(t, uid, "it runs as root")
	args := slices.Concat([]string{"--ignore-environment"}, i.Config.Env, env,
		[]string{"chroot", "--userspec=" + i.Config.User + ":" + i.Config.User, "--groups=", i.root}, i.Config.Entrypoint, command)
	cfg := testkit.ProcessConfig{Name: "image", Path: "env", Args: args}
	if h != nil {
		cfg.Ready = h.ready
	}
	return testkit.NewProcess(t, cfg)
}

// TestEndToEndImage builds the images and runs them as a container engine would that grants them nothing: no root, no
// capability, nothing to write to but the volume.
func TestEndToEndImage(t *testing.T) {
	if os.Getenv("IMAGE") == "" {
		t.Skip("builds the images, with buildah and as root: make image")
	}
	t.Parallel()
	roles := buildImage(t, "roles").prepare(t, nil, []string{"version"}, nil)
	roles.Start()
	require.Equal(t, 0, roles.Wait(time.Minute))
	require.Contains(t, roles.Output(), "tested")

	all := buildImage(t, "all")
	h := &node{api: testkit.FreeAddr(t), admin: testkit.FreeAddr(t), nats: testkit.FreeAddr(t), clickHouse: testkit.FreeAddr(t)}
	env := []string{"SENDHOUSE_NATS_ADDR=" + h.nats, "SENDHOUSE_CLICKHOUSE_ADDR=" + h.clickHouse}
	for name, addr := range map[string]string{"SENDHOUSE_API_ADDR": h.api, "SENDHOUSE_ADMIN_ADDR": h.admin} {
		require.True(t, slices.ContainsFunc(all.Config.Env, func(set string) bool { return strings.HasPrefix(set, name+"=0.0.0.0:") }), name)
		env = append(env, name+"="+strings.Replace(addr, "127.0.0.1", "0.0.0.0", 1))
	}
	closed := all.prepare(t, env, all.Config.Cmd, nil)
	closed.Start()
	require.Equal(t, 2, closed.Wait(time.Minute), "it takes sends from everybody without --insecure")
	require.Contains(t, closed.Output(), "--api-tokens-file")

	h.Process = all.prepare(t, append(env, "SENDHOUSE_INSECURE=true"), all.Config.Cmd, h)
	for n := range 2 { // the second time on what the first has left
		h.Start()
		sent := post(t, h, `{"from_uid":"u","channel_id":"g","channel_type":2,"payload":"aGk="}`)
		require.EqualValues(t, n+1, sent.MessageSeq)
		(&table{name: "sendhouse.messages", conn: open(t, "http://"+h.clickHouse+"/default")}).await(t, n+1) // as a reader: only its user has the password
		require.Equal(t, 0, h.Stop())
	}
}
