package ingest

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/sendhouse/sendhouse/ingest/access"
	"github.com/sendhouse/sendhouse/ingest/groupcommit"
	"github.com/sendhouse/sendhouse/ingest/manage"
	"github.com/sendhouse/sendhouse/ingest/openapi"
	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/ingest/request"
	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// pathSend is the route of single sends.
const pathSend = "/message/send"

// routes builds the router. Every route must be in openapi/openapi.yaml, from which page is generated.
func (s *Service) routes(page []byte) http.Handler {
	r := chi.NewRouter()
	r.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		s.refuse(w, outcome.Problem{Outcome: outcome.NotFound})
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, req *http.Request) {
		methods := allowed(r, req.URL.Path)
		if len(methods) == 0 { // a method unknown to chi, for which it does not match routes
			s.refuse(w, outcome.Problem{Outcome: outcome.NotFound})
			return
		}
		w.Header().Set("Allow", strings.Join(methods, ", "))
		s.refuse(w, outcome.Problem{Outcome: outcome.MethodNotAllowed})
	})
	r.Post(pathSend, s.counted("send", api.ScopeSend, s.send))
	r.Post("/message/sendbatch", s.counted("sendbatch", api.ScopeSend, s.sendBatch))
	r.Post("/message/sendbulk", s.counted("sendbulk", api.ScopeSend, s.sendBulk))
	r.Get("/message/window", s.counted("window", api.ScopeSend, s.window))
	manager := &manage.Manager{Permissions: s.permissions, Requests: s.requests, Replies: s.replies, Extend: s.extend, Log: s.log}
	for _, route := range manager.Routes() {
		r.MethodFunc(route.Method, route.Path, s.counted("manage", route.Needs, func(w http.ResponseWriter, r *http.Request, _ time.Time, _ uint64) outcome.Problem {
			return route.Serve(w, r)
		}))
	}
	s.router = r
	for _, route := range s.hosted {
		r.MethodFunc(route.Method, route.Path, s.host(route))
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		r.MethodFunc(method, "/healthz", s.handleHealth)
		r.MethodFunc(method, "/health", s.handleWuKongHealth)
		r.MethodFunc(method, "/readyz", s.handleReady)
		r.MethodFunc(method, "/openapi.yaml", describe("application/yaml", openapi.Document()))
		r.MethodFunc(method, "/docs", describe("text/html; charset=utf-8", page))
	}
	return s.recovered(lastChunked(unslashed(s.guarded(s.access.CORS(func(path string) []string { return allowed(r, path) }, r)))))
}

// unslashed serves a path that ends in a slash as the path without it.
func unslashed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// With a RawPath the slash may have come escaped, and is then a part of a name.
		if path := r.URL.Path; len(path) > 1 && path[len(path)-1] == '/' && r.URL.RawPath == "" {
			without, u := *r, *r.URL
			u.Path = path[:len(path)-1]
			without.URL = &u
			r = &without
		}
		next.ServeHTTP(w, r)
	})
}

// guarded refuses requests that a browser page may not make.
func (s *Service) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := s.access.CheckPage(r); !p.OK() {
			s.refuse(w, p)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// lastChunked closes the connection after a request with a chunked body. If the request also had a Content-Length,
// net/http hides that; a proxy that used the Content-Length saw another end of the request, and what follows must not be
// read as a request (RFC 9112, section 6.1).
func lastChunked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// allowed returns the methods of a path.
func allowed(r chi.Routes, path string) []string {
	var methods []string
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if r.Match(chi.NewRouteContext(), m, path) {
			methods = append(methods, m)
		}
	}
	return methods
}

// recovered turns a panic into a 500 and logs the details.
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
			s.log.Error("request panicked", "request_id", api.RequestID(w), "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
			s.refuse(w, outcome.Problem{Outcome: outcome.Internal})
		}()
		api.TakeRequestID(w, r)
		next.ServeHTTP(w, r)
	})
}

func (s *Service) handleHealth(w http.ResponseWriter, _ *http.Request) { writeText(w, "ok\n") }

// handleWuKongHealth is handleHealth in WuKongIM's form.
func (s *Service) handleWuKongHealth(w http.ResponseWriter, _ *http.Request) {
	w.Header()["Content-Type"] = s.contentType
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(`{"status":"ok"}` + "\n")) // the prober may have disconnected
}

