package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// What TestEndToEndSoak does if it is not told otherwise: enough to see that it works.
const (
	soakFor      = 20 * time.Second
	soakRate     = 300
	soakChannels = 20_000
	// soakJudged is the shortest soak whose slopes are judged. A third of it is the deduplication window, which grows until then.
	soakJudged = 30 * time.Minute
	// soakSamples is about how many samples are taken, at least soakSampleMin apart.
	soakSamples   = 240
	soakSampleMin = time.Second
	// soakPauseEvery and soakPause: the process is stopped for so long, so often.
	soakPauseEvery = time.Minute
	soakPause      = 2 * time.Second
	// soakMeddle is the pause between two changes of permissions, and between two sends on a connection of their own.
	soakMeddle = 100 * time.Millisecond
	// soakMemoryMax is what all processes may take together, with the rate and the channels of `make soak`.
	soakMemoryMax = 800 << 20
	// soakChannelBytes is what a channel that is seen for the first time may add to the memory, its state in the sequencer and
	// as much again until the next garbage collection, or to the checkpoints.
	soakChannelBytes = 300
	// soakStopMax is how long a process may take to end.
	soakStopMax = 5 * time.Second
)

// quantity is something that must not grow for ever.
type quantity struct {
	unit  float64 // by which it is divided to be shown
	slack float64 // by which it may grow beside a twentieth
	// grows says why it may grow; "" if it may not.
	grows string
	// state may grow with the channels.
	state bool
}

func quantities() map[string]quantity {
	const mib = 1 << 20
	return map[string]quantity{
		"memory, MiB (PSS of all processes)": {unit: mib, slack: 32 * mib, state: true},
		"memory, MiB (RSS of all processes)": {unit: mib, slack: 32 * mib, state: true},
		"Go heap in use, MiB":                {unit: mib, slack: 64 * mib, state: true},
		"goroutines":                         {unit: 1, slack: 40},
		"threads":                            {unit: 1, slack: 16},
		"open files":                         {unit: 1, slack: 40},
		"parts of the table":                 {unit: 1, slack: 40},
		"other streams, MiB":                 {unit: mib, slack: 8 * mib, state: true}, // checkpoints, two for each partition
		"write-ahead logs, MiB":              {unit: mib, grows: "trimmed with each second checkpoint, up to --wal-bytes-max"},
		"message logs, MiB":                  {unit: mib, grows: "kept for --messages-age-max, up to --messages-bytes-max"},
		"disk, MiB":                          {unit: mib, grows: "the logs and the rows"},
	}
}

