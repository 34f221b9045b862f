package request

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/sendhouse/sendhouse/ingest/memory"
	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/config"
)

// BulkBytesMax bounds the body of POST /message/sendbulk.
const BulkBytesMax = 16 << 20

const splitterBytesFirst = 32 << 10 // what the buffer begins with

// Splitter takes the items of a bulk out of its body, while that comes. It looks only for
// where they end; what is in them is the decoder's. So an item that is wrong is one item,
// as long as its quotes and brackets are closed.
type Splitter struct {
	in     io.Reader
	Before func() // called before each read, which may take time
	budget *memory.Budget

	pool     *memory.Buffers
	pooled   *[]byte // where buf goes back to; nil: nothing has been read
	buf      []byte  // buf[at:] is what has been read and not yet given out
	at       int
	searched int // of buf[at:]
	total    int
	ended    bool // in has
	reserved int64

	lines  bool // NDJSON, whatever it begins with
	Array  bool
	closed bool // the array is
	given  bool // an item
	// Where in the element the search is.
	depth    int
	inString bool
	escaped  bool
}

// Split begins to take the items of a bulk out of its body. The caller owes close.
func (p *Pool) Split(body io.Reader, lines bool) *Splitter {
	return newSplitter(p.upload(body), lines, p.splits, p.Budget)
}

func newSplitter(in io.Reader, lines bool, pool *memory.Buffers, b *memory.Budget) *Splitter {
	return &Splitter{in: in, lines: lines, pool: pool, budget: b}
}

// Close gives the memory back. No item may be touched any more.
func (s *Splitter) Close() {
	s.budget.GiveBack(s.reserved)
	if s.pooled != nil {
		*s.pooled = s.buf
		s.pool.Put(s.pooled)
	}
	s.pooled, s.buf, s.reserved = nil, nil, 0
}

// Begin reads as far as the first item, to see whether it stands in an array.
func (s *Splitter) Begin() outcome.Problem {
	for {
		rest := trimLeft(s.buf[s.at:])
		s.at = len(s.buf) - len(rest)
		switch {
		case len(rest) > 0:
			if s.Array = !s.lines && rest[0] == '['; s.Array {
				s.at++
			}
			return outcome.Problem{}
		case s.ended:
			return outcome.Problem{Outcome: outcome.InvalidJSON, Msg: "the body is empty; it must be JSON objects, one a line, or an array of them"}
		}
		if p := s.fill(); !p.OK() {
			return p
		}
	}
}

// Next is the next item, until there is no more: then p says why, if it is not the body's
// end. The text stands until the next call.
func (s *Splitter) Next() (text []byte, more bool, p outcome.Problem) {
	for {
		if s.closed {
			return nil, false, s.trailing()
		}
		if s.Array {
			text, more = s.element()
		} else {
			text, more = s.line()
		}
		if more {
			s.given = true
			return text, true, outcome.Problem{}
		}
		if s.closed {
			continue
		}
		if s.ended {
			if s.Array {
				p = outcome.Problem{Outcome: outcome.InvalidJSON, Msg: "the array does not end; its last element was not sent"}
			}
			return nil, false, p
		}
		if p := s.fill(); !p.OK() {
			return nil, false, p
		}
	}
}

// line is the next line that is not blank, if all of it is there.
func (s *Splitter) line() (text []byte, ok bool) {
	for s.at < len(s.buf) {
		end := bytes.IndexByte(s.buf[s.at+s.searched:], '\n')
		switch {
		case end >= 0:
			text = s.take(s.searched+end, 1)
		case s.ended:
			text = s.take(len(s.buf)-s.at, 0)
		default:
			s.searched = len(s.buf) - s.at
			return nil, false
		}
		if text = trimSpace(text); len(text) > 0 {
			return text, true
		}
	}
	return nil, false
}

// element is the next element, if its end is there. An empty one, as between two commas,
// is one too; only an empty array has none.
func (s *Splitter) element() (text []byte, ok bool) {
	for s.at+s.searched < len(s.buf) {
		c := s.buf[s.at+s.searched]
		switch {
		case s.escaped:
			s.escaped = false
		case s.inString:
			s.escaped, s.inString = c == '\\', c != '"'
		case c == '"':
			s.inString = true
		case c == '{' || c == '[':
			s.depth++
		case s.depth > 0 && (c == '}' || c == ']'):
			s.depth--
		case s.depth == 0 && (c == ',' || c == ']'):
			text = trimSpace(s.take(s.searched, 1))
			s.closed = c == ']'
			return text, !s.closed || s.given || len(text) > 0
		}
		s.searched++
	}
	return nil, false
}

