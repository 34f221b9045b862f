package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// faultyServer is a server that fails as its URL says, so that a test in any language can choose. Below /NAME/STEPS/ is a server of its own, which
// answers one POST after another by one of the STEPS; the last one repeats. They are joined by commas:
//
//	ok, replayed          200
//	other                 200, for another send
//	ok-close              200, after which the connection is closed without a word
//	CODE:STATUS[:SECONDS] an error of Sendhouse, with Retry-After if there are seconds; its field is f, its reason 7
//	html:STATUS           a page of something in between
//	redirect              307
//	reset                 the connection is reset after the request was read
//	cut                   the answer ends in its middle
//	silent                no answer
//	drip                  an answer that arrives byte by byte and never ends
//	bulk:A;B;…            an element for each item: ok, replayed, other or CODE:STATUS. A last one cut or reset ends the answer there, and
//	                      +CODE:STATUS is one element more
//
// GET …/message/window answers remembers_ms 600000 unless a first step says window:MS; MS 0 means absent, and 404 no such route.
// GET …/seen lists the requests.
type faultyServer struct {
	*httptest.Server
	mu      sync.Mutex
	scripts map[string]*faultyScript
}

type faultyScript struct {
	steps    []string
	windowMS string
	seen     []faultyRequest
}

// faultyRequest is a request that was made.
type faultyRequest struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Body    string            `json:"body"`
	Headers map[string]string `json:"headers"`
	AtMS    int64             `json:"at_ms"`
}

// faultyID is beyond 2^53, and no double.
const faultyID = "9007199254740993"

func newFaulty(t *testing.T) *faultyServer {
	t.Helper()
	f := &faultyServer{scripts: make(map[string]*faultyScript)}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	t.Cleanup(f.CloseClientConnections) // first: some are never answered
	return f
}

