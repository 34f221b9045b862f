package client_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
)

// scripted is a server that answers one request after another as the test says, and keeps what it was sent.
type scripted struct {
	*httptest.Server
	mu     sync.Mutex
	steps  []http.HandlerFunc // the last one repeats for ever
	bodies []string
	heads  []http.Header
	conns  int
	window http.HandlerFunc // nil: it remembers for ten minutes
}

func script(t *testing.T, steps ...http.HandlerFunc) *scripted {
	t.Helper()
	s := &scripted{steps: steps}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			s.conns++
			s.mu.Unlock()
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func (s *scripted) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/message/window" && s.window != nil {
		s.window(w, r)
		return
	} else if r.URL.Path == "/message/window" { // no step of a script
		_, _ = io.WriteString(w, `{"remembers_ms":600000,"ordered_bulks":true}`)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	s.mu.Lock()
	s.bodies, s.heads = append(s.bodies, r.Method+" "+r.URL.Path+" "+string(body)), append(s.heads, r.Header)
	step := s.steps[0]
	if len(s.steps) > 1 {
		s.steps = s.steps[1:]
	}
	s.mu.Unlock()
	step(w, r)
}

// seen is what was sent so far.
func (s *scripted) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bodies
}

// says answers in the server's shape.
func says(status int, code string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"status":%d,"code":%q,"msg":"said so","field":"f","reason":7}`, status, code)
	}
}

func says200(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, `{"message_id":9007199254740993,"message_idstr":"9007199254740993","message_seq":5,"client_msg_no":"no-1"}`)
}

// text answers as something in between might.
func text(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// hangsUp ends the connection without an answer.
func hangsUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// newClient is a client in a hurry.
func newClient(t *testing.T, url string, set func(*client.Config)) *client.Client {
	t.Helper()
	cfg := client.Config{URL: url, BackoffMin: time.Millisecond, BackoffMax: 4 * time.Millisecond}
	if set != nil {
		set(&cfg)
	}
	c, err := client.New(cfg)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func hello(no string) client.Send {
	return client.Send{ClientMsgNo: no, FromUID: "u", ChannelID: "g", ChannelType: client.ChannelGroup, Payload: []byte("hi")}
}

func requireJSON(t *testing.T, want, got string) {
	t.Helper()
	require.True(t, json.Valid([]byte(got)), got)
	require.JSONEq(t, want, got)
}
