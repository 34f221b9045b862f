package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
)

// testTimeout bounds every wait of a test; no test takes this long unless it fails.
const testTimeout = 30 * time.Second

// server takes sends as the real one does, in memory, unless the test has it fail. It keeps what came in its order.
type server struct {
	*httptest.Server

	mu       sync.Mutex
	fail     func(w http.ResponseWriter, s client.Send) bool // true: it has answered
	stored   map[string][]string                             // client_msg_no, by channel
	known    map[string]client.Result
	requests int // sends
	posts    int
	checks   int
	// remembers is what /message/window reports: nothing if 0, and if negative there is no such route.
	remembers time.Duration
	windows   int    // so often it was asked
	status    string // the answer of /message/status; "": there is no such route
}

func (s *server) statusIs(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = text
}

func (s *server) forgets(remembers time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remembers = remembers
}

func (s *server) windowsAsked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.windows
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{remembers: time.Hour, stored: make(map[string][]string), known: make(map[string]client.Result)}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/message/status":
		s.mu.Lock()
		defer s.mu.Unlock()
		s.checks++
		if s.status == "" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, s.status)
		return
	case "/message/window":
		s.mu.Lock()
		defer s.mu.Unlock()
		s.windows++
		w.Header().Set("Connection", "close") // or net/http would repeat the request after this one by itself, if its answer is lost
		switch {
		case s.remembers < 0:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"status":404,"code":"not_found","msg":"no such route"}`)
		case s.remembers == 0:
			_, _ = io.WriteString(w, `{"ordered_bulks":true}`)
		default:
			_, _ = fmt.Fprintf(w, `{"remembers_ms":%d,"ordered_bulks":true}`, s.remembers.Milliseconds())
		}
		return
	}
	text, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	s.mu.Lock()
	s.posts++
	fail := s.fail
	s.mu.Unlock()
	bulk := r.URL.Path == "/message/sendbulk"
	refused := make(map[string]bool) // channels of which a send was not stored
	for line := range bytes.Lines(text) {
		var one client.Send
		if json.Unmarshal(line, &one) != nil {
			panic(http.ErrAbortHandler)
		}
		s.mu.Lock()
		s.requests++
		s.mu.Unlock()
		answer := httptest.NewRecorder()
		switch {
		case refused[one.ChannelID]:
			says(503, "out_of_order")(answer, one)
		case fail == nil || !fail(answer, one):
			s.answer(answer, one)
		default:
			refused[one.ChannelID] = answer.Code >= 500
		}
		if !bulk {
			for name := range answer.Header() {
				w.Header().Set(name, answer.Header().Get(name))
			}
			w.WriteHeader(answer.Code)
			_, _ = w.Write(answer.Body.Bytes())
			return
		}
		if answer.Code == 200 {
			_, _ = io.WriteString(w, `{"status":200,`+strings.TrimPrefix(answer.Body.String(), "{")+"\n")
		} else {
			_, _ = io.WriteString(w, answer.Body.String()+"\n")
		}
	}
}

func (s *server) answer(w http.ResponseWriter, one client.Send) {
	r, replayed := s.store(one)
	if replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	_, _ = fmt.Fprintf(w, `{"message_id":%d,"message_idstr":"%d","message_seq":%d,"client_msg_no":%q}`, r.MessageID, r.MessageID, r.MessageSeq, r.ClientMsgNo)
}

func (s *server) store(one client.Send) (r client.Result, replayed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := one.ChannelID + "/" + one.ClientMsgNo
	if r, replayed = s.known[key]; replayed {
		return r, true
	}
	s.stored[one.ChannelID] = append(s.stored[one.ChannelID], one.ClientMsgNo)
	r = client.Result{MessageID: int64(len(s.known) + 1), MessageSeq: int64(len(s.stored[one.ChannelID])), ClientMsgNo: one.ClientMsgNo}
	s.known[key] = r
	return r, false
}

// failing sets what happens to requests from now on; nil: they are answered.
func (s *server) failing(how func(http.ResponseWriter, client.Send) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = how
}

func (s *server) got(channel string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.stored[channel])
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// says answers with an error.
func says(status int, code string) func(http.ResponseWriter, client.Send) bool {
	return func(w http.ResponseWriter, _ client.Send) bool {
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"status":%d,"code":%q,"msg":"said so","field":"","reason":0}`, status, code)
		return true
	}
}

