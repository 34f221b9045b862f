package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

const (
	// healMax is how long a deployment may take to heal by itself; one that has named the damage and a command is taken at its word sooner.
	healMax  = 25 * time.Second
	namedMax = 8 * time.Second
	// repairedMax is how long it may take to be well after a repair, of which one may ask for the next.
	repairedMax  = 15 * time.Second
	repairRounds = 4
	// noticedMax is how long a setting that does no harm yet may be not as it was.
	noticedMax = 12 * time.Second
	// rowsMax is how long rows are waited for after all sends were answered.
	rowsMax = 6 * time.Second
	// repeatsMax is how many sends of each template half are repeated.
	repeatsMax = 15
)

// place is what must belong to one message only.
type place struct {
	channelID   string
	channelType message.ChannelType
	seq         uint64
}

// damageCase is one case.
type damageCase struct {
	*dice
	t   *testing.T
	ctx context.Context //nolint:containedctx // the test's
	damageDraw
	template  *damageTemplate
	dir       string
	partition int // of a damaged stream or bucket's key, so far as there is one
	*damageDeployment

	mu      sync.Mutex
	records []*record
	places  map[place]string // by whose send they were answered for
	ids     map[int64]string
	probes  int
	notes   []string
	wrong   []string          // what must never happen
	before  map[string]string // the alerts that there were before the damage
}

func (c *damageCase) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

func (c *damageCase) never(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if text := fmt.Sprintf(format, args...); len(c.wrong) < problemsMax && !slices.Contains(c.wrong, text) {
		c.wrong = append(c.wrong, text)
	}
}

// damageProbe is a send to a channel of a partition.
func damageProbe(partition int, clientMsgNo string) send {
	for n := 0; ; n++ {
		name := fmt.Sprint("probe", n)
		if topology.Partitions(damagePartitions).Of(name, message.ChannelGroup) == partition {
			return send{clientMsgNo: clientMsgNo, fromUID: "prober", channelID: name, channelType: message.ChannelGroup, payload: []byte("probe")}
		}
	}
}

func (s *send) partition() int {
	return topology.Partitions(damagePartitions).Of(s.channel(), s.channelType)
}

// sendOnce sends once; outcome is empty if it was answered 200.
func sendOnce(api string, s *send) (r *record, outcome string) {
	begun := time.Now()
	status, text, err := change(api, "/message/send", string(s.body()))
	if err != nil {
		return nil, kindOf(err)
	}
	var decoded struct {
		MessageID  int64  `json:"message_id"`
		MessageSeq uint64 `json:"message_seq"`
		Code       string `json:"code"`
	}
	if err := json.Unmarshal([]byte(text), &decoded); err != nil || status != http.StatusOK {
		return nil, fmt.Sprintf("%d %s", status, decoded.Code)
	}
	return &record{send: *s, answer: answer{id: decoded.MessageID, seq: decoded.MessageSeq}, begun: begun, answered: time.Now()}, ""
}

// take notes an answer: the number must not have been given to another send.
func (c *damageCase) take(r *record, repeated bool) {
	p := place{r.channel(), r.channelType, r.seq}
	c.mu.Lock()
	owner, idOwner := c.places[p], c.ids[r.id]
	c.places[p], c.ids[r.id] = r.clientMsgNo, r.clientMsgNo
	if !repeated {
		c.records = append(c.records, r)
	}
	c.mu.Unlock()
	if c.anotherPast() {
		return
	}
	if owner != "" && owner != r.clientMsgNo || idOwner != "" && idOwner != r.clientMsgNo {
		c.never("renumbered: %s was answered %v, which was given to %q and %q before", r.clientMsgNo, r.answer, owner, idOwner)
	}
}

// sendSome sends to all partitions, once each.
func (c *damageCase) sendSome(n int) {
	for range n {
		for partition := range damagePartitions {
			c.probes++
			s := damageProbe(partition, fmt.Sprint("some-", c.probes))
			if r, outcome := sendOnce(c.api, &s); outcome == "" {
				c.take(r, false)
			}
		}
	}
}

// health is what a look at the deployment has found.
type health struct {
	refused  []int // partitions whose new sends are not answered
	errs     []error
	rowsOnly bool // the rows are all that is wrong
}

func (h *health) add(err error) {
	if err != nil {
		h.errs = append(h.errs, err)
	}
}

func (h *health) err() error { return errors.Join(h.errs...) }

