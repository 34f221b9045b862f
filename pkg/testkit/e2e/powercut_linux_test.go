package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/testkit/powercut"
)

const (
	// recoverTimeout bounds how long a start after a cut may take.
	// The servers of a cluster take longest, which elect and copy after it.
	recoverTimeout = 3 * time.Minute
	// derivedTimeout bounds how long what was answered may take to become rows after a cut.
	derivedTimeout = 30 * time.Second
	// retryWindow is how old an answer may be that a retry must get again: less than the deduplication
	// window, which is 10 minutes.
	retryWindow = 8 * time.Minute
	// retriesOfOld is how many answers from before the last check are asked for again.
	retriesOfOld   = 200
	retryClients   = 32
	powerClients   = 32
	statementLimit = 30 * time.Second
	// sourcesGone is how soon ClickHouse has removed the parts that others were made of.
	sourcesGone = 4 * time.Second
	// behindInterval is longer than the server takes to sync what it has not synced at once.
	behindInterval = time.Minute
)

// outage is a deployment that loses power again and again, with clients that keep what they were answered. What it
// finds wrong is an error, so that a test can also want it to find something.
type outage struct {
	t          *testing.T
	random     *rand.Rand
	seed       uint64
	filesystem string
	cutsMax    int

	disks []*powercut.Disk
	// processes are those that write to a disk.
	processes func(disk int) []*testkit.Process
	// launch starts what is not running, without waiting.
	launch func()

	up      *node                 // has the API and ClickHouse
	usual   *node                 // what up is again after a cut
	behind  *node                 // the same with a writer that is slow
	servers []*testkit.NATSServer // of a cluster, one on each disk
	natsURL string
	table   *table

	cuts     int
	rounds   int
	load     *load
	records  []*record
	checked  int // so many of them have been asked for again
	verified time.Duration
}

// missingDisks ends a test that needs disks that lose power if they cannot be made.
func missingDisks(t *testing.T, filesystem string) {
	t.Helper()
	if err := powercut.Missing(filesystem); err != nil {
		testkit.Lacking(t, err.Error())
	}
}

// newMachine prepares one machine with one disk: `sendhouse up`, of this binary, with all there is inside.
func newMachine(t *testing.T, path, filesystem string, seed uint64, flags ...string) *outage {
	t.Helper()
	missingDisks(t, filesystem)
	o := &outage{t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 3)), filesystem: filesystem}
	disk := powercut.NewDisk(t, filesystem)
	o.disks = []*powercut.Disk{disk}
	o.up = newUpOf(t, path, disk.Path()+"/data", flags...)
	o.usual, o.behind = o.up, o.up.with(t, "--flush-interval="+behindInterval.String())
	o.natsURL = "nats://" + o.up.nats
	o.processes = func(int) []*testkit.Process { return []*testkit.Process{o.up.Process} }
	o.launch = func() { o.up.Launch() }
	return o
}

// newOutageCluster prepares three NATS servers, each on a disk of its own, and starts `sendhouse up` on a disk that keeps its
// power.
func newOutageCluster(t *testing.T, filesystem string, seed uint64, syncInterval string) *outage {
	t.Helper()
	missingDisks(t, filesystem)
	o := &outage{t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 3)), filesystem: filesystem}
	options := testkit.NATSOptions{SyncInterval: syncInterval}
	for range clusterSize {
		disk := powercut.NewDisk(t, filesystem)
		o.disks = append(o.disks, disk)
		options.StoreDirs = append(options.StoreDirs, disk.Path()+"/jetstream")
	}
	o.servers = testkit.StartNATSCluster(t, options)
	o.natsURL = urlOf(o.servers)
	o.up = newUp(t, "--nats-url="+o.natsURL, "--replicas=3", "--partitions=1", "--flush-interval=200ms")
	o.usual = o.up
	o.processes = func(disk int) []*testkit.Process { return []*testkit.Process{o.servers[disk].Process} }
	o.launch = func() {
		for _, s := range o.servers {
			select {
			case <-s.Done():
				s.Launch()
			default:
			}
		}
	}
	o.up.Start()
	o.table = embeddedTable(t, o.up)
	return o
}