// bundle is a queue at a server.
type bundle struct {
	t      *testing.T
	server *server
	cfg    Config
	*Queue
	stop context.CancelFunc
	ran  chan error

	mu   sync.Mutex
	sent []string
	dead []DeadLetter
}

// setup opens a queue without running it.
func setup(t *testing.T, set func(*Config)) *bundle {
	t.Helper()
	b := &bundle{t: t, server: newServer(t)}
	c, err := client.New(client.Config{URL: b.server.URL, BackoffMin: time.Millisecond, BackoffMax: 2 * time.Millisecond, TriesMax: 2, TryTimeout: testTimeout})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	b.cfg = Config{
		Dir: t.TempDir(), Client: c, BackoffMin: time.Millisecond, BackoffMax: 4 * time.Millisecond,
		BatchItemsMax: 1, // most tests are about single sends; those about bulks set it
		OnSent: func(e Entry, _ client.Result) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.sent = append(b.sent, e.Send.ClientMsgNo)
		},
		OnDead: func(d DeadLetter) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.dead = append(b.dead, d)
		},
	}
	if set != nil {
		set(&b.cfg)
	}
	b.cfg = b.cfg.withDefaults()
	b.open()
	t.Cleanup(func() { require.NoError(t, b.Queue.Close()) })
	return b
}

func (b *bundle) open() {
	b.t.Helper()
	q, err := Open(b.cfg)
	require.NoError(b.t, err)
	b.Queue = q
}

func (b *bundle) run() {
	b.t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(b.t.Context()))
	ran := make(chan error, 1)
	b.stop, b.ran = stop, ran
	q := b.Queue
	go func() { ran <- q.Run(ctx) }()
	b.t.Cleanup(stop)
}

// end lets Run return, and closes the queue.
func (b *bundle) end() {
	b.t.Helper()
	b.stop()
	require.NoError(b.t, receive(b.t, b.ran))
	require.NoError(b.t, b.Queue.Close())
}

// crash continues with what is on disk at this moment, as after kill -9 of the process: the old queue is not closed before.
func (b *bundle) crash() {
	b.t.Helper()
	dir := b.t.TempDir()
	require.NoError(b.t, os.CopyFS(filepath.Join(dir, "queue"), os.DirFS(b.cfg.Dir)))
	old := b.Queue
	if b.stop != nil {
		b.stop()
		b.stop = nil
	}
	b.t.Cleanup(func() { require.NoError(b.t, old.Close()) })
	b.cfg.Dir = filepath.Join(dir, "queue")
	b.open()
}

func (b *bundle) enqueue(channel string, nos ...string) {
	b.t.Helper()
	for _, no := range nos {
		_, err := b.Enqueue(b.t.Context(), groupSend(channel, no))
		require.NoError(b.t, err)
	}
}

func groupSend(channel, no string) client.Send {
	return client.Send{ClientMsgNo: no, FromUID: "u", ChannelID: channel, ChannelType: client.ChannelGroup, Payload: []byte("hi")}
}

// flush waits until the queue is empty.
func (b *bundle) flush() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), testTimeout)
	defer cancel()
	require.NoError(b.t, b.Flush(ctx))
}

func (b *bundle) sentSoFar() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.sent)
}

func (b *bundle) deadSoFar() []DeadLetter {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.dead)
}

func receive[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(testTimeout):
		require.Fail(t, "nothing came")
	}
	return v
}

// numbers is from, from+1, … as client_msg_no.
func numbers(from, n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("no-%04d", from+i))
	}
	return all
}