func (s *Service) handleReady(w http.ResponseWriter, _ *http.Request) {
	err := s.Check()
	var partitions *groupcommit.PartitionsError
	switch {
	case errors.As(err, &partitions):
		outcome.Problem{Outcome: partitions.Partitions[0].Outcome, Msg: err.Error()}.Write(w)
		return
	case errors.Is(err, groupcommit.ErrDisconnected):
		outcome.Problem{Outcome: outcome.WALUnavailable, Msg: err.Error()}.Write(w)
		return
	case errors.Is(err, permission.ErrNotReady):
		outcome.Problem{Outcome: outcome.PermissionsUnavailable, Msg: err.Error()}.Write(w)
		return
	case err != nil:
		outcome.Problem{Outcome: outcome.Draining, Msg: err.Error()}.Write(w)
		return
	}
	writeText(w, "ready\n")
}

// describe serves the description of the API. It is the same for every caller and needs no protection from pages in a
// browser.
func describe(contentType string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		_, _ = w.Write(body) // the reader may have disconnected
	}
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(text)) // the prober may have disconnected
}

// refuse answers with a problem and counts it.
func (s *Service) refuse(w http.ResponseWriter, p outcome.Problem) {
	s.metrics.requests[p.Outcome].Inc()
	p.Write(w)
}

// endpoint answers an admitted request and returns its outcome.
type endpoint func(w http.ResponseWriter, r *http.Request, start time.Time, nth uint64) outcome.Problem

// counted wraps an endpoint: it admits authorized requests and records metrics and logs.
func (s *Service) counted(route string, needs api.Scope, endpoint endpoint) http.HandlerFunc {
	duration := s.metrics.requestDuration.WithLabelValues(route)
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		r, span := s.traced(r, start)
		nth, p := s.admit()
		defer s.leave()
		var by access.Spender
		if p.OK() {
			by, p = s.access.Allow(w, r, needs)
		}
		if p.OK() {
			p = endpoint(w, r, start, nth)
			by.Owe(p.Sends - 1)
		} else {
			p.Write(w)
		}
		s.metrics.requests[p.Outcome].Inc()
		if span == nil {
			duration.Observe(time.Since(start).Seconds())
		} else {
			endTrace(w, span, p, duration, start)
		}
		if !p.OK() {
			s.logFailure(w, route, p)
		}
	}
}

