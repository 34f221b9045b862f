package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/testkit"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// buildClocked builds the binary with a wall clock that a file shifts, once: the embedded NATS shifts with it, and the machine's clock
// stays as it is. time.Now is another one, and main has a file more, by an overlay on the sources.
var buildClocked = sync.OnceValues(func() (string, error) {
	std := filepath.Join(runtime.GOROOT(), "src", "time", "time.go") //nolint:staticcheck // go test sets it
	source, err := os.ReadFile(std)
	if err != nil {
		return "", fmt.Errorf("read package time: %w", err)
	}
	const begin, reading = "func Now() Time {\n", "sec, nsec, mono := runtimeNow()\n"
	before, now, found := strings.Cut(string(source), begin)
	first, rest, found2 := strings.Cut(now, reading)
	if !found || !found2 || strings.Contains(first, "}") {
		return "", errors.New("time.Now has another shape in this Go release; change this test")
	}
	clocked := before + "// TestOffsetSeconds shifts Now.\nvar TestOffsetSeconds int64\n\n" + begin + first + reading + "\tsec += TestOffsetSeconds\n" + rest
	root, err := filepath.Abs("../../..")
	if err != nil {
		return "", fmt.Errorf("find the sources: %w", err)
	}
	addition, err := filepath.Abs("testdata/clock.go.txt")
	if err != nil {
		return "", fmt.Errorf("find the addition: %w", err)
	}
	changed := filepath.Join(buildDir, "time.go")
	if err := os.WriteFile(changed, []byte(clocked), 0o600); err != nil {
		return "", err
	}
	return buildOver("clocked", map[string]string{std: changed, filepath.Join(root, "zz_clock.go"): addition})
})

// clocked is an `up` whose clock can be set.
type clocked struct {
	*node
	file string
	js   jetstream.JetStream
}

func newClocked(t *testing.T, flags ...string) *clocked {
	t.Helper()
	path, err := buildClocked()
	require.NoError(t, err)
	c := &clocked{node: newUp(t, append([]string{"--partitions=1"}, flags...)...), file: filepath.Join(t.TempDir(), "clock")}
	require.NoError(t, os.WriteFile(c.file, []byte("0"), 0o600))
	c.Process = testkit.NewProcess(t, testkit.ProcessConfig{
		Name: "up", Path: path, Args: c.args, Env: []string{"TEST_CLOCK_FILE=" + c.file}, Ready: func(ctx context.Context) error { return c.ready(ctx) },
	})
	c.Start()
	nc, err := nats.Connect(c.nats, nats.MaxReconnects(-1))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	c.js, err = jetstream.New(nc)
	require.NoError(t, err)
	return c
}

// set shifts the clock, and waits until the broker shows it.
func (c *clocked) set(t *testing.T, by time.Duration) {
	t.Helper()
	require.NoError(t, os.WriteFile(c.file, []byte(strconv.FormatInt(int64(by.Seconds()), 10)), 0o600))
	testkit.WaitFor(t, arriveTimeout, "the broker's clock to step", func(ctx context.Context) error {
		stream, err := c.js.Stream(ctx, topology.WALStream(0))
		if err != nil {
			return err
		}
		if off := time.Until(stream.CachedInfo().TimeStamp) - by; off.Abs() > 30*time.Second {
			return fmt.Errorf("it is off by %s", off)
		}
		return nil
	})
}

// given is what a send was answered.
type given struct {
	MessageID  int64  `json:"message_id"`
	MessageSeq uint64 `json:"message_seq"`
}

func (c *clocked) send(ctx context.Context, no string, expire int) (g given, err error) {
	body := fmt.Sprintf(`{"from_uid":"u","channel_id":"g","channel_type":2,"client_msg_no":%q,"expire":%d,"payload":"aGk="}`, no, expire)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.api+"/message/send", strings.NewReader(body))
	if err != nil {
		return g, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return g, err
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return g, err
	}
	if resp.StatusCode != http.StatusOK {
		return g, fmt.Errorf("%d %s", resp.StatusCode, text)
	}
	return g, json.Unmarshal(text, &g)
}

func (c *clocked) mustSend(t *testing.T, no string, expire int) given {
	t.Helper()
	g, err := c.send(t.Context(), no, expire)
	require.NoError(t, err)
	return g
}

// row waits for the row of a message, and returns how far its timestamp is from the right time, and from that in its ID.
func (c *clocked) row(t *testing.T, no string) (off, lead time.Duration) {
	t.Helper()
	var text string
	testkit.WaitFor(t, arriveTimeout, "the row of "+no, func(context.Context) error {
		text = strings.TrimSpace(c.query(t, "SELECT toUnixTimestamp64Milli(timestamp), message_id FROM sendhouse.messages WHERE client_msg_no = '"+no+"' FORMAT TSV"))
		if text == "" {
			return errors.New("there is none")
		}
		return nil
	})
	var milli, id int64
	_, err := fmt.Sscan(text, &milli, &id)
	require.NoError(t, err, text)
	at := time.UnixMilli(milli)
	return -time.Since(at), message.ID(id).Time().Sub(at)
}

