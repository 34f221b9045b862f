package request

import (
	"encoding/binary"
	"math/bits"
)

// scan parses r.body into r.fields if it has the form that nearly all clients send: an object of known fields, strings
// without escapes, and integers of at most 18 digits. The result is the decoder's, but faster. The body must be UTF-8. If
// scan returns false, the body may still be valid, and the fields are empty.
func (r *Request) scan() bool {
	if s := scanner(r.body); s.byte('{') && r.scanObject(&s) && s.end() {
		return true
	}
	r.fields = fields{subscribers: r.fields.subscribers[:0]}
	return false
}

func (r *Request) scanObject(s *scanner) bool {
	for n := 0; !s.byte('}'); n++ {
		if n > 0 && !s.byte(',') {
			return false
		}
		f, ok := fieldOf(s.key()), false
		switch text, integer := r.fields.text(f), r.fields.integer(f); {
		case text != nil:
			ok = r.scanString(s, f, text)
		case integer != nil:
			ok = r.scanInteger(s, f, integer)
		case f == fieldPayload:
			ok = r.scanPayload(s)
		case f == fieldHeader:
			ok = s.byte('{') && r.scanHeader(s)
		}
		if !ok {
			return false
		}
	}
	return true
}

func (r *Request) scanHeader(s *scanner) bool {
	flags := &r.fields.headerFlags
	for n := 0; !s.byte('}'); n++ {
		if n > 0 && !s.byte(',') {
			return false
		}
		ok := false
		switch string(s.key()) {
		case "no_persist":
			ok = r.scanInteger(s, fieldHeaderNoPersist, &flags[flagNoPersist])
		case "red_dot":
			ok = r.scanInteger(s, fieldHeaderRedDot, &flags[flagRedDot])
		case "sync_once":
			ok = r.scanInteger(s, fieldHeaderSyncOnce, &flags[flagSyncOnce])
		}
		if !ok {
			return false
		}
	}
	return true
}

func (r *Request) scanString(s *scanner, f Field, dst *string) bool {
	text, ok := s.text()
	*dst = alias(text)
	r.fields.given.add(f)
	return ok
}

func (r *Request) scanInteger(s *scanner, f Field, dst *int64) (ok bool) {
	*dst, ok = s.integer()
	r.fields.given.add(f)
	return ok
}

func (r *Request) scanPayload(s *scanner) bool {
	text, ok := s.text()
	return ok && r.decodePayload(text)
}

// scanner is the unread rest of a body.
type scanner []byte

// byte consumes white space and then the byte c, if that is next.
func (s *scanner) byte(c byte) bool {
	text := trimLeft(*s)
	if len(text) == 0 || text[0] != c {
		return false
	}
	*s = text[1:]
	return true
}

// end reports whether only white space is left.
func (s *scanner) end() bool { return len(trimSpace(*s)) == 0 }

// key consumes a name and the colon after it; it returns an empty name if they are not next.
func (s *scanner) key() []byte {
	if key, ok := s.text(); ok && s.byte(':') {
		return key
	}
	return nil
}

// text consumes a string without escapes.
func (s *scanner) text() (text []byte, ok bool) {
	if !s.byte('"') {
		return nil, false
	}
	rest := *s
	n := plainBytes(rest)
	if n == len(rest) || rest[n] != '"' {
		return nil, false
	}
	*s = rest[n+1:]
	return rest[:n], true
}

// plainBytes returns the length of the longest prefix of text that needs no unescaping in a JSON string: no quote, no
// backslash, no byte below 0x20. It examines eight bytes at a time. A byte of a word is below n if subtracting n sets its
// top bit and the top bit was clear; it is zero if it is below 1 (S. E. Anderson, Bit Twiddling Hacks, "Determine if a
// word has a byte less than n"). A borrow from a lower byte can cause a false match in a higher byte only, and only the
// lowest match counts.
func plainBytes(text []byte) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; len(text)-n >= 8; n += 8 {
		word := binary.LittleEndian.Uint64(text[n:])
		quotes, slashes := word^ones*'"', word^ones*'\\'
		if found := (word-ones*0x20)&^word&tops | (quotes-ones)&^quotes&tops | (slashes-ones)&^slashes&tops; found != 0 {
			return n + bits.TrailingZeros64(found)/8
		}
	}
	for ; n < len(text); n++ {
		if c := text[n]; c < 0x20 || c == '"' || c == '\\' {
			break
		}
	}
	return n
}

// integer consumes an integer of at most 18 digits, which always fits in 64 bits.
func (s *scanner) integer() (n int64, ok bool) {
	text := trimLeft(*s)
	i := 0
	for ; i < len(text) && i < 19 && text[i]-'0' <= 9; i++ {
		n = 10*n + int64(text[i]-'0')
	}
	if i == 0 || i == 19 || i > 1 && text[0] == '0' {
		return 0, false
	}
	*s = text[i:]
	return n, true
}
