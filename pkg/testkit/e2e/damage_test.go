package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// The long form of TestEndToEndDamage: `make damage CASES=400 SEED=1`.
const (
	damageCasesVariable = "DAMAGE_CASES"
	damageSeedVariable  = "DAMAGE_SEED"
	damageOnlyVariable  = "DAMAGE_ONLY" // a part of the names of the cases that are chosen from
)

// damageVerdict is what a case came to.
type damageVerdict string

const (
	damageHealed   damageVerdict = "healed"   // well without a word, or with one
	damageNamed    damageVerdict = "named"    // continues, and what is not well is named
	damageRepaired damageVerdict = "repaired" // refused, and well after the command that was named
	damageRestore  damageVerdict = "restore"  // refused, and a backup has to be restored
	damageFailed   damageVerdict = "FAILED"
)

// shortDamage are the cases of `make test`, one for each way in which something can go wrong.
func shortDamage() []string {
	return []string{
		"up/SENDS_{p}/deleted/stopped",
		"up/MESSAGES_{p}/stray/running",
		"up/MESSAGES_{p}/file: bit flipped/stopped",
		"up/KV_SENDHOUSE/bit flipped/stopped",
		"up/KV_SENDHOUSE_CHECKPOINTS/bit flipped/stopped",
		"up/OBJ_CHECKPOINTS/purged/stopped",
		"up/KV_SENDHOUSE_PERMISSIONS/bit flipped/running",
		"up/table/dropped/running",
		"up/parts/file: bit flipped/stopped",
		"up/SENDS_{p}/max_msgs/running",
		"apart/KV_SENDHOUSE_WRITER/key deleted/stopped",
		"apart/MESSAGES_{p}/older copy/stopped",
	}
}

// TestEndToEndDamage damages one thing of a deployment, and wants one of: it heals by itself; it continues, and what is damaged is named;
// it refuses, and is well after the command that it names. Never may it be silent, fail open, give a number out twice, or lose a message
// that was answered.
func TestEndToEndDamage(t *testing.T) {
	t.Parallel()
	cases := drawDamage(t)
	templates := make(map[bool]*damageTemplate)
	for _, c := range cases {
		if templates[c.aged] == nil {
			templates[c.aged] = newDamageTemplate(t, c.aged)
		}
	}
	summary := &damageSummary{verdicts: make(map[string]map[damageVerdict]int)}
	t.Run("cases", func(t *testing.T) {
		for _, c := range cases {
			runDamage(t, c, templates[c.aged], summary)
		}
	})
	t.Log(summary)
}

// damageDraw is a case that was chosen: all else follows from the seed.
type damageDraw struct {
	seed uint64
	cell damageCell
	aged bool // the template's write-ahead logs have been trimmed
}

func drawOf(seed uint64, cells []damageCell) damageDraw {
	return damageDraw{seed, cells[seed%uint64(len(cells))], rand.New(rand.NewPCG(seed, 3)).IntN(2) == 1}
}

// replay is the command that runs the case alone.
func (d damageDraw) replay() string {
	return fmt.Sprintf("make damage ONLY='%s' CASES=1 SEED=%d", d.cell, d.seed)
}

// drawDamage chooses the cases: each seed another cell, so that as many seeds as there are cells are all of them.
func drawDamage(t *testing.T) (cases []damageDraw) {
	t.Helper()
	cells := damageCells()
	slices.SortFunc(cells, func(a, b damageCell) int { return cmp.Compare(a.String(), b.String()) })
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(cells), func(i, j int) { cells[i], cells[j] = cells[j], cells[i] })
	text := os.Getenv(damageCasesVariable)
	if text == "" {
		for _, name := range shortDamage() {
			n := slices.IndexFunc(cells, func(c damageCell) bool { return c.String() == name })
			require.NotEqual(t, -1, n, name)
			draw := drawOf(uint64(len(cases)), cells[n:n+1])
			for draw.aged { // takes a minute to prepare
				draw = drawOf(draw.seed+uint64(len(shortDamage())), cells[n:n+1])
			}
			cases = append(cases, draw)
		}
		return cases
	}
	only := os.Getenv(damageOnlyVariable)
	cells = slices.DeleteFunc(cells, func(c damageCell) bool { return !strings.Contains(c.String(), only) })
	require.NotEmpty(t, cells, damageOnlyVariable)
	n, err := strconv.ParseUint(text, 10, 32)
	require.NoError(t, err, damageCasesVariable)
	first, err := strconv.ParseUint(cmp.Or(os.Getenv(damageSeedVariable), "1"), 10, 64)
	require.NoError(t, err, damageSeedVariable)
	for seed := first; seed < first+n; seed++ {
		cases = append(cases, drawOf(seed, cells))
	}
	return cases
}