// start starts what is not running, and waits until all are ready.
func (o *outage) start() error {
	o.launch()
	for _, s := range o.servers {
		if err := testkit.Await(o.t.Context(), recoverTimeout, s.Healthy); err != nil {
			return fmt.Errorf("start %s after a cut: %w", s.Name, err)
		}
	}
	return o.ready()
}

// ready waits until the deployment serves.
func (o *outage) ready() error {
	err := testkit.Await(o.t.Context(), recoverTimeout, func(ctx context.Context) error {
		select {
		case <-o.up.Done():
			return nil
		default:
			return o.up.ready(ctx)
		}
	})
	select {
	case <-o.up.Done():
		err = errors.New("the process has ended")
	default:
	}
	if err != nil {
		return fmt.Errorf("start after a cut: %w\n%s", err, o.up.Output())
	}
	return nil
}

// begin starts the clients of a round.
func (o *outage) begin(clients int) {
	o.load = startLoad(o.t, o.up.api, loadConfig{seed: o.random.Uint64(), name: fmt.Sprintf("r%d-", o.rounds), clients: clients})
}

// cut cuts the power of some of the disks, or of all, and turns it on again. The processes on them are dead then.
func (o *outage) cut(when string, disks ...int) {
	o.t.Helper()
	if len(disks) == 0 {
		for i := range o.disks {
			disks = append(disks, i)
		}
	}
	var off []*powercut.Disk
	var processes []*testkit.Process
	for _, i := range disks {
		off, processes = append(off, o.disks[i]), append(processes, o.processes(i)...)
	}
	if o.random.IntN(2) == 0 {
		for _, d := range off {
			d.WriteBack(o.random)
		}
	}
	cuts := powercut.PowerOff(o.random, powercut.RandomOutcome(o.random), func() {
		for _, p := range processes {
			p.Signal(syscall.SIGKILL)
		}
	}, off...)
	for _, p := range processes {
		<-p.Done()
	}
	for _, d := range off {
		d.PowerOn()
	}
	o.up = o.usual
	o.cuts++
	o.t.Logf("cut %d, %s, of disks %v: %v", o.cuts, when, disks, cuts)
}

// round is one or more cuts with a check after them. until brings the deployment, which is under load, to the moment of
// the cut.
func (o *outage) round(m moment) error {
	o.rounds++
	begun := time.Now()
	o.begin(cmp.Or(m.clients, powerClients))
	if err := m.until(o); err != nil {
		return fmt.Errorf("before a cut (%s): %w", m.name, err)
	}
	o.cut(m.name, m.disks...)
	for _, s := range o.servers {
		s.Resume()
	}
	for o.cuts < o.cutsMax && o.random.IntN(4) == 0 {
		o.launch()
		o.pause(1500 * time.Millisecond)
		o.cut("during the recovery", m.disks...)
	}
	if err := o.start(); err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return fmt.Errorf("after cut %d (%s): %w", o.cuts, m.name, err)
	}
	o.t.Logf("round %d: %d sends answered so far, all well; %.1fs, of which the check took %.1fs; what else the clients saw: %v",
		o.rounds, len(o.records), time.Since(begun).Seconds(), o.verified.Seconds(), o.load.outcomes)
	return nil
}

// pause lets some time pass, at most so much: for power goes at any time.
func (o *outage) pause(most time.Duration) {
	_ = o.wait(time.Duration(o.random.Int64N(int64(most)))) // what comes next ends with the context, too
}

func (o *outage) wait(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-o.t.Context().Done():
		return o.t.Context().Err()
	}
}

// check lets the clients of the round end, and holds all that was ever answered against the deployment.
func (o *outage) check() error {
	begun := time.Now()
	records, err := o.load.end()
	o.records = append(o.records, records...)
	if err != nil {
		return err
	}
	err = errors.Join(o.retry(), o.rows(), o.audit())
	o.verified = time.Since(begun)
	return err
}

