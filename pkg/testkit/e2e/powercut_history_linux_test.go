package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// checkpointsEvery is the least that a sequencer takes.
const checkpointsEvery = 30 * time.Second

// moment is a time at which the power goes; until brings a deployment there that is under load.
type moment struct {
	name    string
	until   func(o *outage) error
	clients int   // powerClients if 0
	disks   []int // that lose their power; all if empty
	// rewrites means that ClickHouse makes parts of others.
	rewrites bool
}

// moments are those of one machine.
func moments() []moment {
	return []moment{
		{name: "under load", until: (*outage).someLoad},
		{name: "again, seconds after a start", until: (*outage).again},
		{name: "during a merge", rewrites: true, clients: 6, until: func(o *outage) error { return o.statement("OPTIMIZE TABLE sendhouse.messages FINAL") }},
		{name: "during a mutation", rewrites: true, clients: 6, until: func(o *outage) error {
			return o.statement("ALTER TABLE sendhouse.messages UPDATE tag_key = concat(tag_key, '') WHERE 1 SETTINGS mutations_sync = 1")
		}},
		{name: "while rows are deleted", rewrites: true, clients: 6, until: func(o *outage) error {
			return o.expiring("ALTER TABLE sendhouse.messages DELETE WHERE expire > 0 AND toUnixTimestamp(timestamp) + expire < toUnixTimestamp(now()) SETTINGS mutations_sync = 1")
		}},
		{name: "while rows expire", rewrites: true, clients: 6, until: func(o *outage) error {
			return o.expiring("ALTER TABLE sendhouse.messages MATERIALIZE TTL SETTINGS mutations_sync = 1")
		}},
	}
}

func (o *outage) someLoad() error {
	o.load.await(1 + o.random.IntN(2500))
	return nil
}

// again cuts the power twice with a start and a few sends between.
func (o *outage) again() error {
	o.load.await(1 + o.random.IntN(300))
	o.cut("under load")
	if err := o.start(); err != nil {
		return err
	}
	o.load.await(1 + o.random.IntN(50))
	o.pause(time.Second)
	return nil
}

// nearCheckpoint waits until a partition stores its state, and a little longer.
func (o *outage) nearCheckpoint() error {
	o.load.await(100)
	var before float64
	return testkit.Await(o.t.Context(), 2*checkpointsEvery, func(ctx context.Context) error {
		values, err := o.up.series(ctx, "sendhouse_sequencer_checkpoint_seconds_count", "")
		if err != nil {
			return err
		}
		stored := 0.0
		for _, v := range values {
			stored += v
		}
		if before == 0 {
			before = stored + 1
		}
		if stored < before {
			return errors.New("no checkpoint was stored")
		}
		return nil
	})
}

// statement runs a statement on a table that has some parts.
func (o *outage) statement(sql string) error {
	o.load.await(200 + o.random.IntN(500))
	o.pause(2 * time.Second) // until some of it are rows
	return o.during(sql)
}

// lightLoad is how long a light load lasts after a restart: longer than the server takes to sync what it has not synced at once.
const lightLoad = 14 * time.Second

// pastBlock fills more than a block of the message log, restarts, and continues with little load. A server that has
// restarted no longer knows which of its older blocks are not synced.
func (o *outage) pastBlock() error {
	if o.random.IntN(2) == 0 {
		if err := o.restart(o.behind); err != nil {
			return err
		}
	}
	if err := o.heavyLoad(); err != nil {
		return err
	}
	if err := o.restart(o.up); err != nil {
		return err
	}
	return o.wait(lightLoad)
}

// heavyLoad fills one to five blocks of the message log.
func (o *outage) heavyLoad() error {
	heavy := o.startHeavyLoad()
	heavy.await(300 + o.random.IntN(900)) // 10 to 40 MB
	return o.endOf(heavy)
}

func (o *outage) startHeavyLoad() *load {
	return startLoad(o.t, o.up.api, loadConfig{
		seed: o.random.Uint64(), name: "heavy-" + o.load.cfg.name, clients: 16, payloadBytesMax: 64 << 10,
	})
}