// runDamage runs one case as a test of its own.
func runDamage(t *testing.T, draw damageDraw, template *damageTemplate, summary *damageSummary) {
	t.Helper()
	t.Run(fmt.Sprintf("%d/%s", draw.seed, strings.NewReplacer(" ", "_", ":", "", "{p}", "p").Replace(draw.cell.String())), func(t *testing.T) {
		t.Parallel()
		c := &damageCase{
			t: t, ctx: t.Context(), damageDraw: draw, dir: filepath.Join(t.TempDir(), "data"), dice: &dice{Rand: rand.New(rand.NewPCG(draw.seed, 2))},
		}
		verdict, why := damageFailed, "it did not end"
		t.Cleanup(func() {
			if t.Failed() {
				verdict = damageFailed
			}
			summary.add(c, verdict, why)
		})
		c.prepare(template)
		verdict, why = c.run()
		if len(c.wrong) > 0 {
			verdict, why = damageFailed, strings.Join(c.wrong, "; ")
		}
		t.Logf("%s: %s %v", verdict, why, c.notes)
		if verdict == damageFailed {
			t.Errorf("%s\nto run this case alone: %s", why, draw.replay())
		}
	})
}

func (c *damageCase) prepare(template *damageTemplate) {
	c.template, c.partition = template, c.IntN(damagePartitions)
	c.records = slices.Clone(template.records)
	c.places, c.ids, c.before = make(map[place]string), make(map[int64]string), make(map[string]string)
	for _, r := range template.records {
		c.places[place{r.channel(), r.channelType, r.seq}], c.ids[r.id] = r.clientMsgNo, r.clientMsgNo
	}
	copyTree(c.t, template.dir, c.dir)
	c.damageDeployment = newDamageDeployment(c.t, c.dir, c.cell.apart)
}

// run damages and judges.
func (c *damageCase) run() (damageVerdict, string) {
	if err := c.damage(); err != nil {
		c.t.Fatalf("damage %s: %v", c.cell, err)
	}
	verdict, why := c.judge()
	if strings.Contains(c.output(), "panic:") || strings.Contains(c.output(), "goroutine 1 [") {
		c.never("a process panicked")
	}
	return verdict, why
}

// damage does it, and leaves the roles started.
func (c *damageCase) damage() error {
	kind := c.cell.kind
	switch {
	case kind.files != nil:
		if err := kind.files(c, c.stream()); err != nil {
			return err
		}
		c.launchServers(c.t)
		c.launch()
		return nil
	case !c.cell.live && !c.cell.apart: // only NATS can be asked then
		var err error
		withNATS(c.t, c.dir, c.damageDeployment.nats, func(js jetstream.JetStream) { err = kind.api(c, c.ctx, js, c.stream()) })
		c.launch()
		return err
	}
	c.launchServers(c.t)
	if c.cell.live {
		c.launch()
		for _, role := range c.roles {
			role.WaitReady()
		}
		c.before = c.alerts(c.ctx)
		c.sendSome(4)
	}
	var err error
	if kind.api != nil {
		err = kind.api(c, c.ctx, c.js, c.stream())
	} else {
		err = within(c.ctx, arriveTimeout, func(ctx context.Context) error { return c.table.conn.Exec(ctx, kind.sql(c)) })
	}
	if err != nil || !c.cell.live {
		c.launch()
		return err
	}
	c.sendSome(3)
	switch c.IntN(3) {
	case 0:
		c.note("then stopped and started")
		c.stopRoles(c.t, false)
		c.launch()
	case 1:
		c.note("then killed and started")
		c.stopRoles(c.t, true)
		c.launch()
	}
	return nil
}

