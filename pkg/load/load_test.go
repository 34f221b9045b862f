package load

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// api is a small service with the contract of the HTTP API, and a place for faults.
type api struct {
	mu    sync.Mutex
	clock message.IDClock
	seqs  map[string]uint64
	given map[string]given // by client_msg_no
	sent  map[string]sendBody
	posts int
	// fault changes an answer, or says that there is none (drop) or another status.
	fault func(post int, again bool, g *given) (status int, drop bool)
	*httptest.Server
}

type given struct {
	id  message.ID
	seq uint64
}

func newAPI(t testing.TB, fault func(post int, again bool, g *given) (status int, drop bool)) *api {
	t.Helper()
	clock, err := message.NewIDClock(3, 0)
	require.NoError(t, err)
	a := &api{clock: clock, seqs: make(map[string]uint64), given: make(map[string]given), sent: make(map[string]sendBody), fault: fault}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

type sendBody struct {
	Key         string `json:"client_msg_no"`
	From        string `json:"from_uid"`
	Channel     string `json:"channel_id"`
	ChannelType uint32 `json:"channel_type"`
	Payload     []byte `json:"payload"`
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	bulk := r.URL.Path == "/message/sendbulk"
	var out bytes.Buffer
	status := http.StatusOK
	for line := range bytes.Lines(text) {
		one, replayed, drop, answer := a.one(line)
		if drop {
			panic(http.ErrAbortHandler)
		}
		if bulk {
			fmt.Fprintf(&out, `{"status":%d,"idempotent_replayed":%t,%s}`+"\n", one, replayed, answer)
			continue
		}
		status = one
		if replayed {
			w.Header().Set("Idempotent-Replayed", "true")
		}
		fmt.Fprintf(&out, "{%s}", answer)
	}
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes())
}

func (a *api) one(line []byte) (status int, replayed, drop bool, answer string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.posts++
	var b sendBody
	if err := json.Unmarshal(line, &b); err != nil {
		return http.StatusBadRequest, false, false, `"code":"invalid_json","msg":"bad"`
	}
	g, again := a.given[b.Key]
	if !again {
		a.seqs[b.Channel]++
		g = given{a.clock.Next(time.Now().UnixMilli()), a.seqs[b.Channel]}
		a.given[b.Key], a.sent[b.Key] = g, b
	}
	status = http.StatusOK
	if a.fault != nil {
		if status, drop = a.fault(a.posts, again, &g); status == 0 {
			status = http.StatusOK
		}
	}
	if status != http.StatusOK {
		return status, false, drop, `"code":"fault","msg":"as asked"`
	}
	return status, again, drop, fmt.Sprintf(`"message_id":%d,"message_idstr":"%d","message_seq":%d,"client_msg_no":%q`, g.id, g.id, g.seq, b.Key)
}

func testConfig(target string) Config {
	c := Config{Target: target, Concurrency: 8, Count: 2000, Channels: 50, ChannelType: 2, Timeout: 5 * time.Second, GiveUp: 5 * time.Second, Seed: 42}
	if err := c.PayloadSize.UnmarshalText([]byte("40B-200B")); err != nil {
		panic(err)
	}
	return c
}

func do(t *testing.T, cfg Config) *Report {
	t.Helper()
	run, err := New(cfg, false)
	require.NoError(t, err)
	report, err := run.Do(t.Context(), io.Discard)
	require.NoError(t, err)
	return report
}

func TestSendsAndChecks(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"closed":     func(*Config) {},
		"open":       func(c *Config) { c.Rate = 20_000 },
		"bulk":       func(c *Config) { c.Bulk = 64 },
		"duplicates": func(c *Config) { c.Duplicates = 0.3 },
		"bulk of duplicates, persons, Zipf": func(c *Config) {
			c.Bulk, c.Duplicates, c.ChannelType, c.Zipf = 32, 0.3, 1, 0.99
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, nil)
			cfg := testConfig(a.URL)
			change(&cfg)
			report := do(t, cfg)
			require.True(t, report.Clean(), report.Checks.First)
			require.EqualValues(t, 2000, report.Sends)
			require.Zero(t, report.Retries+report.Unanswered+report.NotBegun+report.Broken)
			require.Len(t, a.given, int(report.Sends-report.DuplicateSends))
			require.Equal(t, cfg.Duplicates > 0, report.DuplicateSends > 0)
			require.NoError(t, report.Err())
		})
	}
}

