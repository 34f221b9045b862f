package request

import (
	"bytes"
	"errors"
	"io"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"

	"github.com/go-faster/jx"
)

// depthMax bounds the nesting of a body. Known fields use two levels; the rest is for ignored fields.
const depthMax = 64

var (
	errDepth    = errors.New("nested too deep")
	errTrailing = errors.New("something follows the object")
)

// atEnd checks that only white space follows.
func atEnd(d *jx.Decoder) error {
	if d.Next() != jx.Invalid {
		return errTrailing
	}
	if err := d.Skip(); !errors.Is(err, io.EOF) {
		return errTrailing
	}
	return nil
}

// skip skips a value at the given depth. jx's own Skip recurses up to 10,000 levels.
func skip(d *jx.Decoder, depth int) error {
	if depth > depthMax {
		return errDepth
	}
	switch d.Next() {
	case jx.Object:
		it, err := d.ObjIter()
		if err != nil {
			return err
		}
		for it.Next() {
			if err := skip(d, depth+1); err != nil {
				return err
			}
		}
		return it.Err()
	case jx.Array:
		it, err := d.ArrIter()
		if err != nil {
			return err
		}
		for it.Next() {
			if err := skip(d, depth+1); err != nil {
				return err
			}
		}
		return it.Err()
	default:
		return d.Skip()
	}
}

// alias returns b as a string without copying. It is valid as long as b is not changed.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// isSpace reports whether a byte is JSON white space.
func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// trimLeft removes leading white space.
func trimLeft(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	return b
}

// trimSpace removes leading and trailing white space.
func trimSpace(b []byte) []byte {
	b = trimLeft(b)
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

const unpairedSurrogate = "holds an escaped surrogate without its other half"

// unquote decodes a JSON string, quotes included, whose syntax has been checked. The result aliases raw if there are no
// escapes, otherwise r.text. Unpaired surrogates are rejected.
func (r *Request) unquote(raw []byte) (text []byte, ok bool) {
	inner := raw[1 : len(raw)-1]
	escape := bytes.IndexByte(inner, '\\')
	if escape < 0 {
		return inner, true
	}
	start := len(r.text)
	for ; escape >= 0; escape = bytes.IndexByte(inner, '\\') {
		r.text = append(r.text, inner[:escape]...)
		c := inner[escape+1]
		inner = inner[escape+2:]
		switch c {
		case 'b':
			r.text = append(r.text, '\b')
		case 'f':
			r.text = append(r.text, '\f')
		case 'n':
			r.text = append(r.text, '\n')
		case 'r':
			r.text = append(r.text, '\r')
		case 't':
			r.text = append(r.text, '\t')
		case 'u':
			var char rune
			char, inner = hex4(inner), inner[4:]
			if utf16.IsSurrogate(char) {
				if len(inner) < 6 || inner[0] != '\\' || inner[1] != 'u' {
					return nil, false
				}
				char = utf16.DecodeRune(char, hex4(inner[2:]))
				if char == unicode.ReplacementChar { // no pair encodes this value
					return nil, false
				}
				inner = inner[6:]
			}
			r.text = utf8.AppendRune(r.text, char)
		default: // '"', '\\', '/'
			r.text = append(r.text, c)
		}
	}
	r.text = append(r.text, inner...)
	return r.text[start:len(r.text):len(r.text)], true
}

// hex4 decodes four hex digits that have been checked.
func hex4(b []byte) rune {
	var v rune
	for _, c := range b[:4] {
		switch {
		case c <= '9':
			c -= '0'
		case c <= 'F':
			c -= 'A' - 10
		default:
			c -= 'a' - 10
		}
		v = v<<4 | rune(c)
	}
	return v
}
