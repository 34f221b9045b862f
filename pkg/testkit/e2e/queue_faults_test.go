package e2e

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// faults is a proxy between a client and a server that does to requests what networks and other proxies do.
type faults struct {
	*httptest.Server
	address string // of the server
	client  http.Client

	mu     sync.Mutex
	random *rand.Rand
	share  float64        // of the requests, that go wrong
	seen   map[string]int // requests by route, and what went wrong
	hold   *hold          // if it is not nil, sends are held
}

// hold is for the sends that are held.
type hold struct {
	way     string        // one of holdWays
	arrived chan struct{} // closed when there is one
	once    sync.Once
	leave   chan struct{} // closed to reset all
}

// holdWays are when a send is held: after the server has stored it, in the middle of its way there, and before that.
func holdWays() []string { return []string{"stored", "half", "lost"} }

// delayMax is how much later a request or an answer may come. It is much shorter than the windows of the tests: a request that is on its way
// for longer than the server remembers looks like one that is lost.
const delayMax = 300 * time.Millisecond

// fault is what happens to a request.
type fault struct {
	name   string
	passes bool // the server gets it
	answer func(w http.ResponseWriter, answer *httptest.ResponseRecorder)
}

func resets(w http.ResponseWriter, _ *httptest.ResponseRecorder) { reset(w, "") }

func says(status int, text string, header ...string) func(http.ResponseWriter, *httptest.ResponseRecorder) {
	return func(w http.ResponseWriter, _ *httptest.ResponseRecorder) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text) // the client may have gone
	}
}

func passOn(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()) // the client may have gone
}

// cut sends a part of the answer.
func cut(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	w.Header().Set("Content-Length", fmt.Sprint(answer.Body.Len()))
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()[:answer.Body.Len()/2]) // the client may have gone
	panic(http.ErrAbortHandler)
}

func allFaults() []fault {
	const page = "<html>not the server you want</html>"
	return []fault{
		{"reset before the server", false, resets},
		{"reset after the server", true, resets},
		{"502 before the server", false, says(http.StatusBadGateway, page)},
		{"504 after the server", true, says(http.StatusGatewayTimeout, page)},
		{"200 of another", false, says(http.StatusOK, page)},
		{"wait for 68 years", false, says(http.StatusServiceUnavailable, page, "Retry-After", "2147483647")},
		{"answer cut", true, cut},
		{"late", true, passOn},
	}
}

func startFaults(t *testing.T, address string, seed uint64, share float64) *faults {
	t.Helper()
	f := &faults{address: address, random: rand.New(rand.NewPCG(seed, 5)), share: share, seen: make(map[string]int)}
	f.client.Transport = &http.Transport{MaxIdleConnsPerHost: 64}
	f.Server = httptest.NewServer(f)
	t.Cleanup(func() {
		f.release()
		f.Close()
		f.client.CloseIdleConnections()
	})
	return f
}

// ServeHTTP treats one request.
func (f *faults) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the client was killed
	}
	wrong, hold := f.choose(r)
	if hold != nil {
		switch hold.way {
		case "stored":
			f.pass(r, body)
		case "half":
			f.passHalf(r, body)
		}
		hold.once.Do(func() { close(hold.arrived) })
		<-hold.leave
		reset(w, "")
		return
	}
	var answer *httptest.ResponseRecorder
	if wrong.name == "late" {
		f.delay()
	}
	if wrong.passes {
		answer = f.pass(r, body)
	}
	if wrong.name == "late" {
		f.delay()
	}
	wrong.answer(w, answer)
}

// choose decides on a request.
func (f *faults) choose(r *http.Request) (wrong fault, held *hold) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen[r.URL.Path]++
	if f.hold != nil && strings.HasPrefix(r.URL.Path, "/message/send") {
		f.seen["held, "+f.hold.way]++
		return wrong, f.hold
	}
	wrong = fault{"", true, passOn}
	if f.random.Float64() < f.share {
		all := allFaults()
		wrong = all[f.random.IntN(len(all))]
		f.seen[wrong.name]++
	}
	return wrong, nil
}

func (f *faults) delay() {
	f.mu.Lock()
	d := time.Duration(f.random.Int64N(int64(delayMax)))
	f.mu.Unlock()
	_ = lifecycle.Pause(context.Background(), d) // it has no end but its own
}

// pass has the server answer a request, whether the client still lives or not.
func (f *faults) pass(r *http.Request, body []byte) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	res, err := f.forward(r, bytes.NewReader(body), int64(len(body)))
	if err == nil {
		defer func() { _ = res.Body.Close() }() // only read
		maps.Copy(answer.Header(), res.Header)
		answer.Code = res.StatusCode
		if _, err = io.Copy(answer.Body, res.Body); err == nil {
			return answer
		}
	}
	answer = httptest.NewRecorder()
	answer.WriteHeader(http.StatusBadGateway)
	return answer
}

// passHalf breaks the connection to the server in the middle of a request.
func (f *faults) passHalf(r *http.Request, body []byte) {
	broken, end := io.Pipe()
	go func() {
		_, err := end.Write(body[:len(body)/2])
		_ = end.CloseWithError(cmp.Or(err, io.ErrUnexpectedEOF)) // it has no other
	}()
	if res, err := f.forward(r, broken, int64(len(body))); err == nil {
		_ = res.Body.Close() // nothing of it matters
	}
}

