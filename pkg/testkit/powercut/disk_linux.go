package powercut

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// diskBytes is the size of a disk, of which only what was written takes room.
	diskBytes = 4 << 30
	// busyTimeout bounds how long killed processes may keep a file system busy.
	busyTimeout   = 20 * time.Second
	busyPause     = 5 * time.Millisecond
	imageName     = "image"
	mountedName   = "mounted"
	mountType     = "powercut"
	writeBytesMax = 1 << 20
	// flushTimeout bounds the wait for a flush to cut the power at.
	flushTimeout = 200 * time.Millisecond
	requestsMax  = 64
)

// makers are the commands that make each file system, without a discard of the whole device first.
//
//nolint:gochecknoglobals // a table
var makers = map[string][]string{
	"ext4":  {"mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"},
	"xfs":   {"mkfs.xfs", "-q", "-f", "-K"},
	"btrfs": {"mkfs.btrfs", "-q", "-f", "-K"},
}

// Missing returns an error that names what this machine lacks for disks with the file system, or nil.
func Missing(filesystem string) error {
	maker, known := makers[filesystem]
	if !known {
		return fmt.Errorf("file system %q: want ext4, xfs or btrfs", filesystem)
	}
	var missing []error
	if os.Geteuid() != 0 {
		missing = append(missing, errors.New("root"))
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if f, err := os.OpenFile(device, os.O_RDWR, 0); err != nil {
			missing = append(missing, err)
		} else if err := f.Close(); err != nil {
			missing = append(missing, err)
		}
	}
	for _, tool := range []string{maker[0], "losetup", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, fmt.Errorf("%w (Debian has it in e2fsprogs, xfsprogs, btrfs-progs or mount)", err))
		}
	}
	if len(missing) > 0 {
		texts := make([]string, len(missing))
		for i, err := range missing {
			texts[i] = err.Error()
		}
		return fmt.Errorf("disks that lose power, which need %s", strings.Join(texts, ", ")) // on one line, as testkit.Lacking wants it
	}
	return nil
}

// Disk is a mounted file system on a device with a volatile write cache. It ends with its test. Its
// methods fail the test instead of returning errors, so they belong to the goroutine of the test.
type Disk struct {
	t          testing.TB
	filesystem string
	dir        string // of everything
	served     string // where the FUSE file system is mounted
	image      string // the file in it
	device     string // the loop device; empty while there is none
	cache      *cache
	server     *fuse.Server
}