// TestEndToEndSoak sends at a rate over many channels, changes permissions, opens and closes connections, repeats sends and stops the
// process now and then, and looks all the while at everything that could grow. `make soak` does it for an hour and judges what it has seen.
func TestEndToEndSoak(t *testing.T) {
	t.Parallel()
	lasting, rate, channels := soakFor, soakRate, soakChannels
	if text := os.Getenv("SOAK_FOR"); text != "" {
		var err error
		lasting, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	rate, channels = numberOf(t, "SOAK_RATE", rate), numberOf(t, "SOAK_CHANNELS", channels)
	up := newUp(t, "--wal-bytes-max=4GiB", "--messages-bytes-max=8GiB")
	up.Start()
	s := &soak{up: up, table: embeddedTable(t, up), rate: float64(rate), channels: float64(channels), series: make(map[string][]float64)}

	bench := testkit.StartProcess(t, testkit.ProcessConfig{Name: "bench", Path: binary(t), Args: []string{
		"bench", "--target=http://" + up.api, "--rate=" + strconv.Itoa(rate), "--duration=" + lasting.String(), "--channels=" + strconv.Itoa(channels),
		"--duplicates=0.02", "--timeout=10s", "--give-up=5m", "--verify", "--verify-patience=1m", "--clickhouse-dsn=http://" + up.clickHouse + "/sendhouse",
	}})
	meddling, stop := context.WithCancel(t.Context())
	meddled := make(chan error, 1)
	go func() { meddled <- s.meddle(meddling) }()
	s.watch(t, lasting, bench)
	stop()
	require.NoError(t, <-meddled)
	require.Equal(t, 0, bench.Wait(10*time.Minute), "answers or rows are wrong:\n%s", bench.Output())
	t.Logf("%s", lastLines(bench.Output(), 20))
	audit(t, "nats://"+up.nats)
	wrong := s.judge(t, lasting)
	took := s.stop(t)
	t.Logf("ended %s after SIGTERM", took)
	if os.Getenv("SOAK_FOR") == "" {
		return // too short for any of it
	}
	if took > soakStopMax {
		wrong = append(wrong, fmt.Sprintf("it took %s to end", took))
	}
	require.Empty(t, wrong, "%s", strings.Join(wrong, "\n"))
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

type soak struct {
	up             *node
	table          *table
	rate, channels float64

	at     []time.Duration // of each sample
	series map[string][]float64
}

// meddle changes permissions and sends over connections that are used once, until ctx ends. Each send is repeated, and the repeat must get
// the same answer.
func (s *soak) meddle(ctx context.Context) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: requestTimeout}
	post := func(path, body string) (string, error) {
		for ctx.Err() == nil {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.up.api+path, strings.NewReader(body))
			if err != nil {
				return "", err
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(req)
			if err == nil {
				text, readErr := io.ReadAll(resp.Body)
				if err = errors.Join(readErr, resp.Body.Close()); err == nil && resp.StatusCode != http.StatusServiceUnavailable {
					return fmt.Sprint(resp.StatusCode, " ", string(text)), nil
				}
			}
			_ = lifecycle.Pause(ctx, tryAgainAfter) // the loop looks whether ctx has ended
		}
		return "", nil
	}
	for n := 0; lifecycle.Pause(ctx, soakMeddle) == nil; n++ {
		member := fmt.Sprintf(`{"channel_id":"soaked%d","channel_type":2,"subscribers":["u","m%d"]}`, n%1000, n%7)
		change := "/channel/subscriber_add"
		if n%3 == 2 {
			change, member = "/channel/subscriber_remove", strings.Replace(member, `"u",`, "", 1)
		}
		if answer, err := post(change, member); err != nil || answer != "" && !strings.HasPrefix(answer, "200") {
			return fmt.Errorf("%s: %s %w", change, answer, err)
		}
		body := fmt.Sprintf(`{"from_uid":"u","channel_id":"soaked%d","channel_type":2,"client_msg_no":"n%d","payload":"aGk="}`, n%1000, n)
		first, err := post("/message/send", body)
		if err != nil {
			return err
		}
		second, err := post("/message/send", body)
		if err != nil || second != first && ctx.Err() == nil {
			return fmt.Errorf("send n%d was answered %q, and its repeat %q %w", n, first, second, err)
		}
	}
	return nil
}

// watch takes samples until the load has ended, and stops the process now and then.
func (s *soak) watch(t *testing.T, lasting time.Duration, bench *testkit.Process) {
	t.Helper()
	begun := time.Now()
	ticker := time.NewTicker(max(lasting/soakSamples, soakSampleMin))
	defer ticker.Stop()
	paused := begun
	for {
		select {
		case <-bench.Done():
			return
		case <-ticker.C:
		}
		if time.Since(begun) > lasting {
			continue // rows are verified
		}
		if time.Since(paused) > min(soakPauseEvery, lasting/3) {
			s.up.Pause()
			require.NoError(t, lifecycle.Pause(t.Context(), soakPause)) // what is tested is that time passes
			s.up.Resume()
			paused = time.Now()
			continue
		}
		s.sample(t, time.Since(begun))
	}
}

var (
	soakMetric  = regexp.MustCompile(`(?m)^(go_goroutines|go_memstats_heap_inuse_bytes) (\S+)$`)
	soakStreams = regexp.MustCompile(`(?m)^sendhouse_jetstream_stream_bytes\{kind="(\w+)".*\} (\S+)$`)
)

// sample notes everything at one moment.
func (s *soak) sample(t *testing.T, at time.Duration) {
	t.Helper()
	now := make(map[string]float64)
	pids, err := testkit.ProcessTree(s.up.PID())
	require.NoError(t, err)
	for _, pid := range pids {
		proc := fmt.Sprintf("/proc/%d/", pid)
		now["memory, MiB (PSS of all processes)"] += procBytes(t, pid, "smaps_rollup", "Pss")
		now["memory, MiB (RSS of all processes)"] += procBytes(t, pid, "status", "VmRSS")
		now["threads"] += entries(t, proc+"task")
		now["open files"] += entries(t, proc+"fd")
	}
	_, page, err := ask(t.Context(), "http://"+s.up.admin+"/metrics")
	require.NoError(t, err)
	number := func(text string) float64 {
		value, err := strconv.ParseFloat(text, 64)
		require.NoError(t, err)
		return value
	}
	for _, found := range soakMetric.FindAllStringSubmatch(page, -1) {
		name := map[string]string{"go_goroutines": "goroutines", "go_memstats_heap_inuse_bytes": "Go heap in use, MiB"}[found[1]]
		now[name] = number(found[2])
	}
	for _, found := range soakStreams.FindAllStringSubmatch(page, -1) {
		switch found[1] {
		case "wal":
			now["write-ahead logs, MiB"] += number(found[2])
		case "messages":
			now["message logs, MiB"] += number(found[2])
		default:
			now["other streams, MiB"] += number(found[2])
		}
	}
	var parts uint64
	require.NoError(t, s.table.conn.QueryRow(t.Context(), "SELECT count() FROM system.parts WHERE active AND database = 'sendhouse'").Scan(&parts))
	now["parts of the table"] = float64(parts)
	now["disk, MiB"] = float64(diskUsed(t, s.up.dataDir))
	s.at = append(s.at, at)
	for name := range quantities() {
		s.series[name] = append(s.series[name], now[name])
	}
}

