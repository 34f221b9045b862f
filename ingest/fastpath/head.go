package fastpath

import (
	"net/http"
	"net/textproto"
	"strings"
)

// contentLengthDigitsMax bounds the length of a plain request: up to 999,999,999 bytes.
const contentLengthDigitsMax = 9

// head is the header of a plain request.
type head struct {
	header http.Header // without Host
	values []string    // backs the header's slices
	host   string
	length int64

	slashed bool // the request line is lines.slashed
}

// lines are the request lines of the requests served here.
type lines struct{ plain, slashed string }

func linesOf(path string) lines {
	const version = " HTTP/1.1\r\n"
	return lines{plain: http.MethodPost + " " + path + version, slashed: http.MethodPost + " " + path + "/" + version}
}

// parse parses a head, from its request line, which must be one of those, to the empty line after the last field. It reports
// whether the request is plain: every field well-formed, one Host, one Content-Length above 0, and no field that asks for
// more than a response on a connection that stays open. h must be empty.
func (h *head) parse(text string, of lines) (plain bool) {
	fields, plain := strings.CutPrefix(text, of.plain)
	if !plain {
		if fields, plain = strings.CutPrefix(text, of.slashed); !plain {
			return false
		}
		h.slashed = true
	}
	for len(fields) > len("\r\n") {
		end := strings.IndexByte(fields, '\r')
		colon := strings.IndexByte(fields, ':')
		if colon <= 0 || end < colon || fields[end+1] != '\n' { // end+1 is in range: the last line is empty
			return false
		}
		key, value := fields[:colon], trim(fields[colon+1:end])
		fields = fields[end+2:]
		if !validKey(key) || !validValue(value) || !h.take(textproto.CanonicalMIMEHeaderKey(key), value) {
			return false
		}
	}
	return h.host != "" && h.length > 0
}

// forget clears the head, so that it retains nothing of the last request.
func (h *head) forget() {
	clear(h.header)
	clear(h.values)
	h.values, h.host, h.length, h.slashed = h.values[:0], "", 0, false
}

// take adds a field, and reports false if it makes the request not plain.
func (h *head) take(key, value string) (plain bool) {
	switch key {
	case "Host":
		if h.host != "" || !validHost(value) {
			return false
		}
		h.host = value
		return true
	case "Content-Length":
		if h.length != 0 {
			return false
		}
		if h.length, plain = parseLength(value); !plain {
			return false
		}
	case "Connection":
		if !strings.EqualFold(value, "keep-alive") {
			return false
		}
	case "Transfer-Encoding", "Trailer", "Te", "Upgrade", "Expect", "Pragma", "Http2-Settings":
		return false
	}
	h.values = append(h.values, value)
	if earlier, given := h.header[key]; given {
		h.header[key] = append(earlier, value)
		return true
	}
	last := len(h.values)
	h.header[key] = h.values[last-1 : last : last]
	return true
}

// parseLength parses a Content-Length of digits only without a leading 0.
func parseLength(text string) (length int64, plain bool) {
	if text == "" || len(text) > contentLengthDigitsMax || text[0] == '0' {
		return 0, false
	}
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return 0, false
		}
		length = length*10 + int64(text[i]-'0')
	}
	return length, true
}

func trim(value string) string {
	for value != "" && value[0] == ' ' {
		value = value[1:]
	}
	for value != "" && value[len(value)-1] == ' ' {
		value = value[:len(value)-1]
	}
	return value
}

// validKey accepts letters, digits and hyphens, a subset of RFC 9110, section 5.6.2.
func validKey(key string) bool {
	for i := range len(key) {
		if !alphanumeric(key[i]) && key[i] != '-' {
			return false
		}
	}
	return true
}

// validValue accepts visible ASCII and spaces, a subset of RFC 9110, section 5.5.
func validValue(value string) bool {
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return false
		}
	}
	return true
}

// validHost accepts names, addresses and ports.
func validHost(host string) bool {
	for i := range len(host) {
		if c := host[i]; !alphanumeric(c) && c != '.' && c != '-' && c != ':' && c != '[' && c != ']' {
			return false
		}
	}
	return host != ""
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