// NewDisk makes a disk, an empty file system of the given kind on it, and mounts that.
func NewDisk(t testing.TB, filesystem string) *Disk {
	t.Helper()
	if err := Missing(filesystem); err != nil {
		t.Fatal(err)
	}
	if err := sweep(); err != nil {
		t.Logf("what a killed test left could not be taken away: %v", err)
	}
	d := &Disk{t: t, filesystem: filesystem, dir: t.TempDir()}
	durable, err := os.Create(filepath.Join(d.dir, "durable"))
	if err != nil {
		t.Fatalf("make the durable file: %v", err)
	}
	t.Cleanup(func() { _ = durable.Close() }) // goes with its folder
	if err := durable.Truncate(diskBytes); err != nil {
		t.Fatalf("make the durable file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(d.dir, serverName), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		t.Fatalf("note who serves the disk: %v", err)
	}
	d.cache = newCache(durable, diskBytes)
	d.serve()
	d.attach()
	d.run(append(makers[filesystem][:len(makers[filesystem]):len(makers[filesystem])], d.device)...)
	if err := os.Mkdir(d.Path(), 0o755); err != nil {
		t.Fatalf("make a mount point: %v", err)
	}
	d.mount()
	return d
}

// Path is where the file system is mounted.
func (d *Disk) Path() string { return filepath.Join(d.dir, mountedName) }

// Flushes is how many flushes have reached the device.
func (d *Disk) Flushes() uint64 {
	d.cache.mu.Lock()
	defer d.cache.mu.Unlock()
	return d.cache.flushes
}

// serve starts the FUSE file system with the disk's image.
func (d *Disk) serve() {
	d.t.Helper()
	at := filepath.Join(d.dir, "fuse")
	if err := os.Mkdir(at, 0o755); err != nil {
		d.t.Fatalf("make a mount point: %v", err)
	}
	d.image, d.served = filepath.Join(at, imageName), at
	// The library's own mount lets every child of this process inherit the connection. If this process were killed, a
	// child that waits for its disk could then not die: it would wait for an answer and keep the connection itself.
	connection, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		d.t.Fatalf("open /dev/fuse: %v", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0,max_read=%d", connection, unix.S_IFDIR, writeBytesMax)
	if err := unix.Mount(mountType, at, "fuse."+mountType, unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		_ = unix.Close(connection) // nothing uses it
		d.t.Fatalf("mount the FUSE file system: %v", err)
	}
	server, err := fusefs.Mount(fmt.Sprintf("/dev/fd/%d", connection), &root{cache: d.cache}, &fusefs.Options{MountOptions: fuse.MountOptions{
		DisableXAttrs: true, MaxWrite: writeBytesMax, DisableSplice: true, MaxBackground: requestsMax,
	}})
	if err != nil {
		d.t.Fatalf("serve the FUSE file system: %v", errors.Join(err, unix.Unmount(at, unix.MNT_DETACH)))
	}
	d.server = server
	d.t.Cleanup(func() {
		d.cache.release()
		// Those who use the file system were killed before: their cleanups were registered later.
		if err := d.close(); err != nil {
			d.t.Errorf("take the disk down: %v", err)
		}
	})
}

// serverName is a file with the process that serves a disk.
const serverName = "server"

// connections is where the kernel shows the FUSE connections, by number.
const connections = "/sys/fs/fuse/connections"

// sweep takes away what a test left that was killed: the mounts of FUSE file systems whose server has ended. It asks
// nothing of them: a server that was killed while it waited for its own disk keeps its connection, and would not answer.
func sweep() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var failed []error
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line) // the manual page proc_pid_mountinfo describes them
		if len(fields) < 9 || !slices.Contains(fields[6:], "fuse."+mountType) {
			continue
		}
		if _, number, _ := strings.Cut(fields[2], ":"); !served(filepath.Dir(fields[4])) {
			failed = append(failed, abort(number), takeAway(fields[4]))
		}
	}
	return errors.Join(failed...)
}

// served reports whether the process that serves the disk in a folder lives, or may live.
func served(dir string) bool {
	pid, err := os.ReadFile(filepath.Join(dir, serverName))
	if err != nil {
		return true
	}
	status, err := os.ReadFile("/proc/" + string(pid) + "/status")
	if err != nil {
		return false
	}
	const killed = 1 << (unix.SIGKILL - 1)
	for line := range strings.Lines(string(status)) {
		switch name, value, _ := strings.Cut(line, ":"); name {
		case "State":
			if strings.HasPrefix(strings.TrimSpace(value), "Z") {
				return false
			}
		case "SigPnd", "ShdPnd":
			if pending, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil && pending&killed != 0 {
				return false // it waits for its own disk, and will die of that
			}
		}
	}
	return true
}

