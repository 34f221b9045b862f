package permission

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// The keys of the bucket:
//
//	channel.<channel_type>.<name>                the channel's record
//	page.<channel_type>.<name>.<list>.<page id>  a part of a list that does not fit in there
//
// A key of a bucket may contain fewer characters than a subject token, so the channel token of the message log cannot be
// used. Bytes of the name that are not allowed are written as '=' and two hex digits.
const (
	channelKeys = "channel."
	pageKeys    = "page."
	hexDigits   = "0123456789ABCDEF"
)

func (c Channel) key() string { return channelKeys + c.token() }

func (c Channel) pagesKey(l List) string { return pageKeys + c.token() + "." + l.String() }

func (c Channel) pageKey(l List, id uint64) string { return c.pagesKey(l) + "." + pageID(id) }

func pageID(id uint64) string { return fmt.Sprintf("%016x", id) }

func (c Channel) token() string {
	var b strings.Builder
	b.WriteString(strconv.FormatUint(uint64(c.Type), 10))
	b.WriteByte('.')
	for i := range len(c.Name) {
		if char := c.Name[i]; plain(char) {
			b.WriteByte(char)
		} else {
			b.Write([]byte{'=', hexDigits[char>>4], hexDigits[char&15]})
		}
	}
	return b.String()
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// parsedKey is a parsed key.
type parsedKey struct {
	channel Channel
	isPage  bool
	list    List
	id      uint64
}

func parseKey(key string) (parsedKey, error) {
	var p parsedKey
	parts := strings.Split(key, ".")
	switch {
	case len(parts) == 3 && parts[0]+"." == channelKeys:
	case len(parts) == 5 && parts[0]+"." == pageKeys:
		p.isPage = true
		for p.list < lists && p.list.String() != parts[3] {
			p.list++
		}
		id, err := strconv.ParseUint(parts[4], 16, 64)
		if err != nil || p.list == lists {
			return p, fmt.Errorf("key %q: not a page of a list", key)
		}
		p.id = id
	default:
		return p, fmt.Errorf("key %q: neither a channel nor a page", key)
	}
	kind, err := strconv.ParseUint(parts[1], 10, 8)
	if err != nil {
		return p, fmt.Errorf("key %q: channel type: %w", key, err)
	}
	name, err := unescape(parts[2])
	if err != nil {
		return p, fmt.Errorf("key %q: %w", key, err)
	}
	p.channel = Channel{Type: message.ChannelType(kind), Name: name}
	return p, nil
}

func unescape(token string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		if token[i] != '=' {
			b.WriteByte(token[i])
			continue
		}
		if i+2 >= len(token) {
			return "", fmt.Errorf("the name is truncated at byte %d", i)
		}
		high, low := strings.IndexByte(hexDigits, token[i+1]), strings.IndexByte(hexDigits, token[i+2])
		if high < 0 || low < 0 {
			return "", fmt.Errorf("bad escape in the name at byte %d", i)
		}
		b.WriteByte(byte(high<<4 | low))
		i += 2
	}
	return b.String(), nil
}