// judge waits until the deployment is well, does what it says, and says what it came to.
func (c *damageCase) judge() (damageVerdict, string) {
	begun := time.Now()
	var last *health
	err := within(c.ctx, healMax, func(ctx context.Context) error {
		c.supervise()
		c.lookInto(ctx, &last)
		if len(c.wrong) > 0 {
			return nil
		}
		if time.Since(begun) > namedMax && last.err() != nil && len(c.unserved(last)) == 0 && len(c.waysOut(c.said(ctx))) > 0 {
			return nil
		}
		return last.err()
	})
	said := c.said(c.ctx)
	if len(c.wrong) > 0 {
		return damageFailed, "" // the caller has the reasons
	}
	if err == nil && last.err() == nil {
		return c.judgeWell(said)
	}
	c.othersServed(last)
	if last.rowsOnly && c.cell.kind.name == "row changed" { // by hand, and in the place of the right one: only the audit compares contents
		if status, report := c.audit(); status == 1 {
			return damageNamed, "by the audit: " + tailOf(report)
		}
	}
	if !c.names(said) {
		return damageFailed, fmt.Sprintf("silent: %v\nwhat was said:\n%s", oneLine(last.err()), tailOf(said))
	}
	if c.mayNeedBackup() && (strings.Contains(said, "restore") || strings.Contains(said, "backup") || strings.Contains(said, "another deployment")) {
		return damageRestore, oneLine(last.err())
	}
	if len(c.waysOut(said)) > 0 {
		return c.repair(said)
	}
	if len(last.refused) == 0 && !c.anyEnded() {
		return damageNamed, oneLine(last.err())
	}
	return damageFailed, fmt.Sprintf("no way out is named: %s\nwhat was said:\n%s", oneLine(last.err()), tailOf(said))
}

// supervise starts again what has ended. Nothing may end because a partition or the table is damaged.
func (c *damageCase) supervise() {
	for _, role := range c.roles {
		if ended(role.Process) && !c.mayEnd() {
			lines := strings.Split(strings.TrimSpace(role.Output()), "\n")
			c.never("a process ended: %s", lines[len(lines)-1])
		}
	}
	if len(c.exits) < 3*len(c.roles) {
		c.relaunch()
	}
}

// mayEnd reports whether a start may be refused: what is damaged is the deployment's as a whole.
func (c *damageCase) mayEnd() bool {
	return c.cell.object == "KV_SENDHOUSE" || c.cell.object == "nats" || c.cell.kind.name == "swapped"
}

// mayNeedBackup reports whether the way out may be to put something back.
func (c *damageCase) mayNeedBackup() bool {
	return c.cell.object == "nats" || c.cell.object == "KV_SENDHOUSE_PERMISSIONS" || c.cell.kind.name == "swapped" || c.cell.kind.name == "sealed"
}

func (c *damageCase) anyEnded() bool {
	return slices.ContainsFunc(c.roles, func(role *node) bool { return ended(role.Process) })
}

// othersServed: what is wrong with one partition must not keep another from being served.
func (c *damageCase) othersServed(h *health) {
	for _, partition := range c.unserved(h) {
		c.never("partition %d is damaged, and partition %d is not served", c.partition, partition)
	}
}

// unserved returns the partitions that are not damaged and did not answer.
func (c *damageCase) unserved(h *health) []int {
	if !strings.Contains(c.cell.object, "{p}") || c.mayEnd() {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(h.refused), func(partition int) bool { return partition == c.partition })
}

// judgeWell judges a deployment that answers and has everything: what differs all the same must be named.
func (c *damageCase) judgeWell(said string) (damageVerdict, string) {
	status, report := c.audit()
	var changed []string
	// It is looked at every few seconds, and named or set back then.
	_ = within(c.ctx, noticedMax, func(ctx context.Context) error {
		text, differences := c.said(ctx), c.settingsChanged(ctx)
		if ctx.Err() == nil {
			said, changed = text, differences
		}
		if len(changed) > 0 && !c.names(said) {
			return errors.New("not noticed yet")
		}
		return nil
	})
	switch {
	case len(changed) > 0 && !c.names(said):
		return damageFailed, fmt.Sprintf("silent: not as it was: %q", changed)
	case len(changed) > 0:
		return damageNamed, fmt.Sprintf("not as it was: %q", changed)
	}
	switch status {
	case 0:
		if strings.Contains(said, "level=") {
			return damageHealed, "and said so"
		}
		return damageHealed, "without a word"
	case 1:
		if ways := c.waysOut(report); len(ways) > 0 {
			return c.repair(report)
		}
		return damageNamed, "by the audit: " + tailOf(report)
	default:
		if c.names(said+report) || strings.Contains(report, "failure=") && strings.Contains(report, fmt.Sprintf("partition=%d", c.partition)) {
			return damageNamed, "the audit cannot tell: " + tailOf(report)
		}
		return damageFailed, "the audit cannot tell: " + tailOf(report)
	}
}