// abort ends a FUSE connection with everything that waits for it.
func abort(connection string) error {
	if _, err := os.Stat(filepath.Join(connections, connection)); errors.Is(err, fs.ErrNotExist) {
		if err := unix.Mount("none", connections, "fusectl", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", connections, err)
		}
	}
	err := os.WriteFile(filepath.Join(connections, connection, "abort"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended
	}
	return err
}

// takeAway unmounts a FUSE file system and what is mounted from its image.
func takeAway(at string) error {
	_ = unix.Unmount(filepath.Join(filepath.Dir(at), mountedName), unix.MNT_DETACH) // there may be none
	loops, err := filepath.Glob("/sys/block/loop*")
	failed := []error{err}
	for _, device := range loops {
		// The image itself cannot be asked any more.
		if file, err := os.ReadFile(filepath.Join(device, "loop", "backing_file")); err == nil && strings.TrimSpace(string(file)) == filepath.Join(at, imageName) {
			_, err := output("losetup", "--detach", "/dev/"+filepath.Base(device))
			failed = append(failed, err)
		}
	}
	return errors.Join(append(failed, unix.Unmount(at, unix.MNT_DETACH))...)
}

// close takes down whatever there is of the disk.
func (d *Disk) close() error {
	return errors.Join(d.unmount(), d.detach(), d.unserve())
}

// unserve unmounts the FUSE file system, and waits for the end of its server.
func (d *Disk) unserve() error {
	err := whileBusy("unmount the FUSE file system", func() error { return unix.Unmount(d.served, 0) })
	if err == nil {
		d.server.Wait()
	}
	return err
}

// attach puts a loop device over the image, without a page cache of its own. The image is opened by
// losetup and never by this process, which serves it: a fork of this process would wait for itself.
func (d *Disk) attach() {
	d.t.Helper()
	d.device = strings.TrimSpace(d.run("losetup", "--direct-io=on", "--find", "--show", d.image))
}

func (d *Disk) detach() error {
	if d.device == "" {
		return nil
	}
	if text, err := output("losetup", "--detach", d.device); err != nil {
		return fmt.Errorf("detach %s: %w: %s", d.device, err, text)
	}
	d.device = ""
	return nil
}

func (d *Disk) mount() {
	d.t.Helper()
	if err := unix.Mount(d.device, d.Path(), d.filesystem, 0, ""); err != nil {
		log, _ := output("dmesg", "--notime") // it says more, if it may be read
		d.t.Fatalf("mount %s on %s: %v\n%s", d.filesystem, d.device, err, log[max(0, len(log)-2000):])
	}
}

// unmount unmounts the file system if it is mounted.
func (d *Disk) unmount() error {
	return whileBusy("unmount "+d.Path(), func() error {
		err := unix.Unmount(d.Path(), 0)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // it is not mounted
		}
		return err
	})
}

// whileBusy repeats what fails because something still holds it: a process that was just killed, or
// a loop device, which the kernel detaches after losetup has returned.
func whileBusy(what string, do func() error) error {
	for deadline := time.Now().Add(busyTimeout); ; {
		err := do()
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", what, err)
		}
		pause := time.NewTimer(busyPause)
		<-pause.C
	}
}

// PowerOff cuts the power of the disks at the same moment, mostly one at which a flush has just arrived: between flushes
// there is little to lose, and many flushes make such moments rare. kill must kill, without waiting, every
// process that uses them: until it returns, none of their writes and flushes is answered.
func PowerOff(random *rand.Rand, outcome Outcome, kill func(), disks ...*Disk) []Cut {
	if random.IntN(4) > 0 {
		disks[random.IntN(len(disks))].cache.atFlush(flushTimeout)
	}
	var cuts []Cut
	for _, d := range disks {
		d.t.Helper()
		outcome := outcome
		if outcome == KeepTorn && d.filesystem == "xfs" {
			// A metadata block that is torn within 4 KiB is beyond its recovery ("log mount/recovery failed: error -74", a bad
			// checksum): it counts on a device that writes a sector of its own size whole. The others do not.
			outcome = KeepSome
		}
		cut, err := d.cache.cut(random, outcome)
		if err != nil {
			d.t.Fatalf("cut the power: %v", err)
		}
		cuts = append(cuts, cut)
	}
	kill()
	for _, d := range disks {
		d.cache.release()
	}
	return cuts
}