// What a service that breaks its promises answers is found.
func TestFindsWrongAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault func(post int, again bool, g *given) (int, bool)
		want  string
	}{
		"sequence twice": {func(post int, again bool, g *given) (int, bool) {
			if post > 900 && !again && post < 910 {
				g.seq = 1
			}
			return 0, false
		}, "was given before"},
		"a gap": {func(post int, again bool, g *given) (int, bool) {
			if post > 900 && !again && post < 910 {
				g.seq += 1 << 20
			}
			return 0, false
		}, "have no send"},
		"ID twice": {func(post int, again bool, g *given) (int, bool) {
			if post > 900 && !again && post < 910 {
				g.id = message.MakeID(1<<40, 3, 4000)
			}
			return 0, false
		}, "is 0 or was given before"},
		"another answer to a repeated send": {func(_ int, again bool, g *given) (int, bool) {
			if again {
				g.seq++
			}
			return 0, false
		}, "the first time"},
		"a conflict without a cause": {func(post int, _ bool, _ *given) (int, bool) {
			if post == 900 {
				return http.StatusConflict, false
			}
			return 0, false
		}, "409 fault"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(newAPI(t, c.fault).URL)
			cfg.Duplicates = 0.1
			report := do(t, cfg)
			require.False(t, report.Clean())
			require.Contains(t, strings.Join(report.Checks.First, "\n"), c.want)
			require.ErrorIs(t, report.Err(), ErrViolated)
		})
	}
}

// A send whose answer is lost, or that is refused for now, is sent again with the same key until it
// is answered, so that nothing is out of order in the end.
func TestTriesAgain(t *testing.T) {
	t.Parallel()
	for _, bulk := range []int{0, 20} {
		a := newAPI(t, func(post int, _ bool, _ *given) (int, bool) {
			switch {
			case post%97 == 0:
				return 0, true
			case post%53 == 0:
				return http.StatusServiceUnavailable, false
			default:
				return 0, false
			}
		})
		cfg := testConfig(a.URL)
		cfg.Bulk = bulk
		report := do(t, cfg)
		require.True(t, report.Clean(), report.Checks.First)
		require.EqualValues(t, 2000, report.Answered)
		require.Positive(t, report.Retries)
		require.Positive(t, report.TryAgain)
		require.Greater(t, report.Connections, uint64(cfg.Concurrency))
		require.Len(t, a.given, 2000)
	}
}

// A send that is never answered is no violation: it may have a sequence or not.
func TestGivesUp(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	lost := ""
	a := newAPI(t, nil)
	a.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			panic(err)
		}
		var b sendBody
		if err := json.Unmarshal(text, &b); err != nil {
			panic(err)
		}
		mu.Lock()
		if lost == "" {
			lost = b.Key
		}
		never := lost == b.Key
		mu.Unlock()
		if never {
			a.one(text) // it has its sequence
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(text))
		a.ServeHTTP(w, r)
	})
	cfg := testConfig(a.URL)
	cfg.GiveUp = 50 * time.Millisecond
	report := do(t, cfg)
	require.True(t, report.Clean(), report.Checks.First)
	require.EqualValues(t, 1, report.Unanswered)
	require.EqualValues(t, 1999, report.Answered)
}

// The latency of an open loop counts from when a send was due: while the server stands still, sends
// become due and cannot be sent.
func TestOpenLoopCountsTheWait(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var once sync.Once
	a := newAPI(t, nil)
	a.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() {
			timer := time.AfterFunc(500*time.Millisecond, func() { close(release) })
			defer timer.Stop()
			<-release
		})
		a.ServeHTTP(w, r)
	})
	cfg := testConfig(a.URL)
	cfg.Concurrency, cfg.Rate, cfg.Count = 1, 1000, 600
	report := do(t, cfg)
	require.True(t, report.Clean())
	// The first send took half a second; the ones due in that time waited for it.
	require.GreaterOrEqual(t, report.Latency.P50, 100.0)
	require.Greater(t, report.Latency.P50, report.Service.P50)
}