// look holds everything that was answered against what the deployment now answers and has.
func (c *damageCase) look(ctx context.Context) *health {
	h := &health{}
	h.add(c.ready(ctx))
	var all sync.WaitGroup
	var mu sync.Mutex
	for partition := range damagePartitions {
		c.probes++
		s := damageProbe(partition, fmt.Sprint("new-", c.probes))
		all.Go(func() {
			r, outcome := sendOnce(c.api, &s)
			if outcome == "" {
				c.take(r, false)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			h.refused = append(h.refused, partition)
			h.add(fmt.Errorf("a new send to partition %d: %s", partition, outcome))
		})
	}
	all.Wait()
	slices.Sort(h.refused)
	if len(h.refused) < damagePartitions && !c.anotherPast() {
		for _, err := range c.repeatAnswered(h.refused) {
			h.add(err)
		}
		h.add(c.checkDenied())
	}
	if len(h.errs) == 0 { // costs more, and has to be waited for
		h.add(within(ctx, rowsMax, c.compareRows))
		h.rowsOnly = len(h.errs) > 0
	}
	return h
}

// anotherPast reports whether the sequencer has nothing to tell that NATS is another one, or an older one: with the roles apart it
// does not see the table. The writer does, and pauses.
func (c *damageCase) anotherPast() bool { return c.cell.apart && c.cell.object == "nats" }

// repeatAnswered repeats some of the sends that were answered, but not to partitions that are refused.
func (c *damageCase) repeatAnswered(refused []int) (errs []error) {
	c.mu.Lock()
	chosen := slices.Clone(c.records)
	c.mu.Unlock()
	first, half := chosen[:repeatsMax], len(c.template.records)
	chosen = slices.Concat(first, chosen[half-repeatsMax:half], chosen[max(half, len(chosen)-repeatsMax):])
	turns := make(chan struct{}, 8)
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, r := range chosen {
		if slices.Contains(refused, r.partition()) {
			continue
		}
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			again, outcome := sendOnce(c.api, &r.send)
			switch {
			case outcome == "" && again.answer != r.answer:
				c.never("renumbered: %s of partition %d was answered %v, and its repeat %v", r.clientMsgNo, r.partition(), r.answer, again.answer)
			case outcome != "":
				mu.Lock()
				defer mu.Unlock()
				if len(errs) == 0 {
					errs = append(errs, fmt.Errorf("the repeat of %s, of partition %d: %s", r.clientMsgNo, r.partition(), outcome))
				}
			}
		})
	}
	all.Wait()
	return errs
}

// checkDenied sends what the permissions do not allow.
func (c *damageCase) checkDenied() error {
	var errs []error
	try := func(from, channel string, kind message.ChannelType) string {
		c.probes++
		s := send{clientMsgNo: fmt.Sprint("permission-", c.probes), fromUID: from, channelID: channel, channelType: kind, payload: []byte("no")}
		r, outcome := sendOnce(c.api, &s)
		if outcome == "" {
			c.take(r, false)
		}
		return outcome
	}
	for channel, kind := range map[string]message.ChannelType{closedChannel: 3, listedChannel: message.ChannelGroup} {
		switch outcome := try(deniedUID, channel, kind); {
		case outcome == "":
			c.never("failed open: the send of a sender who is not allowed to send to %q was answered", channel)
		case !strings.HasPrefix(outcome, "403 "):
			errs = append(errs, fmt.Errorf("a send to %q that is not allowed: %s", channel, outcome))
		}
	}
	if outcome := try("member-2999", listedChannel, message.ChannelGroup); outcome != "" {
		errs = append(errs, fmt.Errorf("a send to %q that is allowed: %s", listedChannel, outcome))
	}
	return errors.Join(errs...)
}