// retry sends again what was answered since the last check, and some of what was answered before. Each must be
// given its answer again.
func (o *outage) retry() error {
	again := append([]*record(nil), o.records[o.checked:]...)
	for range min(retriesOfOld, o.checked) {
		again = append(again, o.records[o.random.IntN(o.checked)])
	}
	o.checked = len(o.records)
	todo := make(chan *record, len(again))
	for _, r := range again {
		if time.Since(r.answered) < retryWindow {
			todo <- r
		}
	}
	close(todo)
	var clients sync.WaitGroup
	for range retryClients {
		clients.Go(func() {
			for r := range todo {
				if !o.load.repeat(o.t.Context(), r) {
					return
				}
			}
		})
	}
	clients.Wait()
	if err := o.load.wrong(); err != nil {
		return fmt.Errorf("retries: %w", err)
	}
	return nil
}

// rows waits until everything that was answered is a row, and wants each to be right, without FINAL.
func (o *outage) rows() error {
	var v *verification
	err := testkit.Await(o.t.Context(), derivedTimeout, func(ctx context.Context) error {
		alive := 0
		for _, r := range o.records {
			if !r.expired() {
				alive++
			}
		}
		n, err := o.table.count(ctx)
		if err == nil && n < uint64(alive) {
			err = fmt.Errorf("%d of %d rows are there", n, alive)
		}
		if err != nil {
			return err
		}
		if v = inspect(o.table.rows(o.t), o.records); v.lost > 0 {
			return errors.New(v.summary())
		}
		return nil
	})
	if err != nil && o.t.Context().Err() != nil {
		return err
	}
	if v == nil {
		v = inspect(o.table.rows(o.t), o.records)
	}
	if len(v.problems) > 0 {
		return &rowsError{v}
	}
	return nil
}

// rowsError is the error of rows that are not what was answered.
type rowsError struct{ *verification }

// Error says how many, and which first.
func (e *rowsError) Error() string {
	const most = 5
	return e.summary() + ":\n  " + strings.Join(e.problems[:min(most, len(e.problems))], "\n  ")
}

// audit has the service compare its logs and the rows.
func (o *outage) audit() error {
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	args := append([]string{"audit", "--log-level=error", "--nats-url=" + o.natsURL}, o.up.owner("sendhouse")...)
	text, err := exec.CommandContext(ctx, binary(o.t), asOperator(args)...).CombinedOutput()
	if err != nil { // its last line has the sum of the report
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		return fmt.Errorf("audit: %w: %s", err, lines[len(lines)-1])
	}
	return nil
}

// inBackground has ClickHouse do something that the cut may find under way; done is closed at its end.
func (o *outage) inBackground(sql string) (done <-chan error) {
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(o.t.Context(), statementLimit)
	go func() { // ends with the process that it asks
		defer cancel()
		ended <- o.up.try(ctx, sql)
	}()
	return ended
}

// during has ClickHouse do something, and returns at some time while it does, or soon after it has.
func (o *outage) during(sql string) error {
	done := o.inBackground(sql)
	if o.random.IntN(2) == 0 {
		o.pause(300 * time.Millisecond)
		return nil
	}
	if err := <-done; err != nil {
		return err
	}
	o.pause(sourcesGone)
	return nil
}

// stop kills what runs, so that another deployment can have the machine.
func (o *outage) stop() {
	o.load.stop()
	o.up.Signal(syscall.SIGKILL)
	for _, s := range o.servers {
		s.Signal(syscall.SIGKILL)
	}
}

// require fails the test with what went wrong and how to do it again.
func (o *outage) require(target string, err error) {
	o.t.Helper()
	if err != nil {
		o.t.Logf("to do the like again: make powercut SEED=%d CUTS=%d FS=%s HISTORY='%s'", o.seed, o.cutsMax, o.filesystem, target)
	}
	require.NoError(o.t, err)
}
