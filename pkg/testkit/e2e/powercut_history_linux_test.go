package e2e

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// checkpointsEvery is the least that a sequencer takes.
const checkpointsEvery = 30 * time.Second

// moment is a time at which the power goes; until brings a deployment there that is under load.
type moment struct {
	name  string
	until func(o *outage) error
}

// moments are those of one machine.
func moments() []moment {
	return []moment{
		{"under load", (*outage).someLoad},
		{"again, seconds after a start", (*outage).again},
		{"during a merge", func(o *outage) error { return o.statement("OPTIMIZE TABLE sendhouse.messages FINAL") }},
		{"during a mutation", func(o *outage) error {
			return o.statement("ALTER TABLE sendhouse.messages UPDATE tag_key = concat(tag_key, '') WHERE 1 SETTINGS mutations_sync = 1")
		}},
		{"while rows are deleted", func(o *outage) error {
			return o.expiring("ALTER TABLE sendhouse.messages DELETE WHERE expire > 0 AND toUnixTimestamp(timestamp) + expire < toUnixTimestamp(now()) SETTINGS mutations_sync = 1")
		}},
		{"while rows expire", func(o *outage) error {
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
	o.load.await(200 + o.random.IntN(2000))
	o.pause(2 * time.Second) // until some of it are rows
	return o.during(sql)
}

// expiring is statement with rows that have expired.
func (o *outage) expiring(sql string) error {
	short := startLoad(o.t, o.up.api, loadConfig{seed: o.random.Uint64(), name: "short-lived-" + o.load.cfg.name, clients: 4, expire: 1})
	short.await(100)
	records, err := short.end()
	o.records = append(o.records, records...)
	if err != nil {
		return err
	}
	return o.statement(sql)
}

// firstStart cuts the power at some time during the very first start.
func (o *outage) firstStart() {
	o.interrupted()
	o.pause(3 * time.Second)
	o.cut("during the first start")
}

// live is the life of one machine, over so many cuts.
func (o *outage) live(all []moment) error {
	o.firstStart()
	if err := o.start(); err != nil {
		return err
	}
	for o.cuts < o.cutsMax {
		for _, i := range o.random.Perm(len(all)) {
			if o.cuts >= o.cutsMax {
				break
			}
			if err := o.round(all[i].name, all[i].until); err != nil {
				return err
			}
		}
	}
	return nil
}

// shortCuts are the cuts of each history in `make test`.
const shortCuts = 8

// TestEndToEndPowerCut cuts the power of a deployment again and again, at all kinds of moments, and after each recovery
// holds everything that was ever answered against what is there. `make powercut` does it more often, on all file systems.
func TestEndToEndPowerCut(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	for _, filesystem := range strings.Split(cmp.Or(os.Getenv("POWERCUT_FS"), "ext4"), ",") {
		for name, flags := range histories() {
			if only := os.Getenv("POWERCUT_HISTORY"); only != "" && !slices.Contains(strings.Split(only, ","), name) {
				continue
			}
			t.Run(name+" on "+filesystem, func(t *testing.T) { //nolint:paralleltest // one at a time is load enough
				o := newMachine(t, filesystem, seed, flags...)
				o.cutsMax = numberOf(t, "POWERCUT_CUTS", shortCuts)
				o.require(name, o.live(moments()))
			})
		}
	}
}

// histories are the settings of one machine, by name.
func histories() map[string][]string {
	return map[string][]string{
		"defaults": nil,
		"eager":    {"--checkpoint-interval=" + checkpointsEvery.String(), "--flush-interval=100ms"},
	}
}
