package message_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

func TestUIDRule(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		uid  string
		kind message.ChannelType
		rule string
	}{
		{"u", message.ChannelGroup, ""},
		{"u@x", message.ChannelGroup, ""},
		{"u____cmd", message.ChannelGroup, ""},
		{strings.Repeat("u", 256), message.ChannelPerson, ""},
		{"", message.ChannelGroup, "is required"},
		{strings.Repeat("u", 257), message.ChannelGroup, "is 257 bytes; at most 256 are taken"},
		{"u\n", message.ChannelGroup, "must not hold control characters"},
		{"u\u0085", message.ChannelGroup, "must not hold control characters"},
		{"u #&*.> v", message.ChannelPerson, ""},
		{" ", message.ChannelGroup, "must not begin or end with white space"},
		{" u", message.ChannelGroup, "must not begin or end with white space"},
		{"u\u00a0", message.ChannelGroup, "must not begin or end with white space"},
		{"u\xff", message.ChannelGroup, "must be UTF-8"},
		{"u@x", message.ChannelPerson, "must not hold '@' where the channel is a person's"},
		{"u____cmd", message.ChannelPerson, "must not end in ____cmd where the channel is a person's"},
	} {
		require.Equal(t, row.rule, message.UIDRule(row.uid, row.kind), "%q of type %d", row.uid, row.kind)
	}
}

func TestChannelIDRule(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("c", 256)
	for _, row := range []struct {
		id   string
		kind message.ChannelType
		rule string
	}{
		{"g", message.ChannelGroup, ""},
		{long, message.ChannelGroup, ""},
		{"a@b", message.ChannelPerson, ""},
		{long + "@" + long, message.ChannelPerson, ""},
		{"", message.ChannelGroup, "is required"},
		{long + "c", message.ChannelGroup, "is 257 bytes; at most 256 are taken"},
		{"g h", message.ChannelGroup, "must not hold white space"},
		{"g\u2003h", message.ChannelGroup, "must not hold white space"},
		{"g\x7f", message.ChannelGroup, "must not hold control characters"},
		{"a@b", message.ChannelGroup, "must not hold '@', '#' or '&'"},
		{"a#b", message.ChannelPerson, ""},
		{"a b@c d", message.ChannelPerson, ""},
		{"a#b", message.ChannelGroup, "must not hold '@', '#' or '&'"},
		{"a\xff", message.ChannelGroup, "must be UTF-8"},
		{"", message.ChannelPerson, "is required"},
		{" a", message.ChannelPerson, "must not begin or end with white space"},
		{long + "c", message.ChannelPerson, "is 257 bytes; at most 256 are taken"},
		{"a@b ", message.ChannelPerson, "must be a uid, or two uids joined by one '@'"},
		{"g____cmd", message.ChannelPerson, "must not end in ____cmd where the channel is a person's"},
		{"a@", message.ChannelPerson, "must be a uid, or two uids joined by one '@'"},
		{"a@b@c", message.ChannelPerson, "must be a uid, or two uids joined by one '@'"},
		{"a____cmd@b", message.ChannelPerson, "must be a uid, or two uids joined by one '@'"},
		{"g____cmd", message.ChannelGroup, "must not end in ____cmd; a command is sent with header.sync_once=1 to the channel itself"},
	} {
		require.Equal(t, row.rule, message.ChannelIDRule(row.id, row.kind), "%q of type %d", row.id, row.kind)
	}
}

func TestKeyRule(t *testing.T) {
	t.Parallel()
	const blank = "must not be white space alone; leave it out for none"
	for key, rule := range map[string]string{
		"": "", "x": "", " x ": "", "\u3000é": "", "\x00": "", "\u200b": "", strings.Repeat("k", 256): "", strings.Repeat("群", 85): "",
		" ": blank, "\t\r\n\v\f ": blank, "\u00a0": blank, "\u0085\u1680\u2003\u2028\u3000": blank,
		strings.Repeat("k", 257): "is 257 bytes; at most 256 are taken", strings.Repeat(" ", 257): "is 257 bytes; at most 256 are taken",
	} {
		require.Equal(t, rule, message.KeyRule(key), "%q", key)
	}
}

// The type of a channel is one byte, and 0 is none.
func TestChannelTypeValid(t *testing.T) {
	t.Parallel()
	for kind := range message.ChannelType(1000) {
		require.Equal(t, kind >= 1 && kind <= 255, kind.Valid(), "type %d", kind)
	}
	require.False(t, message.ChannelType(1<<32-1).Valid())
}

// Each ASCII character of a channel_id has its rule, in whatever place.
func TestChannelIDCharacters(t *testing.T) {
	t.Parallel()
	for c := range 0x80 {
		for _, kind := range []message.ChannelType{message.ChannelGroup, message.ChannelPerson} {
			rule := ""
			switch group := kind == message.ChannelGroup; {
			case c < ' ' || c == 0x7f:
				rule = "must not hold control characters"
			case group && c == ' ':
				rule = "must not hold white space"
			case group && (c == '#' || c == '&' || c == '@'):
				rule = "must not hold '@', '#' or '&'"
			}
			require.Equal(t, rule, message.ChannelIDRule("a"+string(rune(c))+"b", kind), "%q of type %d", c, kind)
		}
	}
}