// take gives n bytes out, and passes over some more.
func (s *Splitter) take(n, over int) []byte {
	text := s.buf[s.at : s.at+n]
	s.at += n + over
	s.searched = 0
	return text
}

// trailing reads the rest behind an array, which must be white space.
func (s *Splitter) trailing() outcome.Problem {
	for {
		if len(trimSpace(s.buf[s.at:])) > 0 {
			return outcome.Problem{Outcome: outcome.InvalidJSON, Msg: "something follows the array; it was not read"}
		}
		s.at = len(s.buf)
		if s.ended {
			return outcome.Problem{}
		}
		if p := s.fill(); !p.OK() {
			return p
		}
	}
}

// fill reads more.
func (s *Splitter) fill() outcome.Problem {
	if !s.room() {
		return outcome.Problem{Outcome: outcome.Overloaded, Msg: "too many large bodies at one time; what is behind was not read"}
	}
	s.Before()
	n, err := s.in.Read(s.buf[len(s.buf):cap(s.buf)])
	s.buf = s.buf[:len(s.buf)+n]
	s.total += n
	switch {
	case s.total > BulkBytesMax:
		return bulkTooLarge()
	case errors.Is(err, io.EOF):
		s.ended = true
	case err != nil:
		return unreadable(err)
	}
	return outcome.Problem{}
}

// room makes room for a read: at the front, or by doubling the buffer where an item fills
// most of it. It is never larger than twice what a body may have.
func (s *Splitter) room() bool {
	switch {
	case s.at == len(s.buf):
		s.buf, s.at = s.buf[:0], 0
	case len(s.buf) < cap(s.buf):
	case s.at >= cap(s.buf)/2:
		s.buf = s.buf[:copy(s.buf, s.buf[s.at:])]
		s.at = 0
	}
	switch {
	case len(s.buf) < cap(s.buf):
		return true
	case s.pooled == nil:
		return s.start()
	}
	size := 2 * cap(s.buf)
	if !s.reserve(size - cap(s.buf)) {
		return false
	}
	grown := make([]byte, len(s.buf)-s.at, size)
	copy(grown, s.buf[s.at:])
	s.buf, s.at = grown, 0
	return true
}

// start takes the buffer to begin with: that of an earlier bulk, which may have grown, or a small one where there is no room for it.
func (s *Splitter) start() bool {
	pooled := s.pool.Get()
	if !s.reserve(cap(*pooled)) {
		if !s.reserve(splitterBytesFirst) {
			s.pool.Put(pooled)
			return false
		}
		*pooled = make([]byte, 0, splitterBytesFirst)
	}
	s.pooled, s.buf = pooled, *pooled
	return true
}

// reserve takes room for so many bytes out of the budget.
func (s *Splitter) reserve(bytes int) bool {
	if !s.budget.Take(int64(bytes)) {
		return false
	}
	s.reserved += int64(bytes)
	return true
}

// CheckBulkMediaType takes what checkMediaType takes, and NDJSON by its usual names.
func CheckBulkMediaType(h http.Header) (lines bool, p outcome.Problem) {
	if mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type")); err == nil {
		switch mediaType {
		case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines":
			lines = true
		}
	}
	encoding := h.Get("Content-Encoding")
	switch {
	case !lines:
		p = checkMediaType(h)
		if !p.OK() {
			p.Msg = "Content-Type must be application/json or application/x-ndjson, in UTF-8 and not compressed"
		}
	case encoding != "" && !strings.EqualFold(encoding, "identity"):
		p = outcome.Problem{Outcome: outcome.MediaType, Msg: "Content-Encoding is not taken: send the body as it is"}
	}
	return lines, p
}

// bulkTooLarge says that a body goes on behind its limit.
func bulkTooLarge() outcome.Problem {
	return outcome.Problem{Outcome: outcome.TooLarge, Msg: fmt.Sprintf("the body is larger than %s; what is behind was not read", config.ByteSize(BulkBytesMax))}
}