// compareRows is nil if each answered send has its row.
func (c *damageCase) compareRows(ctx context.Context) error {
	rows, err := c.table.read(ctx)
	if err != nil {
		return fmt.Errorf("read the rows: %w", err)
	}
	byKey := make(map[string][]*row, len(rows))
	for _, r := range rows {
		byKey[r.clientMsgNo] = append(byKey[r.clientMsgNo], r)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	missing, twice, others := 0, 0, 0
	example := ""
	for _, s := range c.records {
		switch own := byKey[s.clientMsgNo]; {
		case len(own) == 0:
			missing++
			example = s.clientMsgNo
		case len(own) > 1:
			twice++
			example = s.clientMsgNo
		case own[0].id != s.id || own[0].seq != s.seq || !s.matches(own[0]):
			others++
			example = s.clientMsgNo
		}
	}
	if missing+twice+others > 0 {
		return fmt.Errorf("of %d answered sends %d have no row, %d have two, %d have another (%s)", len(c.records), missing, twice, others, example)
	}
	return nil
}

// settingsChanged names the streams that are not as they were.
func (c *damageCase) settingsChanged(ctx context.Context) (changed []string) {
	for name, want := range c.template.streams {
		stream, err := c.js.Stream(ctx, name)
		if err != nil {
			changed = append(changed, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		have := stream.CachedInfo().Config
		for setting, differs := range map[string]bool{
			"sealed": have.Sealed, "max_msgs": have.MaxMsgs != want.MaxMsgs, "max_bytes": have.MaxBytes != want.MaxBytes,
			"max_age": have.MaxAge != want.MaxAge, "max_msg_size": have.MaxMsgSize != want.MaxMsgSize,
		} {
			if differs {
				changed = append(changed, name+" "+setting)
			}
		}
	}
	if kv, err := c.js.KeyValue(ctx, topology.DeploymentBucket); err == nil {
		entry, err := kv.Get(ctx, "deployment")
		var record topology.Deployment
		if err == nil {
			err = json.Unmarshal(entry.Value(), &record)
		}
		if want := (topology.Deployment{Partitions: damagePartitions, DedupWindow: 24 * time.Hour, DedupEntriesMax: 2_000_000}); err != nil ||
			record.Partitions != want.Partitions || record.DedupWindow != want.DedupWindow || record.DedupEntriesMax != want.DedupEntriesMax {
			changed = append(changed, fmt.Sprintf("%s: %+v (%v)", topology.DeploymentBucket, record, err))
		}
	}
	slices.Sort(changed)
	return changed
}

// said is all that an operator sees: warnings and errors, why processes are not ready or have ended, alerts.
func (c *damageCase) said(ctx context.Context) string {
	var text strings.Builder
	for line := range strings.Lines(c.output()) {
		if !strings.HasPrefix(line, "time=") || strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			text.WriteString(line)
		}
	}
	for _, role := range c.roles {
		if ended(role.Process) {
			continue
		}
		if err := role.ready(ctx); err != nil {
			fmt.Fprintln(&text, err)
		}
	}
	for metric, value := range c.alerts(ctx) {
		if c.before[metric] != value {
			fmt.Fprintln(&text, metric, value)
		}
	}
	return text.String()
}

// names reports whether a text names the damaged thing.
func (c *damageCase) names(text string) bool {
	return slices.ContainsFunc(c.words(), func(word string) bool { return strings.Contains(text, word) })
}

// words are what the damaged thing is called.
func (c *damageCase) words() []string {
	object, p := c.stream(), fmt.Sprint(c.partition)
	words := []string{object}
	if bucket, ok := strings.CutPrefix(object, "KV_"); ok {
		words = append(words, bucket)
	}
	switch object {
	case "SENDS_" + p:
		words = append(words, "write-ahead log")
	case "MESSAGES_" + p:
		words = append(words, "message log")
	case "KV_" + topology.CheckpointPointerBucket, "OBJ_" + topology.CheckpointBucket:
		words = append(words, "heckpoint")
	case "KV_" + topology.DeploymentBucket:
		words = append(words, "deployment")
	case "KV_" + topology.WriterBucket:
		words = append(words, "position")
	case "KV_" + topology.PermissionBucket:
		words = append(words, "ermission")
	case "KV_" + topology.LeaseBucket, "KV_" + topology.WriterLeaseBucket:
		words = append(words, "lease")
	case "nats":
		words = append(words, "SENDS_", "stream", "older", "log", "NATS holds nothing")
	case "clickhouse", "parts", "table", "metadata", "ledger":
		words = append(words, "messages", "table", "rows", "ClickHouse", "schema_migrations")
	}
	return words
}

// ways are the commands in a text that mend something.
var (
	ownCommand = regexp.MustCompile(`sendhouse ((?:repair|migrate|replay clickhouse)[^'"\x60\\;,:()\[\]\n]*)`)
	sqlCommand = regexp.MustCompile(`(?:ALTER|CREATE|ATTACH) TABLE [^;\n"\\]*`)
	keyCommand = regexp.MustCompile(`nats kv del ([A-Z_]+) ([A-Za-z0-9_.=-]+)`)
)

type way struct {
	text string
	do   func() (string, error)
}

// waysOut finds the commands that a text names.
func (c *damageCase) waysOut(text string) (ways []way) {
	add := func(text string, do func() (string, error)) {
		if !slices.ContainsFunc(ways, func(w way) bool { return w.text == text }) {
			ways = append(ways, way{text, do})
		}
	}
	for _, m := range ownCommand.FindAllStringSubmatch(text, -1) {
		args := strings.Fields(m[1])
		for i, arg := range args { // what follows in the sentence
			if i > 1 && !strings.HasPrefix(arg, "-") && !strings.HasPrefix(args[i-1], "--") {
				args = args[:i]
				break
			}
		}
		if args[0] == "migrate" {
			args = args[:1]
		}
		if slices.Equal(args, []string{"repair", "permissions"}) {
			continue // drops the permissions, which a person has to decide
		}
		add("sendhouse "+strings.Join(args, " "), func() (string, error) {
			status, output := c.command(c.t, args...)
			if status != 0 {
				return output, fmt.Errorf("exit status %d", status)
			}
			return output, nil
		})
	}
	for _, sql := range sqlCommand.FindAllString(text, -1) {
		if strings.Count(sql, ")") > strings.Count(sql, "(") { // it stands in brackets
			sql = sql[:strings.LastIndex(sql, ")")]
		}
		add(sql, func() (string, error) { return "", c.table.conn.Exec(c.ctx, sql) })
	}
	for _, m := range keyCommand.FindAllStringSubmatch(text, -1) {
		add(m[0], func() (string, error) {
			kv, err := c.js.KeyValue(c.ctx, m[1])
			if err == nil {
				err = kv.Delete(c.ctx, m[2])
			}
			return "", err
		})
	}
	return ways
}

// audit runs `sendhouse audit`, and returns what is not clean.
func (c *damageCase) audit() (status int, output string) {
	return c.command(c.t, "audit")
}

// stream is the damaged object, with its partition.
func (c *damageCase) stream() string {
	return strings.ReplaceAll(c.cell.object, "{p}", fmt.Sprint(c.partition))
}
