package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

const (
	clientsDefault  = 24
	channelsDefault = 40
	// requestTimeout is longer than the service takes to give up on a send.
	requestTimeout = 10 * time.Second
	// tryAgainAfter is the pause of a client that was not answered 200. It is shorter than Retry-After asks
	// for, to be there when a process comes up.
	tryAgainAfter = 25 * time.Millisecond
	// answeredTimeout bounds how long a load may take to be answered.
	answeredTimeout = 2 * time.Minute
	faultsMax       = 10
)

// loadConfig says what clients do; the zero value will do.
type loadConfig struct {
	seed    uint64
	name    string // of this load, where a test has several
	clients int
	// payloadBytesMax bounds the payloads, whose sizes are evenly spread.
	payloadBytesMax int
	// expire of every send, in seconds, in channels of their own; 0 for a mixture that does not expire.
	expire uint32
	// once: a client whose request got no answer, or was refused, ends instead of trying again.
	once bool
	// others are more addresses: requests go to all in turn.
	others []string
	// oneRetry: a request that failed is sent once more, at once and to the next address, and must not fail there.
	oneRetry bool
}

// load is a number of clients, each of which sends one message after another, and sends it again with the
// same client_msg_no until it is answered 200. Now and then a client repeats a send that was answered.
type load struct {
	t       *testing.T
	cfg     loadConfig
	urls    []string
	turn    atomic.Uint64 // whose is the next request
	client  *http.Client
	clients sync.WaitGroup
	stop    context.CancelFunc // no new sends
	going   context.Context    //nolint:containedctx // ends with stop

	mu       sync.Mutex
	records  []*record
	lost     []send         // without an answer 200, when clients send once
	outcomes map[string]int // by status and code, or the error
	repeats  int
	faults   []string // what must not happen
	target   int
	reached  chan struct{} // closed when there are target records
}

// startLoad starts the clients. They end with finish, or with the test.
func startLoad(t *testing.T, address string, cfg loadConfig) *load {
	t.Helper()
	if cfg.clients == 0 {
		cfg.clients = clientsDefault
	}
	transport := &http.Transport{MaxIdleConnsPerHost: cfg.clients}
	l := &load{
		t: t, cfg: cfg,
		client:   &http.Client{Transport: transport, Timeout: requestTimeout},
		outcomes: make(map[string]int),
	}
	for _, at := range append([]string{address}, cfg.others...) {
		l.urls = append(l.urls, "http://"+at+"/message/send")
	}
	l.going, l.stop = context.WithCancel(t.Context())
	for n := range cfg.clients {
		d := &dice{
			Rand:     rand.New(rand.NewPCG(cfg.seed, uint64(n))),
			channels: channelsDefault, bytesMax: cfg.payloadBytesMax, expire: cfg.expire, prefix: fmt.Sprintf("%sc%d", cfg.name, n),
		}
		l.clients.Go(func() { l.run(t.Context(), d) })
	}
	t.Cleanup(func() {
		l.stop()
		l.clients.Wait()
		transport.CloseIdleConnections()
		if t.Failed() {
			t.Logf("%d sends were answered 200, %d repeated; what else the clients saw: %v", len(l.records), l.repeats, l.outcomes)
		}
	})
	return l
}

// run is one client.
func (l *load) run(ctx context.Context, d *dice) {
	var own []*record
	for l.going.Err() == nil && ctx.Err() == nil {
		r := &record{send: d.send(), begun: time.Now()}
		var ok bool
		if r.answer, ok = l.deliver(ctx, &r.send, false); !ok {
			l.mu.Lock()
			l.lost = append(l.lost, r.send)
			l.mu.Unlock()
			return
		}
		r.answered = time.Now()
		l.add(r)
		own = append(own, r)
		if d.IntN(20) == 0 && !l.repeat(ctx, own[d.IntN(len(own))]) {
			return
		}
	}
}

func (l *load) add(r *record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r)
	if l.reached != nil && len(l.records) >= l.target {
		close(l.reached)
		l.reached = nil
	}
}

// repeat sends a message again that was answered, and wants the same answer.
func (l *load) repeat(ctx context.Context, r *record) bool {
	again, ok := l.deliver(ctx, &r.send, true)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.repeats++
	if ok && again != r.answer {
		l.fault("%s was answered %v, and its repeat %v", r.clientMsgNo, r.answer, again)
	}
	return ok
}

