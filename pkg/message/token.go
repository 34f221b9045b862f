package message

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A subject token may hold any UTF-8 but the characters that give a subject its
// shape. ChannelToken escapes those, and bytes that are not UTF-8, as '%' and
// two hex digits; the empty name is "%" alone. The escape is reversible, so a
// consumer can read the channel from the subject.

const (
	hexDigits  = "0123456789ABCDEF"
	emptyToken = "%"
)

// ChannelToken writes a channel's name as one token of a NATS subject.
// ParseChannelToken reads it back.
func ChannelToken(channelID string) string {
	if isPlainToken(channelID) {
		return channelID
	}
	return string(AppendChannelToken(nil, channelID))
}

// AppendChannelToken appends the token of channelID to dst.
func AppendChannelToken(dst []byte, channelID string) []byte {
	if isPlainToken(channelID) {
		return append(dst, channelID...)
	}
	if channelID == "" {
		return append(dst, emptyToken...)
	}
	for i := 0; i < len(channelID); {
		b := channelID[i]
		if b < utf8.RuneSelf {
			if isPlainByte(b) {
				dst = append(dst, b)
			} else {
				dst = append(dst, '%', hexDigits[b>>4], hexDigits[b&15])
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(channelID[i:])
		if r == utf8.RuneError && size == 1 {
			dst = append(dst, '%', hexDigits[b>>4], hexDigits[b&15])
		} else {
			dst = append(dst, channelID[i:i+size]...)
		}
		i += size
	}
	return dst
}

// ParseChannelToken is the inverse of ChannelToken. It refuses what ChannelToken
// never writes.
func ParseChannelToken(token string) (string, error) {
	if token == emptyToken {
		return "", nil
	}
	var b strings.Builder
	b.Grow(len(token))
	for i := 0; i < len(token); i++ {
		c := token[i]
		if c != '%' {
			b.WriteByte(c)
			continue
		}
		if i+2 >= len(token) {
			return "", fmt.Errorf("channel token %q: cut escape at byte %d", token, i)
		}
		hi, lo := strings.IndexByte(hexDigits, token[i+1]), strings.IndexByte(hexDigits, token[i+2])
		if hi < 0 || lo < 0 {
			return "", fmt.Errorf("channel token %q: bad escape at byte %d", token, i)
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	name := b.String()
	if ChannelToken(name) != token {
		return "", fmt.Errorf("channel token %q: not the canonical form of %q", token, name)
	}
	return name, nil
}

func isPlainToken(s string) bool {
	if s == "" {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return utf8.ValidString(s) && isPlainASCII(s)
		}
		if !isPlainByte(s[i]) {
			return false
		}
	}
	return true
}

func isPlainASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < utf8.RuneSelf && !isPlainByte(s[i]) {
			return false
		}
	}
	return true
}

func isPlainByte(b byte) bool {
	return b > ' ' && b != 0x7f && b != '.' && b != '*' && b != '>' && b != '%'
}
