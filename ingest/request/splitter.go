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
	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/config"
)

// BulkBytesMax bounds the body of POST /message/sendbulk.
const BulkBytesMax = 16 << 20

const splitterBytesFirst = 32 << 10 // initial size of the buffer

// Splitter splits the body of a bulk into items while the body arrives. It only looks for the end of each item; the
// decoder parses the content. So an invalid item affects only itself, as long as its quotes and brackets are closed.
type Splitter struct {
	in     io.Reader
	Before func() // called before each read, which may block
	budget *memory.Budget

	pool     *memory.Buffers
	pooled   *[]byte // buf's pooled buffer; nil until something has been read
	buf      []byte  // buf[at:] is what has been read and not yet returned
	at       int
	searched int // length of the searched prefix of buf[at:]
	total    int
	ended    bool // in has ended
	reserved int64

	lines  bool // NDJSON, whatever the body starts with
	Array  bool
	closed bool // the array has ended
	given  bool // an item has been returned
	// The state of the search within an element.
	depth    int
	inString bool
	escaped  bool
}

// Split starts splitting a body into the items of a bulk. The caller must call Close.
func (p *Pool) Split(body io.Reader, lines bool) *Splitter {
	return newSplitter(p.upload(body), lines, p.splits, p.Budget)
}

func newSplitter(in io.Reader, lines bool, pool *memory.Buffers, b *memory.Budget) *Splitter {
	return &Splitter{in: in, lines: lines, pool: pool, budget: b}
}

// Close releases the memory. No item may be used afterwards.
func (s *Splitter) Close() {
	s.budget.GiveBack(s.reserved)
	if s.pooled != nil {
		*s.pooled = s.buf
		s.pool.Put(s.pooled)
	}
	s.pooled, s.buf, s.reserved = nil, nil, 0
}

// Begin reads up to the first item, to see whether the items are in an array.
func (s *Splitter) Begin() outcome.Problem {
	for len(s.buf) < len(byteOrderMark) && !s.ended {
		if p := s.fill(); !p.OK() {
			return p
		}
	}
	s.at = len(s.buf) - len(skipMark(s.buf))
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

// Next returns the next item. more is false after the last one; p then holds the reason, unless the body simply ended.
// text is valid until the next call.
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

// line returns the next non-blank line, if it is complete.
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

// element returns the next element, if it is complete. An empty one, as between two commas, counts; only an empty array
// has none.
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

// take consumes n bytes and returns them, and skips the following over bytes.
func (s *Splitter) take(n, over int) []byte {
	text := s.buf[s.at : s.at+n]
	s.at += n + over
	s.searched = 0
	return text
}

// trailing reads what follows an array, which must be white space.
func (s *Splitter) trailing() outcome.Problem {
	for {
		if len(trimSpace(s.buf[s.at:])) > 0 {
			return outcome.Problem{Outcome: outcome.InvalidJSON, Msg: "data after the array was not read"}
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

// fill reads more of the body.
func (s *Splitter) fill() outcome.Problem {
	if !s.room() {
		return outcome.Problem{Outcome: outcome.Overloaded, Msg: "too many large bodies at one time; the rest was not read"}
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

// room makes room for a read, by moving the data to the front, or by doubling the buffer if an item fills most of it. The
// buffer never exceeds twice the body limit.
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

// start takes the first buffer: one that an earlier bulk may have grown, or a small one if the budget has no room for it.
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

// reserve takes bytes from the budget.
func (s *Splitter) reserve(bytes int) bool {
	if !s.budget.Take(int64(bytes)) {
		return false
	}
	s.reserved += int64(bytes)
	return true
}

// CheckBulkMediaType accepts what checkMediaType accepts, and NDJSON under its usual names.
func CheckBulkMediaType(h http.Header) (lines bool, p outcome.Problem) {
	mediaType, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err == nil {
		switch mediaType {
		case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines":
			lines = true
		}
	}
	encoding := h.Get("Content-Encoding")
	switch {
	case !lines && checkMediaType(h).OK(), lines && api.IsUTF8(params) && (encoding == "" || strings.EqualFold(encoding, "identity")):
		return lines, p
	default:
		return lines, outcome.Problem{Outcome: outcome.MediaType,
			Msg: "Content-Type must be application/json or application/x-ndjson, in UTF-8 (charset utf-8, if any), and the body not compressed"}
	}
}

// bulkTooLarge returns the problem of a body that exceeds its limit.
func bulkTooLarge() outcome.Problem {
	return outcome.Problem{Outcome: outcome.TooLarge, Msg: fmt.Sprintf("the body is larger than %s; the rest was not read", config.ByteSize(BulkBytesMax))}
}