// procBytes is testkit.ProcBytes. A process that has ended has nothing.
func procBytes(t *testing.T, pid int, name, key string) float64 {
	t.Helper()
	bytes, err := testkit.ProcBytes(pid, name, key)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) { // the latter if it ends while it is read
		return 0
	}
	require.NoError(t, err)
	return float64(bytes)
}

func entries(t *testing.T, dir string) float64 {
	t.Helper()
	found, err := os.ReadDir(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
	}
	return float64(len(found))
}

// diskUsed adds up the files of a folder, of which some go while it looks.
func diskUsed(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			bytes += info.Size()
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	})
	require.NoError(t, err)
	return bytes
}

// judge prints how each quantity has gone after the warm-up, which is the first third, and returns what is wrong with them.
func (s *soak) judge(t *testing.T, lasting time.Duration) (wrong []string) {
	t.Helper()
	var table strings.Builder
	_, _ = fmt.Fprintf(&table, "%-36s %9s %9s %9s %9s  %s\n", "after the warm-up", "least", "mean", "most", "per hour", "verdict")
	all := quantities()
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		q, values := all[name], s.series[name]
		require.Greater(t, len(values), 5, "samples of %s", name)
		from := len(values) / 3
		steady, at := values[from:], s.at[from:]
		verdict := "steady"
		fifth := max(len(steady)/5, 1)
		before, after := mean(steady[:fifth]), mean(steady[len(steady)-fifth:])
		allowed := before*1.05 + q.slack
		if q.state {
			allowed += soakChannelBytes * (s.seen(at[len(at)-1]) - s.seen(at[0]))
		}
		switch {
		case q.grows != "":
			verdict = "may grow: " + q.grows
		case after > allowed:
			verdict = fmt.Sprintf("GROWS: from %.1f to %.1f, and %.1f is allowed", before/q.unit, after/q.unit, allowed/q.unit)
			if lasting >= soakJudged {
				wrong = append(wrong, name+" "+verdict)
			}
		}
		_, _ = fmt.Fprintf(&table, "%-36s %9.1f %9.1f %9.1f %+9.1f  %s\n", name, slices.Min(steady)/q.unit, mean(steady)/q.unit, slices.Max(steady)/q.unit, slope(at, steady)/q.unit, verdict)
	}
	most := slices.Max(s.series["memory, MiB (PSS of all processes)"])
	if most > soakMemoryMax {
		wrong = append(wrong, fmt.Sprintf("the processes took up to %.0f MiB, and %d MiB is allowed", most/(1<<20), soakMemoryMax>>20))
	}
	t.Logf("%s, %.0f sends/s over %.0f channels\n%s", lasting, s.rate, s.channels, table.String())
	return wrong
}

// seen is how many channels have been sent to after some time, all being as likely.
func (s *soak) seen(after time.Duration) float64 {
	return s.channels * (1 - math.Exp(-s.rate*after.Seconds()/s.channels))
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// slope is the growth in an hour, by least squares.
func slope(at []time.Duration, values []float64) float64 {
	hours := make([]float64, len(at))
	for i, d := range at {
		hours[i] = d.Hours()
	}
	x, y := mean(hours), mean(values)
	above, below := 0.0, 0.0
	for i := range hours {
		above += (hours[i] - x) * (values[i] - y)
		below += (hours[i] - x) * (hours[i] - x)
	}
	return above / below
}

// stop ends the process while clients are attached: idle ones, and some that have sent a part of their request.
func (s *soak) stop(t *testing.T) time.Duration {
	t.Helper()
	for n := range 40 {
		conn, err := net.Dial("tcp", s.up.api)
		require.NoError(t, err)
		defer func() { _ = conn.Close() }() // the process has closed it
		if n%2 == 0 {
			_, err = io.WriteString(conn, "POST /message/send HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"from_uid\"")
			require.NoError(t, err)
		}
	}
	load := startLoad(t, s.up.api, loadConfig{seed: newSeed(t), name: "last", once: true})
	load.await(200)
	begun := time.Now()
	require.Equal(t, 0, s.up.Stop())
	return time.Since(begun)
}
