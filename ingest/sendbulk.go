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

// sendBulk serves POST /message/sendbulk: up to bulkItemsMax sends, as lines (NDJSON) or as elements of an array, each
// answered in its place.
//
// The body is split while it arrives, and each item is enqueued before the next is read. The response starts when the body
// has ended: many clients read nothing before they have written everything, so writing earlier could deadlock. Until then
// a settled item costs a few hundred bytes.
//
// A problem that ends reading early is reported as one more element, after those of the items that have been sent.
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
	extend := func() { // the read deadline excludes the time that the service takes
		if f.waited > extended {
			extended = f.waited
			_ = control.SetReadDeadline(start.Add(s.cfg.BodyReadTimeout + extended)) // fails only for the writer of a test
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
			more, p = false, outcome.Problem{Outcome: outcome.TooLarge, Msg: fmt.Sprintf("more than %d items; further ones were not read", bulkItemsMax)}
		case !s.addItem(r, f, text):
			more, p = false, outcome.Problem{Outcome: outcome.Overloaded, Msg: "not enough memory for more items now; this and later items were not sent"}
		}
		if !more {
			if !p.OK() {
				w.Header().Set("Connection", "close")
				f.push(ctx, nil, p) // not charged: it is only one, and reports the lack of memory
			}
			break
		}
		extend()
	}
	s.answerBulk(w, r, f, in.Array)
	return outcome.Problem{Sends: len(f.items)}
}

// addItem enqueues one item. It reports false, and does not send the item, if there was no memory to keep its outcome.
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

// answerBulk writes the answers in order, waiting for each.
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
			_, _ = w.Write(out) // a disconnected caller repeats the request
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

// extend extends the deadlines of a request that waits for the answers to many sends. This includes the read deadline:
// net/http keeps reading after the body, and treats an expired deadline as a disconnect.
func (s *Service) extend(w http.ResponseWriter) {
	control, deadline := http.NewResponseController(w), time.Now().Add(s.cfg.WriteTimeout)
	_ = control.SetReadDeadline(deadline) // fails only for the writer of a test
	_ = control.SetWriteDeadline(deadline)
}
