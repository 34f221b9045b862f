package message

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what clients name, in bytes.
const (
	UIDBytesMax         = 256
	ChannelIDBytesMax   = 256
	KeyBytesMax         = 256 // of client_msg_no, stream_no and tag_key
	ClientMsgNoBytesMax = KeyBytesMax
)

// What is wrong with a name, to follow the name of its field.
const (
	isRequired   = "is required"
	isNotUTF8    = "must be UTF-8"
	hasControls  = "must not hold control characters"
	hasEdges     = "must not begin or end with white space"
	personAtSign = "must not hold '@' where the channel is a person's"
)

// UIDRule says which rule a uid breaks: "is required", to follow the name of the field. It is empty for a uid that may be used.
//
// The rule is the same for everything that names a uid, so that every uid that can send can be listed and banned: 1 to [UIDBytesMax] bytes of UTF-8
// without control characters, and no white space (Unicode's) at either end. Nothing is trimmed or changed. A uid that sends to, or reads, a person's channel is
// part of the channel's name, so there it holds no '@' and does not end in [CommandSuffix]; give 0 if no channel is concerned.
func UIDRule(uid string, channelType ChannelType) string {
	switch {
	case uid == "":
		return isRequired
	case len(uid) > UIDBytesMax:
		return LengthRule(uid, UIDBytesMax)
	case isPlain(uid): // as nearly all are, and then it breaks none of the next three
	case !utf8.ValidString(uid):
		return isNotUTF8
	case HasControl(uid):
		return hasControls
	case strings.TrimSpace(uid) != uid:
		return hasEdges
	}
	switch {
	case channelType != ChannelPerson:
		return ""
	// Canonical names join two uids with '@' and mark command channels with a suffix: a uid that holds either could make two channels one.
	case strings.Contains(uid, "@"):
		return personAtSign
	case strings.HasSuffix(uid, CommandSuffix):
		return "must not end in " + CommandSuffix + " where the channel is a person's"
	default:
		return ""
	}
}

// ChannelIDRule says which rule a channel_id breaks, as a client writes it; see UIDRule. A type that is none counts as one that is not a
// person's.
//
// A person's channel is named by the other uid, or by both uids joined by '@'. Any other name is 1 to [ChannelIDBytesMax] bytes of UTF-8
// without control characters, white space, '@', '#' and '&', and does not end in [CommandSuffix].
func ChannelIDRule(id string, channelType ChannelType) string {
	if channelType == ChannelPerson {
		return personChannelRule(id)
	}
	switch {
	case id == "":
		return isRequired
	case len(id) > ChannelIDBytesMax:
		return LengthRule(id, ChannelIDBytesMax)
	case isPlain(id): // as nearly all are, and then it breaks none of the next four
	case !utf8.ValidString(id):
		return isNotUTF8
	case HasControl(id):
		return hasControls
	case hasSpace(id):
		return "must not hold white space"
	case strings.ContainsAny(id, "@#&"):
		return "must not hold '@', '#' or '&'"
	}
	if strings.HasSuffix(id, CommandSuffix) {
		return "must not end in " + CommandSuffix + "; a command is sent with header.sync_once=1 to the channel itself"
	}
	return ""
}

// personChannelRule is ChannelIDRule for a person's channel. Each side of a composed name is a uid; "a@", "@b" and "a@b@c" are none.
func personChannelRule(id string) string {
	left, right, composed := strings.Cut(id, "@")
	switch {
	case !composed:
		return UIDRule(id, ChannelPerson)
	case UIDRule(left, ChannelPerson) == "" && UIDRule(right, ChannelPerson) == "":
		return ""
	case HasControl(id):
		return hasControls
	default:
		return "must be a uid, or two uids joined by one '@'"
	}
}

// isPlain reports whether a name is of ASCII letters, digits, '-', '_', '.' and ':' alone.
func isPlain(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '-' <= c && c <= ':' && c != '/', 'A' <= c && c <= 'Z', c == '_':
		default:
			return false
		}
	}
	return true
}

// KeyRule says which rule a client_msg_no, stream_no or tag_key breaks; see [UIDRule]. An empty one is absent, and breaks none. One of white space
// (Unicode's) alone comes from a caller that means none: as a client_msg_no it would make duplicates of messages that are not.
func KeyRule(key string) string {
	if key == "" || len(key) <= KeyBytesMax && key[0]-'!' <= '~'-'!' { // it begins with visible ASCII, as nearly all do
		return ""
	}
	return unusualKeyRule(key)
}

// unusualKeyRule is apart so that the usual case is inlined.
func unusualKeyRule(key string) string {
	if len(key) <= KeyBytesMax && strings.TrimSpace(key) == "" {
		return "must not be white space alone; leave it out for none"
	}
	return LengthRule(key, KeyBytesMax)
}

// LengthRule says that a text is longer than it may be, and returns "" if it is not. See UIDRule.
func LengthRule(s string, bytesMax int) string {
	if len(s) <= bytesMax {
		return ""
	}
	return fmt.Sprintf("is %d bytes; at most %d are taken", len(s), bytesMax)
}

// HasControl reports whether s holds a control character (Unicode's Cc).
func HasControl(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c < ' ' || c == 0x7f:
			return true
		case c == 0xc2 && i+1 < len(s) && s[i+1] < 0xa0: // U+0080 to U+009F
			return true
		}
	}
	return false
}

// hasSpace reports whether s holds white space as Unicode knows it.
func hasSpace(s string) bool {
	for _, c := range s {
		if c == ' ' || c > unicode.MaxASCII && unicode.IsSpace(c) || c < ' ' && unicode.IsSpace(c) {
			return true
		}
	}
	return false
}