// deliver posts a send until it is answered 200.
func (l *load) deliver(ctx context.Context, s *send, isRepeat bool) (answer, bool) {
	body := s.body()
	var failed []string
	for turn := l.turn.Add(1); ; turn++ {
		a, outcome := l.post(ctx, l.urls[turn%uint64(len(l.urls))], s, body, isRepeat)
		if outcome == "" {
			return a, true
		}
		l.mu.Lock()
		l.outcomes[outcome]++
		failed = append(failed, outcome)
		if l.cfg.oneRetry && len(failed) == 2 && ctx.Err() == nil {
			l.fault("%s failed, and when it was sent again: %q", s.clientMsgNo, failed)
		}
		l.mu.Unlock()
		if l.cfg.oneRetry && len(failed) == 1 {
			continue
		}
		if l.cfg.once {
			return a, false
		}
		pause := time.NewTimer(tryAgainAfter)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return a, false
		}
	}
}

// post makes one request; outcome is empty for a 200, and otherwise says what was answered.
func (l *load) post(ctx context.Context, url string, s *send, body []byte, isRepeat bool) (a answer, outcome string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return a, l.faulty("%v", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.client.Do(req)
	if err != nil {
		return a, kindOf(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		if l.cfg.once {
			return a, l.faulty("%s: the answer broke off: %v", s.clientMsgNo, err)
		}
		return a, kindOf(err)
	}
	var decoded struct {
		MessageID   int64  `json:"message_id"`
		MessageSeq  uint64 `json:"message_seq"`
		ClientMsgNo string `json:"client_msg_no"`
		Code        string `json:"code"`
	}
	if err := json.Unmarshal(text, &decoded); err != nil {
		return a, l.faulty("%s: answered %d %q: %v", s.clientMsgNo, resp.StatusCode, text, err)
	}
	switch {
	case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
		return a, "503 " + decoded.Code
	case resp.StatusCode != http.StatusOK:
		return a, l.faulty("%s: answered %d %s", s.clientMsgNo, resp.StatusCode, text)
	case decoded.ClientMsgNo != s.clientMsgNo:
		return a, l.faulty("%s: answered for another: %s", s.clientMsgNo, text)
	case isRepeat && resp.Header.Get("Idempotent-Replayed") != "true":
		return a, l.faulty("%s: its repeat was not known as one: %s", s.clientMsgNo, text)
	}
	return answer{id: decoded.MessageID, seq: decoded.MessageSeq}, ""
}

// kindOf groups errors of the transport by what they say last.
func kindOf(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+2:]
	}
	return text
}

// faulty notes what must not happen.
func (l *load) faulty(format string, args ...any) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault(format, args...)
	return "fault"
}

func (l *load) fault(format string, args ...any) {
	if len(l.faults) < faultsMax {
		l.faults = append(l.faults, fmt.Sprintf(format, args...))
	}
}

// await waits until n more sends have been answered 200.
func (l *load) await(n int) {
	l.t.Helper()
	l.mu.Lock()
	reached := make(chan struct{})
	l.reached, l.target = reached, len(l.records)+n
	l.mu.Unlock()
	timer := time.NewTimer(answeredTimeout)
	defer timer.Stop()
	select {
	case <-reached:
	case <-timer.C:
		l.mu.Lock()
		defer l.mu.Unlock()
		require.Fail(l.t, "the sends are not answered", "%d of %d within %s; what the clients saw: %v",
			len(l.records)-l.target+n, n, answeredTimeout, l.outcomes)
	}
	l.check()
}

// awaitOutcome waits until a client has seen the outcome once more.
func (l *load) awaitOutcome(outcome string) {
	l.t.Helper()
	seen := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.outcomes[outcome]
	}
	before := seen()
	testkit.WaitFor(l.t, answeredTimeout, "a client to see "+outcome, func(context.Context) error {
		if seen() == before {
			return errors.New("none did")
		}
		return nil
	})
}

// finish lets every client see its last send answered, and gives all that were.
func (l *load) finish() []*record {
	l.t.Helper()
	records, err := l.end()
	require.NoError(l.t, err)
	return records
}

// end is finish for those to whom a fault is a result.
func (l *load) end() ([]*record, error) {
	l.stop()
	ended := make(chan struct{})
	go func() { l.clients.Wait(); close(ended) }()
	timer := time.NewTimer(answeredTimeout)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		l.mu.Lock()
		defer l.mu.Unlock()
		return nil, fmt.Errorf("the last sends are not answered within %s; what the clients saw: %v", answeredTimeout, l.outcomes)
	}
	return l.records, l.wrong()
}

func (l *load) check() {
	l.t.Helper()
	require.NoError(l.t, l.wrong())
}

// wrong returns what must not have happened and did.
func (l *load) wrong() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.faults) == 0 {
		return nil
	}
	return errors.New(strings.Join(l.faults, "\n"))
}

// repeatSome sends every n-th record again, after whatever has happened since.
func (l *load) repeatSome(records []*record, n int) {
	l.t.Helper()
	for i := 0; i < len(records); i += n {
		require.True(l.t, l.repeat(l.t.Context(), records[i]))
	}
	l.check()
}