// host wraps a route of another package: it admits authorized requests. The route records its own metrics.
func (s *Service) host(route api.Route) http.HandlerFunc {
	failing := new(lifecycle.Repeated)
	return func(w http.ResponseWriter, r *http.Request) {
		_, p := s.admit()
		defer s.leave()
		if p.OK() {
			_, p = s.access.Allow(w, r, route.Needs)
		}
		if !p.OK() {
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

// send serves POST /message/send: the steps of a send in their order.
func (s *Service) send(w http.ResponseWriter, r *http.Request, start time.Time, nth uint64) outcome.Problem {
	req := s.requests.Get()
	p := s.check(w, r, req)
	if nth%decodeSampled == 0 {
		s.metrics.decodeDuration.Observe(time.Since(start).Seconds())
	}
	var t groupcommit.Ticket
	if p.OK() {
		t, p = s.commits.Enqueue(s.partitionOf(req), &req.Send, req.Send.SizeVT(), s.tracer.Of(r.Context()))
	}
	// The response echoes client_msg_no and names a temporary channel; everything else of the request can be reused while it waits.
	var echo [message.ClientMsgNoBytesMax]byte
	var named [message.TemporaryChannelBytes]byte
	clientMsgNo := echo[:copy(echo[:], req.Send.ClientMsgNo)]
	temporary := named[:copy(named[:], req.TemporaryChannel())]
	generated := req.Generated
	s.requests.Put(req)
	if !p.OK() {
		p.Write(w)
		return p
	}

	a, became := t.Wait(r.Context(), s.cfg.AnswerTimeout)
	p = problemOf(a, became, clientMsgNo, generated)
	if became == outcome.Accepted || became == outcome.Duplicate {
		s.reply(w, a, became, clientMsgNo, temporary)
	} else {
		p.Write(w)
	}
	return p
}

func (s *Service) partitionOf(req *request.Request) int {
	return s.topology.Of(req.Send.ChannelId, message.ChannelType(req.Send.ChannelType))
}

// problemOf returns the problem for the outcome of a send.
func problemOf(a groupcommit.Answer, became outcome.Outcome, clientMsgNo []byte, generated bool) outcome.Problem {
	p := outcome.Problem{Outcome: became}
	switch {
	case became == outcome.Conflict:
		p.Field = request.FieldClientMsgNo.String()
		p.Msg = fmt.Sprintf("client_msg_no %q was used for another message, %d", string(clientMsgNo), a.MessageID)
	case generated && became.Spec().RetryAfter > 0:
		p.Msg = fmt.Sprintf("%s (use client_msg_no %q, which was made for this request)", became.Spec().Msg, string(clientMsgNo))
	}
	return p
}

// check reads, decodes and validates a send, and applies the payload rules.
func (s *Service) check(w http.ResponseWriter, r *http.Request, req *request.Request) outcome.Problem {
	if p := s.requests.Receive(w, r, req); !p.OK() {
		return p
	}
	return s.checkSend(req)
}

// checkSend decodes and validates a send from a body that has been read, and checks the permissions.
func (s *Service) checkSend(req *request.Request) outcome.Problem {
	if p := req.Decode(); !p.OK() {
		return p
	}
	if s.sender != "" {
		req.SendAs(s.sender)
	}
	if p := req.Validate(int(s.cfg.PayloadBytesMax)); !p.OK() {
		return p
	}
	if p := s.rules.Apply(req); !p.OK() {
		return p
	}
	return s.permit(req)
}

func (s *Service) reply(w http.ResponseWriter, a groupcommit.Answer, became outcome.Outcome, clientMsgNo, temporary []byte) {
	h := w.Header()
	h["Content-Type"] = s.contentType // shared to avoid an allocation; net/http only reads it
	if became == outcome.Duplicate {
		h.Set("Idempotent-Replayed", "true")
	}
	body := s.replies.Get()
	*body = appendReply(*body, a, clientMsgNo, temporary)
	_, _ = w.Write(*body) // a disconnected caller repeats the request
	s.replies.Put(body)
}

// permit checks the permissions of an otherwise valid send. Nothing has been written yet.
func (s *Service) permit(req *request.Request) outcome.Problem {
	return outcome.Problem{Outcome: outcome.Of(s.permissions.Decide(req.ForPermission()))}
}

// answerWriteBytes is the size of each write of a response that may be long.
const answerWriteBytes = 32 << 10

// appendReply appends the body of a 200:
// {"message_id":1,"message_idstr":"1","message_seq":1,"client_msg_no":"…"}.
// The ID is also a string because it exceeds 2^53, above which JavaScript rounds integers. temporary is the ID of the
// temporary channel that the send went to; it is empty, and the body has no channel, if the request named one.
func appendReply(dst []byte, a groupcommit.Answer, clientMsgNo, temporary []byte) []byte {
	dst = append(dst, '{')
	dst = appendReplyFields(dst, a, clientMsgNo, temporary)
	return append(dst, "}\n"...)
}

// appendReplyElement appends a 200 as an element of the response to many sends. There, fields carry what the HTTP status
// and a header carry for a single send.
func appendReplyElement(dst []byte, a groupcommit.Answer, replayed bool, clientMsgNo, temporary []byte) []byte {
	dst = append(dst, `{"status":200,`...)
	dst = appendReplyFields(dst, a, clientMsgNo, temporary)
	if replayed {
		dst = append(dst, `,"idempotent_replayed":true`...)
	}
	return append(dst, "}\n"...)
}

func appendReplyFields(dst []byte, a groupcommit.Answer, clientMsgNo, temporary []byte) []byte {
	dst = append(dst, `"message_id":`...)
	dst = strconv.AppendUint(dst, a.MessageID, 10)
	dst = append(dst, `,"message_idstr":"`...)
	dst = strconv.AppendUint(dst, a.MessageID, 10)
	dst = append(dst, `","message_seq":`...)
	dst = strconv.AppendUint(dst, a.MessageSeq, 10)
	dst = append(dst, `,"client_msg_no":`...)
	dst = api.AppendString(dst, clientMsgNo)
	if len(temporary) > 0 {
		dst = append(append(dst, `,"channel_id":"`...), temporary...) // of hex digits
		dst = append(dst, `","channel_type":`...)
		dst = strconv.AppendUint(dst, uint64(message.ChannelTemporary), 10)
	}
	return dst
}
