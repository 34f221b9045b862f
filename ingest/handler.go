package ingest

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/sendhouse/sendhouse/ingest/openapi"
	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/guard"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// pathSend is where single sends go.
const pathSend = "/message/send"

// routes lays out the API. Each route has to be in openapi/openapi.yaml; page is made of that.
func (s *Service) routes(page []byte) http.Handler {
	r := chi.NewRouter()
	r.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		s.refuse(w, problem{outcome: outcomeNotFound})
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, req *http.Request) {
		methods := allowed(r, req.URL.Path)
		if len(methods) == 0 { // chi knows no such method, and has not looked further
			s.refuse(w, problem{outcome: outcomeNotFound})
			return
		}
		w.Header().Set("Allow", strings.Join(methods, ", "))
		s.refuse(w, problem{outcome: outcomeMethod})
	})
	r.Post(pathSend, s.counted("send", api.ScopeSend, s.send))
	r.Post("/message/sendbatch", s.counted("sendbatch", api.ScopeSend, s.sendBatch))
	r.Post("/message/sendbulk", s.counted("sendbulk", api.ScopeSend, s.sendBulk))
	r.Get("/message/window", s.counted("window", api.ScopeSend, s.window))
	s.manageRoutes(r)
	s.router = r
	for _, route := range s.hosted {
		r.MethodFunc(route.Method, route.Path, s.host(route))
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		r.MethodFunc(method, "/healthz", s.handleHealth)
		r.MethodFunc(method, "/readyz", s.handleReady)
		r.MethodFunc(method, "/openapi.yaml", describe("application/yaml", openapi.Document()))
		r.MethodFunc(method, "/docs", describe("text/html; charset=utf-8", page))
	}
	var all http.Handler = r
	if len(s.cfg.CORSOrigins) > 0 {
		all = cors(s.cfg.CORSOrigins, r, all)
	}
	return s.recovered(lastChunked(s.guarded(all)))
}

// guarded refuses what a page in a browser may not ask.
func (s *Service) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := s.guard.Check(r)
		switch {
		case err == nil:
			next.ServeHTTP(w, r)
		case errors.Is(err, guard.ErrHost):
			s.refuse(w, problem{outcome: outcomeHost, msg: err.Error()})
		default:
			s.refuse(w, problem{outcome: outcomeOrigin, msg: err.Error() + " (unless --api-cors-origins names it)"})
		}
	})
}

// lastChunked closes a connection behind a request that was sent in chunks. Where a Content-Length came
// with it, net/http hides that; a proxy that went by that one saw another end of the request than
// we do, and what is behind it must not be taken for a request (RFC 9112, 6.1).
func lastChunked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// allowed is the methods that a path takes.
func allowed(r chi.Routes, path string) []string {
	var methods []string
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if r.Match(chi.NewRouteContext(), m, path) {
			methods = append(methods, m)
		}
	}
	return methods
}

// recovered turns a panic into a 500 whose details are in the log.
func (s *Service) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if cause == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
				panic(cause)
			}
			s.log.Error("a request panicked", "request_id", api.RequestID(w), "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
			s.refuse(w, problem{outcome: outcomeInternal})
		}()
		api.TakeRequestID(w, r)
		next.ServeHTTP(w, r)
	})
}

func (s *Service) handleHealth(w http.ResponseWriter, _ *http.Request) { writeText(w, "ok\n") }

func (s *Service) handleReady(w http.ResponseWriter, _ *http.Request) {
	err := s.Check()
	var partitions *PartitionsError
	switch {
	case errors.As(err, &partitions):
		problem{outcome: partitions.Partitions[0].outcome, msg: err.Error()}.write(w)
		return
	case errors.Is(err, ErrDisconnected):
		problem{outcome: outcomeWALUnavailable, msg: err.Error()}.write(w)
		return
	case errors.Is(err, permission.ErrNotReady):
		problem{outcome: outcomePermissionsAway, msg: err.Error()}.write(w)
		return
	case err != nil:
		problem{outcome: outcomeDraining, msg: err.Error()}.write(w)
		return
	}
	writeText(w, "ready\n")
}

// describe serves what describes the API. It is the same for everybody, and a browser need not trust it with anything.
func describe(contentType string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		_, _ = w.Write(body) // a reader that has gone need not know
	}
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(text)) // a prober that has gone need not know
}

// refuse answers with a problem and counts it.
func (s *Service) refuse(w http.ResponseWriter, p problem) {
	s.metrics.requests[p.outcome].Inc()
	p.write(w)
}

