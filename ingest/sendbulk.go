package ingest

import (
	"fmt"
	"net/http"
	"time"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/ingest/request"
)

// orderedHeader asks that no item is stored unless the items of its channel before it are, if its value is 1.
const orderedHeader = "Sendhouse-Ordered"

// bulkItemsMax bounds the items of POST /message/sendbulk.
const bulkItemsMax = 10_000

// sendBulk is POST /message/sendbulk: up to bulkItemsMax sends, as lines (NDJSON) or as
// elements of an array, each answered in its place.
//
// The body is split while it comes, and each item is on its way before the next is read.
// The answer begins when the body has ended: many clients do not read before they have
// written all, and would wait for us while we wait for them. Until then an item that is
// answered costs a few hundred bytes.
//
// What ends the reading early is one more element behind those of the items before it,
// since they have been sent.
func (s *Service) sendBulk(w http.ResponseWriter, r *http.Request, start time.Time, _ uint64) outcome.Problem {
	lines, p := request.CheckBulkMediaType(r.Header)
	if p.OK() && r.ContentLength > request.BulkBytesMax {
		p = request.TooLarge(request.BulkBytesMax)
		w.Header().Set("Connection", "close")
	}
	f := s.newFlight()
	defer f.end()
	if r.Header.Get(orderedHeader) == "1" {
		f.keepOrder()
	}
	in := s.requests.Split(r.Body, lines)
	defer in.Close()
	control := http.NewResponseController(w)
	var extended time.Duration
	extend := func() { // the client's time to send does not run while it waits for us
		if f.waited > extended {
			extended = f.waited
			_ = control.SetReadDeadline(start.Add(s.cfg.BodyReadTimeout + extended)) // only a test's writer has none
		}
	}
	in.Before = func() {
		f.flush()
		extend()
	}
	if p.OK() {
		p = in.Begin()
	}
	if !p.OK() {
		p.Write(w)
		return p
	}

	ctx := r.Context()
	for {
		text, more, p := in.Next()
		switch {
		case !more:
		case len(f.items) == bulkItemsMax:
			more, p = false, outcome.Problem{Outcome: outcome.TooLarge, Msg: fmt.Sprintf("more than %d items; those behind were not read", bulkItemsMax)}
		case !s.addItem(r, f, text):
			more, p = false, outcome.Problem{Outcome: outcome.Overloaded, Msg: "no memory for more items at this time; from here on none was sent"}
		}
		if !more {
			if !p.OK() {
				w.Header().Set("Connection", "close")
				f.push(ctx, nil, p) // not reserved: it is one, and it is what says that there is no memory
			}
			break
		}
		extend()
	}
	s.answerBulk(w, r, f, in.Array)
	return outcome.Problem{Sends: len(f.items)}
}

// addItem sends one item on its way. It says whether there was memory to keep what becomes of it; otherwise it was not sent.
func (s *Service) addItem(r *http.Request, f *flight, text []byte) bool {
	if len(text) > int(s.cfg.BodyBytesMax) {
		return f.tryPush(r.Context(), nil, outcome.Problem{Outcome: outcome.TooLarge, Msg: fmt.Sprintf("the item is larger than %s", s.cfg.BodyBytesMax)})
	}
	req, ok := s.requests.GetWith(text)
	if !ok {
		return f.tryPush(r.Context(), nil, outcome.Problem{Outcome: outcome.Overloaded})
	}
	defer s.requests.Put(req)
	return f.tryPush(r.Context(), req, s.checkSend(req))
}

// answerBulk writes the answers in their order, and waits for those that are not there.
func (s *Service) answerBulk(w http.ResponseWriter, r *http.Request, f *flight, array bool) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	if array {
		h["Content-Type"] = s.contentType
	} else {
		h.Set("Content-Type", "application/x-ndjson")
	}
	s.extend(w)
	body := s.replies.Get()
	defer s.replies.Put(body)
	out := *body
	if array {
		out = append(out, '[')
	}
	for i := range f.items {
		if array && i > 0 {
			out = append(out, ',')
		}
		out = f.append(out, f.at(r.Context(), i))
		if len(out) >= answerWriteBytes {
			s.extend(w)
			_, _ = w.Write(out) // a caller that has gone asks again
			out = out[:0]
		}
	}
	if array {
		out = append(out, "]\n"...)
	}
	s.extend(w)
	_, _ = w.Write(out)
	*body = out
}

// extend gives a request that has to wait for the answers to many sends time to be
// answered. The deadline to read counts too: net/http goes on reading behind the body, and
// takes one that passes for a client that has gone.
func (s *Service) extend(w http.ResponseWriter) {
	control, deadline := http.NewResponseController(w), time.Now().Add(s.cfg.WriteTimeout)
	_ = control.SetReadDeadline(deadline) // only a test's writer has none
	_ = control.SetWriteDeadline(deadline)
}
