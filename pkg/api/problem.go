package api

import (
	"net/http"
	"strconv"
	"unicode/utf8"
)

// Problem is an answer other than 200, in the one shape that all errors have:
//
//	{"status":400,"code":"invalid_request","msg":"payload is required","field":"payload","reason":9}
type Problem struct {
	// Status is the HTTP status.
	Status int
	// Code is for programs: lower case, words joined by _, never changed.
	Code string
	// Msg is for people: what is wrong, and what to do about it.
	Msg string
	// Field names the bad fields, separated by commas.
	Field string
	// Reason is WuKongIM's reason code; 0 means none.
	Reason int
	// RetryAfter is the seconds after which trying again can help; 0 means that it does not.
	RetryAfter int
}

// Append appends the JSON and a line feed.
func (p Problem) Append(body []byte) []byte {
	body = append(body, `{"status":`...)
	body = strconv.AppendInt(body, int64(p.Status), 10)
	body = append(body, `,"code":`...)
	body = AppendString(body, p.Code)
	body = append(body, `,"msg":`...)
	body = AppendString(body, p.Msg)
	body = append(body, `,"field":`...)
	body = AppendString(body, p.Field)
	body = append(body, `,"reason":`...)
	body = strconv.AppendInt(body, int64(p.Reason), 10)
	return append(body, "}\n"...)
}

// Write answers with the problem. The answer names the request: see [RequestID].
func (p Problem) Write(w http.ResponseWriter) {
	body := p.Append(make([]byte, 0, 256))
	RequestID(w)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // a caller that has gone need not know
}

// AppendString appends s as a JSON string. Bytes that are not UTF-8, which
// validated text does not have, become U+FFFD.
func AppendString[T string | []byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		b := s[i]
		if b >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			if r == utf8.RuneError && size == 1 {
				dst = append(dst, s[from:i]...)
				dst = append(dst, "\ufffd"...)
				from = i + size
			}
			i += size
			continue
		}
		if b >= ' ' && b != '"' && b != '\\' {
			i++
			continue
		}
		dst = append(dst, s[from:i]...)
		switch b {
		case '"', '\\':
			dst = append(dst, '\\', b)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[b>>4], hex[b&15])
		}
		i++
		from = i
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}
