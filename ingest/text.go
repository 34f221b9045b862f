package ingest

import (
	"bytes"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const unpairedSurrogate = "holds an escaped surrogate without its other half"

// unquote reads a JSON string whose form has been checked, quotes included. Without
// escapes the answer aliases raw, otherwise r.text. It refuses unpaired surrogates.
func (r *request) unquote(raw []byte) (text []byte, ok bool) {
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
				if char == unicode.ReplacementChar { // no pair has this value
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

// hex4 reads four hex digits that have been checked.
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