func (o *outage) endOf(l *load) error {
	records, err := l.end()
	o.records = append(o.records, records...)
	return err
}

// newBlock waits for a new block of the message log, which the kernel then writes to the disk, and nothing else.
func (o *outage) newBlock() error {
	before, err := o.newestBlock()
	if err != nil {
		return err
	}
	heavy := o.startHeavyLoad()
	var newest string
	err = testkit.Await(o.t.Context(), time.Minute, func(context.Context) (err error) {
		newest, err = o.newestBlock()
		if err == nil && newest == before {
			err = fmt.Errorf("%s is the newest block", newest)
		}
		return err
	})
	if err != nil {
		return errors.Join(err, o.endOf(heavy))
	}
	heavy.await(10)
	o.disks[0].WriteBackFile(newest)
	o.load.await(3) // their syncs bring the size of the file to the disk
	return o.endOf(heavy)
}

// newestBlock is the file that the first partition's message log is written to.
func (o *outage) newestBlock() (string, error) {
	blocks, err := filepath.Glob(filepath.Join(o.up.dataDir, "nats", "jetstream", "*", "streams", topology.MessagesStream(0), "msgs", "*.blk"))
	if err != nil {
		return "", err
	}
	if len(blocks) == 0 {
		return "", errors.New("the message log has no file")
	}
	number := func(path string) int {
		n, _ := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), ".blk")) // nothing else is there
		return n
	}
	return slices.MaxFunc(blocks, func(a, b string) int { return cmp.Compare(number(a), number(b)) }), nil
}

// blockMoments are those of a machine whose message log has many blocks, of which the cut may take any.
func blockMoments() []moment {
	return []moment{
		{name: "past a block boundary, after a restart", until: (*outage).pastBlock, clients: 1},
		{name: "right after a block boundary", until: (*outage).newBlock, clients: 1},
	}
}

func blockFlags() []string { return []string{"--wal-bytes-max=1GiB", "--messages-bytes-max=1GiB"} }

// restart stops or kills the process, and starts another one in its place.
func (o *outage) restart(next *node) error {
	if o.random.IntN(2) == 0 {
		o.up.Kill9()
	} else {
		o.up.Stop()
	}
	o.up = next
	return o.start()
}

// expiring is statement with rows that have expired.
func (o *outage) expiring(sql string) error {
	short := startLoad(o.t, o.up.api, loadConfig{seed: o.random.Uint64(), name: "short-lived-" + o.load.cfg.name, clients: 4, expire: 1})
	short.await(100)
	if err := o.endOf(short); err != nil {
		return err
	}
	return o.statement(sql)
}

// clusterMoments are those of a cluster of three: one, two or all servers lose power, and mostly another one lags behind.
func clusterMoments(random *rand.Rand) []moment {
	var all []moment
	for victims := 1; victims <= clusterSize; victims++ {
		who := random.Perm(clusterSize)
		laggard := who[victims%clusterSize]
		all = append(all, moment{
			name: fmt.Sprintf("%d of %d servers, while server %d lags", victims, clusterSize, laggard), disks: who[:victims],
			until: func(o *outage) error { return o.lagging(laggard) },
		})
	}
	return append(all, moment{name: "one server", disks: []int{random.IntN(clusterSize)}, until: (*outage).someLoad})
}

// lagging lets a server sleep while the two others take sends.
func (o *outage) lagging(server int) error {
	o.load.await(100 + o.random.IntN(1000))
	o.servers[server].Pause()
	o.load.await(100 + o.random.IntN(1000))
	return nil
}

// firstStart cuts the power at some time during the very first start.
func (o *outage) firstStart() {
	o.launch()
	o.pause(3 * time.Second)
	o.cut("during the first start")
}

// live is the life of one machine, over so many cuts. The statements are executed once, after the first start.
func (o *outage) live(all []moment, statements ...string) error {
	o.firstStart()
	if err := o.start(); err != nil {
		return err
	}
	o.table = embeddedTable(o.t, o.up)
	for _, sql := range statements {
		if err := o.up.try(o.t.Context(), sql); err != nil {
			return err
		}
	}
	return o.rounded(func() []moment { return all })
}