// PowerOn mounts the disk as the cut left it. The processes must have ended.
func (d *Disk) PowerOn() {
	d.t.Helper()
	if err := errors.Join(d.unmount(), d.detach()); err != nil {
		d.t.Fatalf("after the power was cut: %v", err)
	}
	d.cache.restore()
	d.attach()
	d.mount()
}

// WriteBack writes some of the dirty pages of some files under the folder to the device, as the kernel does
// whenever it likes, without a flush. So later data can be on the disk and earlier data not.
func (d *Disk) WriteBack(random *rand.Rand) {
	d.t.Helper()
	err := filepath.WalkDir(d.Path(), func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // they come and go
		}
		if err != nil || !entry.Type().IsRegular() || random.IntN(2) == 0 {
			return err
		}
		return writeBack(path, random)
	})
	if err != nil {
		d.t.Fatalf("write pages back: %v", err)
	}
}

// WriteBackFile is WriteBack for all dirty pages of one file.
func (d *Disk) WriteBackFile(path string) {
	d.t.Helper()
	if err := writeBack(path, nil); err != nil {
		d.t.Fatalf("write pages back: %v", err)
	}
}

// writeBack writes all dirty pages of a file to the device, or a part of them if random is not nil.
func writeBack(path string, random *rand.Rand) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	first, length := int64(0), int64(0) // to the end
	if random != nil && random.IntN(2) == 0 {
		first = random.Int64N(info.Size()) &^ (blockBytes - 1)
		length = 1 + random.Int64N(info.Size()-first)
	}
	const how = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return unix.SyncFileRange(int(f.Fd()), first, length, how)
}

// run runs a tool to its end, and returns what it wrote.
func (d *Disk) run(command ...string) string {
	d.t.Helper()
	text, err := output(command...)
	if err != nil {
		d.t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, text)
	}
	return text
}

func output(command ...string) (string, error) {
	text, err := exec.CommandContext(context.Background(), command[0], command[1:]...).CombinedOutput()
	return string(text), err
}

// root is the folder of the FUSE file system.
type root struct {
	fusefs.Inode
	cache *cache
}

// OnAdd adds the image.
func (r *root) OnAdd(ctx context.Context) {
	file := r.NewPersistentInode(ctx, &image{cache: r.cache}, fusefs.StableAttr{Mode: fuse.S_IFREG})
	r.AddChild(imageName, file, false)
}

// image is the file that holds the disk.
type image struct {
	fusefs.Inode
	cache *cache
}

var (
	_ fusefs.NodeOnAdder   = (*root)(nil)
	_ fusefs.NodeGetattrer = (*image)(nil)
	_ fusefs.NodeOpener    = (*image)(nil)
	_ fusefs.NodeReader    = (*image)(nil)
	_ fusefs.NodeWriter    = (*image)(nil)
	_ fusefs.NodeFsyncer   = (*image)(nil)
)

func (i *image) Getattr(_ context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size, out.Blksize = fuse.S_IFREG|0o600, uint64(i.cache.bytes), blockBytes
	return 0
}

// Open opens the image past the page cache, for the loop device has none either.
func (i *image) Open(context.Context, uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (i *image) Read(_ context.Context, _ fusefs.FileHandle, dest []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	if offset >= i.cache.bytes {
		return fuse.ReadResultData(nil), 0
	}
	dest = dest[:min(int64(len(dest)), i.cache.bytes-offset)]
	if err := i.cache.read(dest, offset); err != nil {
		return nil, syscall.EIO
	}
	return fuse.ReadResultData(dest), 0
}

func (i *image) Write(_ context.Context, _ fusefs.FileHandle, data []byte, offset int64) (uint32, syscall.Errno) {
	if err := i.cache.write(data, offset); err != nil {
		return 0, syscall.EIO
	}
	return uint32(len(data)), 0
}

func (i *image) Fsync(context.Context, fusefs.FileHandle, uint32) syscall.Errno {
	if err := i.cache.flush(); err != nil {
		return syscall.EIO
	}
	return 0
}