// ServeHTTP finds the script and does its next step.
func (f *faultyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.SplitN(r.URL.Path, "/", 4)
	if len(parts) < 4 {
		http.NotFound(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	path := "/" + parts[3]
	if path == "/seen" {
		f.mu.Lock()
		defer f.mu.Unlock()
		_ = json.NewEncoder(w).Encode(f.script(parts[1], parts[2]).seen) // a test that has gone does not read it
		return
	}
	headers := make(map[string]string)
	for name := range r.Header {
		headers[strings.ToLower(name)] = r.Header.Get(name)
	}
	f.mu.Lock()
	s := f.script(parts[1], parts[2])
	s.seen = append(s.seen, faultyRequest{Method: r.Method, Path: path, Body: string(body), Headers: headers, AtMS: time.Now().UnixMilli()})
	step := s.steps[0]
	if path != "/message/window" && len(s.steps) > 1 {
		s.steps = s.steps[1:]
	}
	f.mu.Unlock()
	if path != "/message/window" {
		do(w, r, step, body)
		return
	}
	switch s.windowMS {
	case "404":
		problem(w, "not_found:404")
	case "0":
		_, _ = io.WriteString(w, `{"ordered_bulks":true}`)
	default:
		_, _ = io.WriteString(w, `{"remembers_ms":`+s.windowMS+`,"ordered_bulks":true}`)
	}
}

// script is called with mu held.
func (f *faultyServer) script(name, steps string) *faultyScript {
	key := name + "/" + steps
	s := f.scripts[key]
	if s == nil {
		s = &faultyScript{windowMS: "600000", steps: strings.Split(steps, ","), seen: []faultyRequest{}}
		if ms, given := strings.CutPrefix(s.steps[0], "window:"); given {
			s.windowMS, s.steps = ms, s.steps[1:]
		}
		f.scripts[key] = s
	}
	return s
}

// do does one step.
func do(w http.ResponseWriter, r *http.Request, step string, body []byte) {
	kind, rest, _ := strings.Cut(step, ":")
	switch kind {
	case "ok", "replayed", "other":
		if kind == "replayed" {
			w.Header().Set("Idempotent-Replayed", "true")
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{"+sentFields(body, kind)+"}")
	case "ok-close":
		conn, buffered := hijack(w)
		text := "{" + sentFields(body, "ok") + "}"
		_, _ = fmt.Fprintf(buffered, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		_ = buffered.Flush()
		_ = conn.Close()
	case "html":
		status, err := strconv.Atoi(rest)
		if err != nil {
			panic(err)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<html>some proxy</html>")
	case "redirect":
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	case "reset":
		reset(w, "")
	case "cut":
		panicWritten(w, 200, `{"message_id":`)
	case "silent":
		<-r.Context().Done()
	case "drip":
		drip(w, r)
	case "bulk":
		bulk(w, strings.Split(rest, ";"), body)
	default:
		problem(w, step)
	}
}

// sentFields are the fields of a 200 to a send.
func sentFields(send []byte, kind string) string {
	var s struct {
		ClientMsgNo string `json:"client_msg_no"`
	}
	if err := json.Unmarshal(send, &s); err != nil || s.ClientMsgNo == "" {
		panic(fmt.Sprintf("no send with a client_msg_no: %q", send))
	}
	if kind == "other" {
		s.ClientMsgNo += "-another"
	}
	return fmt.Sprintf(`"message_id":%s,"message_idstr":"%[1]s","message_seq":5,"client_msg_no":%q`, faultyID, s.ClientMsgNo)
}

// problemOf returns the status and the body that CODE:STATUS[:SECONDS] names.
func problemOf(step string) (status, body, retryAfter string) {
	parts := strings.Split(step, ":")
	if len(parts) < 2 {
		panic("no step: " + step)
	}
	if len(parts) > 2 {
		retryAfter = parts[2]
	}
	return parts[1], fmt.Sprintf(`{"status":%s,"code":%q,"msg":"said so","field":"f","reason":7}`, parts[1], parts[0]), retryAfter
}

func problem(w http.ResponseWriter, step string) {
	status, body, retryAfter := problemOf(step)
	if retryAfter != "" {
		w.Header().Set("Retry-After", retryAfter)
	}
	w.Header().Set("X-Request-Id", "request-1")
	w.Header().Set("Content-Type", "application/json")
	code, err := strconv.Atoi(status)
	if err != nil {
		panic(err)
	}
	w.WriteHeader(code)
	_, _ = io.WriteString(w, body)
}

// reset writes something and resets the connection.
func reset(w http.ResponseWriter, written string) {
	conn, buffered := hijack(w)
	_, _ = buffered.WriteString(written) // the client may be gone
	_ = buffered.Flush()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // one that has ended needs no reset
	}
	_ = conn.Close()
}

// panicWritten writes the beginning of an answer and closes the connection.
func panicWritten(w http.ResponseWriter, status int, begin string) {
	conn, buffered := hijack(w)
	_, _ = fmt.Fprintf(buffered, "HTTP/1.1 %d X\r\nContent-Length: 1000000\r\n\r\n%s", status, begin)
	_ = buffered.Flush()
	_ = conn.Close()
}

func hijack(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil { // the connection is gone, or is not HTTP/1.1
		panic(http.ErrAbortHandler)
	}
	return conn, buffered
}

// drip answers with one byte after another, until the client has had enough.
func drip(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).Flush()
	each := time.NewTicker(10 * time.Millisecond)
	defer each.Stop()
	for {
		if _, err := io.WriteString(w, " "); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-each.C:
		}
	}
}

// bulk answers the items of a body.
func bulk(w http.ResponseWriter, elements []string, body []byte) {
	var out strings.Builder
	items := strings.Split(strings.TrimSpace(string(body)), "\n")
	for i, element := range elements {
		kind, extra := strings.CutPrefix(element, "+")
		switch {
		case element == "cut":
			panicWritten(w, http.StatusOK, out.String()+`{"status":200,"mess`)
			return
		case element == "reset":
			reset(w, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"+out.String())
			return
		case extra || strings.Contains(element, ":"):
			_, text, _ := problemOf(kind)
			out.WriteString(text + "\n")
		default:
			replayed := ""
			if element == "replayed" {
				replayed = `,"idempotent_replayed":true`
			}
			out.WriteString(`{"status":200,` + sentFields([]byte(items[i]), element) + replayed + "}\n")
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	_, _ = io.WriteString(w, out.String())
}