func TestOpenLoopSaysWhatItDidNotBegin(t *testing.T) {
	t.Parallel()
	p := newPace(Config{Rate: 100, Duration: 10 * time.Second}, time.Now().Add(-time.Hour))
	_, _, _, ok := p.take(t.Context(), 1)
	require.False(t, ok, "an hour late is too late")
	require.EqualValues(t, 1000, p.missed(time.Now()))
}

func TestStopsWhenTold(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	a := newAPI(t, func(post int, _ bool, _ *given) (int, bool) {
		if post == 500 {
			cancel()
		}
		return 0, false
	})
	cfg := testConfig(a.URL)
	cfg.Count = 0
	cfg.Duration = time.Hour
	run, err := New(cfg, false)
	require.NoError(t, err)
	report, err := run.Do(ctx, io.Discard)
	require.NoError(t, err)
	require.True(t, report.Interrupted)
	require.True(t, report.Clean(), report.Checks.First)
	require.EqualValues(t, len(a.given), report.Answered)
}

func TestTargetThatRefusesConnections(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	run, err := New(testConfig(server.URL), false)
	require.NoError(t, err)
	_, err = run.Do(t.Context(), io.Discard)
	require.ErrorContains(t, err, "reach the API")
}

func TestConfigReportsAll(t *testing.T) {
	t.Parallel()
	err := Config{Target: "ftp://x", Rate: -1, Concurrency: 0, Channels: 0, Zipf: -1, ChannelType: 9, Duplicates: 1, Bulk: 20_000}.Check()
	for _, part := range []string{"--target", "--rate", "--concurrency", "--channels", "--zipf", "--channel-type", "--payload-size", "--duplicates", "--bulk", "--timeout"} {
		require.ErrorContains(t, err, part)
	}
	for _, bad := range []string{"", "5B", "10KiB-1KiB", "1KiB:0", "1KiB:x", "1XB", "8MiB"} {
		require.Error(t, new(PayloadSizes).UnmarshalText([]byte(bad)), bad)
	}
}

func TestSendsAreAFunctionOfTheirNumber(t *testing.T) {
	t.Parallel()
	cfg := testConfig("http://x")
	require.NoError(t, cfg.PayloadSize.UnmarshalText([]byte("100B:80,1KiB-2KiB:20")))
	s, again := newScript(cfg, "run", 7), newScript(cfg, "run", 7)
	small := 0
	for n := range uint64(10_000) {
		m := s.send(n)
		require.Equal(t, m, again.send(n))
		if m.size == 100 {
			small++
		}
		if n%1000 != 0 {
			continue
		}
		var scratch []byte
		var b sendBody
		require.NoError(t, json.Unmarshal(s.appendJSON(nil, m, &scratch), &b))
		require.Len(t, b.Payload, m.size)
		require.True(t, json.Valid(b.Payload))
		require.Equal(t, string(s.appendChannel(nil, m)), b.Channel)
		require.LessOrEqual(t, len(s.appendJSON(nil, m, &scratch))-base64.StdEncoding.EncodedLen(m.size), envelopeBytesMax)
	}
	require.InDelta(t, 8000, small, 400)
}

func TestZipf(t *testing.T) {
	t.Parallel()
	const n, draws = 100, 200_000
	for _, exponent := range []float64{0.5, 0.99, 1, 1.5} {
		z := newZipf(n, exponent)
		words := splitMix(1)
		var counts [n]int
		for range draws {
			counts[z.rank(&words)]++
		}
		var sum float64
		for k := range n {
			sum += z.density(float64(k + 1))
		}
		for _, k := range []int{0, 1, 9, 50} {
			want := draws * z.density(float64(k+1)) / sum
			require.InDelta(t, want, counts[k], 0.1*want+50, "exponent %g, rank %d", exponent, k)
		}
	}
}