// counted admits requests that may use an endpoint, and keeps the books. The endpoint answers,
// and returns what became of the request.
func (s *Service) counted(route string, needs api.Scope, endpoint endpoint) http.HandlerFunc {
	duration := s.metrics.requestDuration.WithLabelValues(route)
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		r, span := s.traced(r, start)
		nth, p := s.admit()
		defer s.leave()
		var by spender
		if p.ok() {
			by, p = s.allow(w, r, needs)
		}
		if p.ok() {
			p = endpoint(w, r, start, nth)
			by.owe(p.sends - 1)
		} else {
			p.write(w)
		}
		s.metrics.requests[p.outcome].Inc()
		if span == nil {
			duration.Observe(time.Since(start).Seconds())
		} else {
			endTrace(w, span, p, duration, start)
		}
		if !p.ok() {
			s.logFailure(w, route, p)
		}
	}
}

// host lets those requests through to another's route that may go there. The route counts its own.
func (s *Service) host(route api.Route) http.HandlerFunc {
	failing := new(lifecycle.Repeated)
	return func(w http.ResponseWriter, r *http.Request) {
		_, p := s.admit()
		defer s.leave()
		if p.ok() {
			_, p = s.allow(w, r, route.Needs)
		}
		if !p.ok() {
			s.refuse(w, p)
			return
		}
		answer := &statusWriter{ResponseWriter: w}
		route.Serve(answer, r)
		if answer.status >= http.StatusInternalServerError {
			s.logHostedFailure(answer, route, failing)
		}
	}
}

// send is POST /message/send: it takes a request through its steps and answers it.
func (s *Service) send(w http.ResponseWriter, r *http.Request, start time.Time, nth uint64) problem {
	req := s.requests.get()
	p := s.check(w, r, req)
	if nth%decodeSampled == 0 {
		s.metrics.decodeDuration.Observe(time.Since(start).Seconds())
	}
	var t ticket
	if p.ok() {
		partition := s.partitionOf(req)
		var became outcome
		t, became = partition.enqueue(&req.send, req.send.SizeVT(), s.tracer.Of(r.Context()))
		p = partition.problem(became)
	}
	// The answer echoes client_msg_no; everything else of the request can be reused
	// while it waits.
	var echo [message.ClientMsgNoBytesMax]byte
	clientMsgNo := echo[:copy(echo[:], req.send.ClientMsgNo)]
	generated := req.generated
	s.requests.put(req)
	if !p.ok() {
		p.write(w)
		return p
	}

	a, became := t.wait(r.Context(), s.cfg.AnswerTimeout)
	p = problemOf(a, became, clientMsgNo, generated)
	if became == outcomeAccepted || became == outcomeDuplicate {
		s.reply(w, a, became, clientMsgNo)
	} else {
		p.write(w)
	}
	return p
}

func (s *Service) partitionOf(req *request) *partition {
	return s.partitions[s.topology.Of(req.send.ChannelId, message.ChannelType(req.send.ChannelType))]
}

// problemOf makes the answer's problem of what became of a send.
func problemOf(a answer, became outcome, clientMsgNo []byte, generated bool) problem {
	p := problem{outcome: became}
	switch {
	case became == outcomeConflict:
		p.field = fieldClientMsgNo.String()
		p.msg = fmt.Sprintf("client_msg_no %q was used for another message, %d", string(clientMsgNo), a.id)
	case generated && became.spec().retryAfter > 0:
		p.msg = fmt.Sprintf("%s (use client_msg_no %q, which was made for this request)", became.spec().msg, string(clientMsgNo))
	}
	return p
}

// check reads, decodes and validates, and holds the payload against the rules.
func (s *Service) check(w http.ResponseWriter, r *http.Request, req *request) problem {
	if p := s.receive(w, r, req); !p.ok() {
		return p
	}
	return s.checkSend(req)
}

// receive reads a body into req.
func (s *Service) receive(w http.ResponseWriter, r *http.Request, req *request) problem {
	if p := checkMediaType(r.Header); !p.ok() {
		return p
	}
	s.uploading.Add(1)
	p := req.read(r, int(s.cfg.BodyBytesMax))
	s.uploading.Add(-1)
	if !p.ok() {
		// What is left of the body would have to be read to use the connection again.
		w.Header().Set("Connection", "close")
	}
	return p
}

// checkSend makes a whole send of a body that has been read, and asks whether it may be sent.
func (s *Service) checkSend(req *request) problem {
	if p := req.decode(); !p.ok() {
		return p
	}
	if p := req.validate(int(s.cfg.PayloadBytesMax)); !p.ok() {
		return p
	}
	if p := s.checkPayloadRules(req); !p.ok() {
		return p
	}
	return s.permit(req)
}

func (s *Service) reply(w http.ResponseWriter, a answer, became outcome, clientMsgNo []byte) {
	h := w.Header()
	h["Content-Type"] = s.contentType // shared, and so not allocated; net/http only reads it
	if became == outcomeDuplicate {
		h.Set("Idempotent-Replayed", "true")
	}
	body := s.replies.get()
	*body = appendReply(*body, a, clientMsgNo)
	_, _ = w.Write(*body) // a caller that has gone asks again
	s.replies.put(body)
}