func (f *faults) forward(r *http.Request, body io.Reader, length int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, "http://"+f.address+r.URL.RequestURI(), body)
	if err != nil {
		return nil, err
	}
	req.Header, req.ContentLength = r.Header.Clone(), length
	return f.client.Do(req)
}

// holdSends has all sends held from now on, until release, and waits until there is one.
func (f *faults) holdSends(t *testing.T, way string) {
	t.Helper()
	h := &hold{way: way, arrived: make(chan struct{}), leave: make(chan struct{})}
	f.mu.Lock()
	f.hold = h
	f.mu.Unlock()
	select {
	case <-h.arrived:
	case <-time.After(arriveTimeout):
		require.Fail(t, "no send is held")
	}
}

// release resets what is held.
func (f *faults) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hold != nil {
		close(f.hold.leave)
		f.hold = nil
	}
}

func (f *faults) count(what string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[what]
}

// startShort starts a server that soon forgets.
func startShort(t *testing.T, window time.Duration) (*node, *table) {
	t.Helper()
	up := newUp(t, "--flush-interval=100ms", "--partitions=1", "--dedup-window="+window.String())
	up.Start()
	table := embeddedTable(t, up)
	table.keepDuplicates(t)
	return up, table
}

// TestEndToEndQueuePastWindow kills a client between the mark of a try and its answer, and starts it again when the server has forgotten
// the client_msg_no: each send is stored once, in order, whether the try was stored, lost or cut.
func TestEndToEndQueuePastWindow(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	up, table := startShort(t, 5*time.Second)
	network := startFaults(t, up.api, seed, 0)
	user := newQueueUser(t, network.Listener.Addr().String(), queueSettleVariable+"=1")
	user.Launch()
	for round, way := range append(holdWays(), "stored") {
		user.await(enqueuedFile, 200)
		network.holdSends(t, way)
		user.await(enqueuedFile, 20)
		user.Kill9()
		network.release()
		awaitForgotten(t, up)
		if round == 3 { // a server that does not know its window yet
			up.Kill9()
			user.Launch()
			up.Start()
		} else {
			user.Launch()
		}
		user.await(sentFile, 1)
	}
	require.Positive(t, network.count("/message/status"), "the client has not asked")
	records := user.finish()
	verify(t, table, records)
	audit(t, "nats://"+up.nats)
	t.Logf("%d sends; requests: %v", len(records), network.seen)
}

// TestEndToEndQueueChaos has a client with a queue, its network and the server fail in all ways, again and again, each once at the least. `make
// chaos-client` does it for minutes. The server forgets after a few seconds; some of the outages last longer.
func TestEndToEndQueueChaos(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	choose := rand.New(rand.NewPCG(seed, 6))
	duration := time.Duration(0)
	if text := os.Getenv("CHAOS_CLIENT_FOR"); text != "" {
		var err error
		duration, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	up, table := startShort(t, 10*time.Second)
	network := startFaults(t, up.api, seed, 0.1)
	user := newQueueUser(t, network.Listener.Addr().String(), queueSettleVariable+"=1")
	user.Launch()
	events := []struct {
		name string
		do   func()
	}{
		{"the client is killed", func() { user.Kill9(); user.Launch() }},
		{"the client is killed, and again soon after its start", func() { user.killSoon(choose) }},
		{"the client ends in order", func() { require.Equal(t, 0, user.Stop()); user.Launch() }},
		{"the server is killed, and then the client", func() {
			up.Kill9()
			user.await(enqueuedFile, 100)
			user.Kill9()
			user.Launch()
			up.Start()
		}},
		{"the client is killed in mid-try until the server has forgotten", func() {
			network.holdSends(t, holdWays()[choose.IntN(3)])
			user.Kill9()
			network.release()
			awaitForgotten(t, up)
			user.Launch()
		}},
		{"both are killed in mid-try until the server has forgotten", func() {
			network.holdSends(t, holdWays()[choose.IntN(3)])
			up.Kill9()
			user.Kill9()
			network.release()
			up.Start()
			awaitForgotten(t, up)
			up.Kill9()
			user.Launch()
			up.Start()
		}},
		{"the client stands still until the server has forgotten", func() {
			network.holdSends(t, holdWays()[choose.IntN(3)])
			user.Pause()
			network.release()
			awaitForgotten(t, up)
			user.Resume()
		}},
	}
	counts := make(map[string]int)
	for begun := time.Now(); len(counts) < len(events) || time.Since(begun) < duration; {
		for _, i := range choose.Perm(len(events)) {
			user.await(enqueuedFile, 1+choose.IntN(400))
			begun := time.Now()
			events[i].do()
			user.await(sentFile, 1) // it continues
			counts[events[i].name]++
			t.Logf("%s for %s: %s; %d enqueued", begun.Format(time.TimeOnly), time.Since(begun).Round(time.Millisecond), events[i].name, user.lines(enqueuedFile))
		}
	}
	records := user.finish()
	verify(t, table, records)
	audit(t, "nats://"+up.nats)
	t.Logf("%d sends, none lost, twice or out of order; %v; requests and faults: %v", len(records), counts, network.seen)
}
