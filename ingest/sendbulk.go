package ingest

import (
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/sendhouse/sendhouse/pkg/config"
)

// Limits of POST /message/sendbulk.
const (
	bulkItemsMax = 10_000
	bulkBytesMax = 16 << 20
)

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
func (s *Service) sendBulk(w http.ResponseWriter, r *http.Request, start time.Time, _ uint64) problem {
	lines, p := checkBulkMediaType(r.Header)
	if p.ok() && r.ContentLength > bulkBytesMax {
		p = tooLarge(bulkBytesMax)
		w.Header().Set("Connection", "close")
	}
	f := s.newFlight()
	defer f.end()
	if first(r.Header, "Sendhouse-Ordered") == "1" {
		f.order()
	}
	in := newSplitter(upload{r.Body, s}, lines, s.splits, &s.requests.budget)
	defer in.close()
	control := http.NewResponseController(w)
	var extended time.Duration
	extend := func() { // the client's time to send does not run while it waits for us
		if f.waited > extended {
			extended = f.waited
			_ = control.SetReadDeadline(start.Add(s.cfg.BodyReadTimeout + extended)) // only a test's writer has none
		}
	}
	in.before = func() {
		f.release()
		extend()
	}
	if p.ok() {
		p = in.begin()
	}
	if !p.ok() {
		p.write(w)
		return p
	}

	ctx := r.Context()
	for {
		text, more, p := in.next()
		switch {
		case !more:
		case len(f.items) == bulkItemsMax:
			more, p = false, problem{outcome: outcomeTooLarge, msg: fmt.Sprintf("more than %d items; those behind were not read", bulkItemsMax)}
		case !s.addItem(r, f, text):
			more, p = false, problem{outcome: outcomeOverloaded, msg: "no memory for more items at this time; from here on none was sent"}
		}
		if !more {
			if !p.ok() {
				w.Header().Set("Connection", "close")
				f.place(ctx, nil, p) // not reserved: it is one, and it is what says that there is no memory
			}
			break
		}
		extend()
	}
	s.answerBulk(w, r, f, in.array)
	return problem{sends: len(f.items)}
}

// addItem sends one item on its way. It says whether there was memory to keep what becomes of it; otherwise it was not sent.
func (s *Service) addItem(r *http.Request, f *flight, text []byte) bool {
	if len(text) > int(s.cfg.BodyBytesMax) {
		return f.add(r.Context(), nil, problem{outcome: outcomeTooLarge, msg: fmt.Sprintf("the item is larger than %s", s.cfg.BodyBytesMax)})
	}
	req, ok := s.requests.of(text)
	if !ok {
		return f.add(r.Context(), nil, problem{outcome: outcomeOverloaded})
	}
	defer s.requests.put(req)
	return f.add(r.Context(), req, s.checkSend(req))
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
	body := s.replies.get()
	defer s.replies.put(body)
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

// checkBulkMediaType takes what checkMediaType takes, and NDJSON by its usual names.
func checkBulkMediaType(h http.Header) (lines bool, p problem) {
	if mediaType, _, err := mime.ParseMediaType(first(h, "Content-Type")); err == nil {
		switch mediaType {
		case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines":
			lines = true
		}
	}
	encoding := first(h, "Content-Encoding")
	switch {
	case !lines:
		p = checkMediaType(h)
		if !p.ok() {
			p.msg = "Content-Type must be application/json or application/x-ndjson, in UTF-8 and not compressed"
		}
	case encoding != "" && !strings.EqualFold(encoding, "identity"):
		p = problem{outcome: outcomeMediaType, msg: "Content-Encoding is not taken: send the body as it is"}
	}
	return lines, p
}

// bulkTooLarge says that a body goes on behind its limit.
func bulkTooLarge() problem {
	return problem{outcome: outcomeTooLarge, msg: fmt.Sprintf("the body is larger than %s; what is behind was not read", config.ByteSize(bulkBytesMax))}
}