// rounded has rounds until there were enough cuts, each moment once before any is there again.
func (o *outage) rounded(moments func() []moment) error {
	for {
		all := moments()
		for _, i := range o.random.Perm(len(all)) {
			if o.cuts >= o.cutsMax {
				return nil
			}
			if err := o.round(all[i]); err != nil {
				return err
			}
		}
	}
}

// asyncCuts bound a life of a machine whose message log is to lose records: once some were, and it was cut, it is synced.
const asyncCuts = 4

// history is a deployment and the moments at which it loses power.
type history struct {
	name      string
	shortCuts int // in make test
	live      func(t *testing.T, filesystem string, seed uint64, cuts int) (*outage, error)
}

func histories() []history {
	machine := func(moments []moment, statements []string, flags ...string) func(*testing.T, string, uint64, int) (*outage, error) {
		return func(t *testing.T, filesystem string, seed uint64, cuts int) (*outage, error) {
			t.Helper()
			o := newMachine(t, binary(t), filesystem, seed, flags...)
			o.cutsMax = cuts
			return o, o.live(moments, statements...)
		}
	}
	eager := moments()
	if os.Getenv("POWERCUT_CUTS") != "" { // the wait for a checkpoint is long
		eager = append(eager, moment{name: "near a checkpoint", until: (*outage).nearCheckpoint})
	}
	return []history{
		{"defaults", 8, machine(moments(), nil)},
		{"eager", 5, machine(eager, []string{removedSoon},
			"--checkpoint-interval="+checkpointsEvery.String(), "--flush-interval=100ms")},
		{"blocks", 2, func(t *testing.T, filesystem string, seed uint64, cuts int) (o *outage, err error) {
			t.Helper()
			life := machine(blockMoments(), nil, blockFlags()...)
			for done := uint64(0); err == nil && done < uint64(cuts); done += uint64(o.cuts) {
				if o != nil {
					o.stop()
				}
				o, err = life(t, filesystem, seed+done, min(asyncCuts, cuts-int(done)))
			}
			return o, err
		}},
		{"cluster", 1, func(t *testing.T, filesystem string, seed uint64, cuts int) (*outage, error) {
			t.Helper()
			o := newOutageCluster(t, filesystem, seed, cmp.Or(os.Getenv("POWERCUT_SYNC_INTERVAL"), shippedSyncInterval(t)))
			o.cutsMax = cuts
			return o, o.rounded(func() []moment { return clusterMoments(o.random) })
		}},
	}
}