// repair runs what was named until the deployment is well.
func (c *damageCase) repair(said string) (damageVerdict, string) {
	var done []string
	var last *health
	for range repairRounds {
		ways := c.waysOut(said)
		if fresh := slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return slices.Contains(done, w.text) }); len(fresh) > 0 {
			ways = fresh // a repair can bring up what else is to be done
		}
		for _, w := range ways {
			output, err := w.do()
			done = append(done, w.text)
			if err != nil {
				done = append(done, fmt.Sprintf("(%v: %s)", err, tailOf(output)))
			}
			said += output
		}
		c.relaunch()
		err := within(c.ctx, repairedMax, func(ctx context.Context) error {
			c.lookInto(ctx, &last)
			if len(c.wrong) > 0 {
				return nil
			}
			return last.err()
		})
		if err == nil {
			break
		}
		said += c.said(c.ctx)
	}
	ran := strings.Join(done, "; ")
	if len(c.wrong) == 0 && last.rowsOnly {
		if status, report := c.audit(); status == 1 {
			return damageNamed, fmt.Sprintf("after %s by the audit: %s", ran, tailOf(report))
		}
	}
	if len(c.wrong) > 0 || last.err() != nil {
		return damageFailed, fmt.Sprintf("not well after %s: %s\nwhat was said:\n%s", ran, oneLine(last.err()), tailOf(c.said(c.ctx)))
	}
	if status, report := c.audit(); status == 2 {
		return damageFailed, fmt.Sprintf("after %s the audit cannot tell: %s", ran, tailOf(report))
	}
	return damageRepaired, ran
}

// lookInto is look; what a look has found when its time was over is not kept.
func (c *damageCase) lookInto(ctx context.Context, found **health) {
	if h := c.look(ctx); *found == nil || ctx.Err() == nil {
		*found = h
	}
}

func oneLine(err error) string {
	if err == nil {
		return "well"
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// tailOf is the end of a text.
func tailOf(text string) string {
	const bytesMax = 3000
	if len(text) > bytesMax {
		return "…" + text[len(text)-bytesMax:]
	}
	return text
}

// damageSummary counts verdicts, by object and kind.
type damageSummary struct {
	mu       sync.Mutex
	verdicts map[string]map[damageVerdict]int
	failed   []string
}

func (s *damageSummary) add(c *damageCase, verdict damageVerdict, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := fmt.Sprintf("%-28s %s", c.cell.object, c.cell.kind.name)
	if s.verdicts[key] == nil {
		s.verdicts[key] = make(map[damageVerdict]int)
	}
	s.verdicts[key][verdict]++
	if verdict == damageFailed {
		first, _, _ := strings.Cut(why, "\n")
		s.failed = append(s.failed, fmt.Sprintf("%s  # %.300s", c.replay(), first))
	}
}

func (s *damageSummary) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	kinds := []damageVerdict{damageHealed, damageNamed, damageRepaired, damageRestore, damageFailed}
	var text strings.Builder
	fmt.Fprintf(&text, "\n%-52s", "what, and how it was damaged")
	for _, v := range kinds {
		fmt.Fprintf(&text, "%9s", v)
	}
	total := make(map[damageVerdict]int)
	for _, key := range slices.Sorted(maps.Keys(s.verdicts)) {
		fmt.Fprintf(&text, "\n%-52s", key)
		for _, v := range kinds {
			count := ""
			if n := s.verdicts[key][v]; n > 0 {
				count = strconv.Itoa(n)
			}
			fmt.Fprintf(&text, "%9s", count)
			total[v] += s.verdicts[key][v]
		}
	}
	fmt.Fprintf(&text, "\n%-52s", "all")
	for _, v := range kinds {
		fmt.Fprintf(&text, "%9d", total[v])
	}
	for _, f := range s.failed {
		text.WriteString("\n" + f)
	}
	return text.String()
}