const (
	day = 24 * time.Hour
	// rowDelayMax is enough for a row to come and be looked at.
	rowDelayMax = 2 * time.Minute
)

// TestEndToEndClock puts the clock 400 days ahead for one send, and sets it right again; then two hours back.
func TestEndToEndClock(t *testing.T) {
	t.Parallel()
	c := newClocked(t)
	first := c.mustSend(t, "before", 0)
	c.set(t, 400*day)
	during := c.mustSend(t, "during", 0)
	c.set(t, 0)
	require.Equal(t, first, c.mustSend(t, "before", 0), "a retry across the step")
	require.Equal(t, during, c.mustSend(t, "during", 0))
	after := c.mustSend(t, "after", 3)
	require.Greater(t, during.MessageID, first.MessageID)
	require.Greater(t, after.MessageID, during.MessageID)

	off, lead := c.row(t, "during")
	require.InDelta(t, 400*day, off, float64(rowDelayMax))
	require.Zero(t, lead)
	off, lead = c.row(t, "after")
	require.InDelta(t, 0, off, float64(rowDelayMax))
	require.InDelta(t, 400*day, lead, float64(rowDelayMax))
	testkit.WaitFor(t, arriveTimeout, "the message of three seconds to expire", func(context.Context) error {
		if n := strings.TrimSpace(c.query(t, "SELECT count() FROM sendhouse.messages_latest WHERE client_msg_no = 'after'")); n != "0" {
			return fmt.Errorf("%s rows", n)
		}
		return nil
	})
	require.Equal(t, "during", strings.TrimSpace(c.query(t, fmt.Sprintf("SELECT client_msg_no FROM sendhouse.messages_by_message_id(message_id = %d)", during.MessageID))))
	c.awaitSeries(t, "sendhouse_sequencer_id_clock_ahead_seconds", func(values []float64) bool { return len(values) == 1 && values[0] > 399*day.Seconds() })
	require.InDelta(t, 2, c.sum(t, "sendhouse_sequencer_clock_steps_total", ""), 0)
	require.Contains(t, c.Output(), `"the broker's clock has stepped"`)
	require.Contains(t, c.Output(), "direction=back")

	c.set(t, -2*time.Hour)
	c.mustSend(t, "two hours back", 0)
	c.awaitSeries(t, "sendhouse_sequencer_broker_clock_offset_seconds", func(values []float64) bool { return len(values) == 1 && values[0] < -7000 })
	off, _ = c.row(t, "two hours back")
	require.InDelta(t, -2*time.Hour, off, float64(rowDelayMax))
	require.Equal(t, first, c.mustSend(t, "before", 0))
	c.set(t, 0)
	c.mustSend(t, "right again", 0)
	off, _ = c.row(t, "right again")
	require.InDelta(t, 0, off, float64(rowDelayMax))

	// Another process folds it again, and finds the same.
	require.Equal(t, 0, c.Stop())
	c.Start()
	require.Equal(t, first, c.mustSend(t, "before", 0))
	require.Greater(t, c.mustSend(t, "last", 0).MessageID, after.MessageID)
	c.row(t, "last")
	audit(t, "nats://"+c.nats)
	require.Equal(t, 0, c.Stop())
}

// TestEndToEndClockFarAhead puts the clock past what an ID can hold, for one send. A millisecond of IDs more than there was
// then is given out.
func TestEndToEndClockFarAhead(t *testing.T) {
	t.Parallel()
	c := newClocked(t)
	first := c.mustSend(t, "before", 0)
	c.set(t, 80*365*day)
	far := c.mustSend(t, "far", 0)
	c.set(t, 0)
	require.Equal(t, message.ID(first.MessageID)+1, message.ID(far.MessageID))
	const sends, clients = 4200, 60
	group, ctx := errgroup.WithContext(t.Context())
	for client := range clients {
		group.Go(func() error {
			for n := client; n < sends; n += clients {
				if _, err := c.send(ctx, strconv.Itoa(n), 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	c.Kill9()
	c.Start()
	last := c.mustSend(t, "last", 0)
	require.EqualValues(t, sends+3, last.MessageSeq)
	off, lead := c.row(t, "last")
	require.InDelta(t, 0, off, float64(rowDelayMax))
	require.InDelta(t, 0, lead, float64(time.Second))
	off, _ = c.row(t, "far")
	require.InDelta(t, 0, off, float64(2*rowDelayMax), "it has the time of the record before it")
	audit(t, "nats://"+c.nats)
	require.Equal(t, 0, c.Stop())
}