// shippedSyncInterval is what the configuration that is shipped says of syncing.
func shippedSyncInterval(t *testing.T) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^\s*sync_interval:\s*"?(\w+)"?\s*$`).FindStringSubmatch(shipped(t, "nats-server.conf"))
	require.NotNil(t, found)
	return found[1]
}

// TestEndToEndPowerCut cuts the power of a deployment again and again, at all kinds of moments, and after each recovery
// holds everything that was ever answered against what is there. `make powercut` does it more often, on all file systems.
func TestEndToEndPowerCut(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	//nolint:paralleltest // one at a time is load enough
	for _, filesystem := range strings.Split(cmp.Or(os.Getenv("POWERCUT_FS"), "ext4"), ",") {
		for _, h := range histories() {
			if only := os.Getenv("POWERCUT_HISTORY"); only != "" && !slices.Contains(strings.Split(only, ","), h.name) {
				continue
			}
			t.Run(h.name+" on "+filesystem, func(t *testing.T) {
				o, err := h.live(t, filesystem, seed, numberOf(t, "POWERCUT_CUTS", h.shortCuts))
				o.require(h.name, err)
			})
		}
	}
}

// removedSoon has ClickHouse remove the parts that others were made of within seconds, which on a quiet table it
// puts off for minutes: until then it can fall back on them.
const removedSoon = "ALTER TABLE sendhouse.messages MODIFY SETTING cleanup_delay_period = 1, max_cleanup_delay_period = 1, " +
	"cleanup_delay_period_random_add = 0, merge_tree_clear_old_parts_interval_seconds = 1"

// neverSynced makes ClickHouse forget what the table is made with: it then syncs what is inserted, and no part that it
// makes of others.
const neverSynced = "ALTER TABLE sendhouse.messages MODIFY SETTING min_rows_to_fsync_after_merge = 0, min_compressed_bytes_to_fsync_after_merge = 0"

// mistakeCuts bound the search for the harm of a mistake.
const mistakeCuts = 120

// harm is a deliberate mistake and what a history must find of it.
type harm struct {
	name string
	long bool // only in make powercut
	cuts int  // that one life has at most; 0 for mistakeCuts
	live func(t *testing.T, seed uint64, cuts int) (*outage, error)
	seen func(err error) bool
}

func harms(t *testing.T) []harm {
	t.Helper()
	rewrites := slices.DeleteFunc(moments(), func(m moment) bool { return !m.rewrites })
	machine := func(path func(*testing.T) string, moments []moment, statements []string, flags ...string) func(*testing.T, uint64, int) (*outage, error) {
		return func(t *testing.T, seed uint64, cuts int) (*outage, error) {
			t.Helper()
			o := newMachine(t, path(t), "ext4", seed, flags...)
			o.cutsMax = cuts
			return o, o.live(moments, statements...)
		}
	}
	trusting := mistake{name: "trusting the last sequence", edits: []edit{
		{file: "sequencer/natslog/logs.go", right: "if gap > 0 {", wrong: "if gap > state.LastSeq {"},
	}}
	relying := mistake{name: "relying on the token", edits: []edit{
		{file: "writer/doubt.go", right: "; !r.asks ||", wrong: "; true ||"},
	}}
	for _, m := range []mistake{trusting, relying} {
		m.replaced(t) // also if they are not built
	}
	return []harm{
		{
			name: "no sync after merges",
			live: machine(binary, rewrites, []string{removedSoon, neverSynced}, "--flush-interval=100ms"),
			seen: func(err error) bool {
				var rows *rowsError
				return errors.As(err, &rows) && rows.lost > 0
			},
		},
		{
			name: trusting.name, long: true, cuts: asyncCuts,
			live: machine(trusting.build, blockMoments()[1:], nil, blockFlags()...),
			seen: func(err error) bool { return err != nil }, // the writer waits for what is missing, for ever
		},
		{
			name: relying.name, long: true,
			live: machine(relying.build, moments(), nil, "--flush-interval=100ms"),
			seen: func(err error) bool {
				var rows *rowsError
				return errors.As(err, &rows) && rows.repeated > 0
			},
		},
		{
			name: "a cluster that syncs in the background", long: true,
			live: func(t *testing.T, seed uint64, cuts int) (*outage, error) {
				t.Helper()
				o := newOutageCluster(t, "ext4", seed, "10s")
				o.cutsMax = cuts
				return o, o.rounded(func() []moment { return clusterMoments(o.random) })
			},
			seen: func(err error) bool { return err != nil },
		},
	}
}

// TestEndToEndPowerCutMistakes makes a mistake on purpose, and wants the check to see what it does.
func TestEndToEndPowerCutMistakes(t *testing.T) {
	t.Parallel()
	if os.Getenv("POWERCUT_HISTORY") != "" {
		t.Skip("only some histories are wanted")
	}
	seed := newSeed(t)
	//nolint:paralleltest // one at a time is load enough
	for _, h := range harms(t) {
		t.Run(h.name, func(t *testing.T) {
			if h.long && os.Getenv("POWERCUT_CUTS") == "" {
				t.Skip("make powercut runs it")
			}
			var seen []error
			for cuts := 0; cuts < mistakeCuts; {
				o, err := h.live(t, seed+uint64(cuts), min(cmp.Or(h.cuts, mistakeCuts), mistakeCuts-cuts))
				cuts += o.cuts
				seen = append(seen, err)
				if h.seen(err) {
					t.Logf("seen after %d cuts: %v", cuts, err)
					return
				}
				o.stop()
			}
			require.Fail(t, "the mistake was not seen", "in %d cuts; what was: %v", mistakeCuts, seen)
		})
	}
}
