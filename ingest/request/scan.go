package request

import (
	"encoding/binary"
	"math/bits"
)

// scan reads r.body into r.fields where it is what nearly all senders send: an object of the known fields, with strings that
// escape nothing and integers of at most 18 digits. Of such a body it makes what the decoder makes, and sooner. The
// body is UTF-8. Where it says no, nothing is said about the body, and the fields are empty.
func (r *Request) scan() bool {
	if s := scanner(r.body); s.byte('{') && r.scanObject(&s) && s.end() {
		return true
	}
	r.fields = fields{subscribers: r.fields.subscribers[:0]}
	return false
}

func (r *Request) scanObject(s *scanner) bool {
	f := &r.fields
	for n := 0; !s.byte('}'); n++ {
		if n > 0 && !s.byte(',') {
			return false
		}
		ok := false
		switch string(s.key()) {
		case "from_uid":
			ok = r.scanString(s, fieldFromUID, &f.fromUID)
		case "channel_id":
			ok = r.scanString(s, fieldChannelID, &f.channelID)
		case "channel_type":
			ok = r.scanInteger(s, fieldChannelType, &f.channelType)
		case "payload":
			ok = r.scanPayload(s)
		case "client_msg_no":
			ok = r.scanString(s, FieldClientMsgNo, &f.clientMsgNo)
		case "stream_no":
			ok = r.scanString(s, fieldStreamNo, &f.streamNo)
		case "tag_key":
			ok = r.scanString(s, fieldTagKey, &f.tagKey)
		case "expire":
			ok = r.scanInteger(s, fieldExpire, &f.expire)
		case "header":
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

// scanner is what is left of a body.
type scanner []byte

// byte takes a byte and the white space before it, if it is this one.
func (s *scanner) byte(c byte) bool {
	text := trimLeft(*s)
	if len(text) == 0 || text[0] != c {
		return false
	}
	*s = text[1:]
	return true
}

// end says whether only white space is left.
func (s *scanner) end() bool { return len(trimSpace(*s)) == 0 }

// key takes a name and the colon behind it; it is empty where they are not there.
func (s *scanner) key() []byte {
	if key, ok := s.text(); ok && s.byte(':') {
		return key
	}
	return nil
}

// text takes a string in which nothing is escaped.
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

// plainBytes counts the bytes at the beginning of a text that stand for themselves in a JSON string: neither a quote nor a
// backslash nor below 0x20. It looks at eight at one time. A byte of a word is below n if taking n from it, and from no byte that
// had its top bit set, sets its top bit; it is zero if it is below 1 (S. E. Anderson, Bit Twiddling Hacks, "Determine if a word has
// a byte less than n"). What a lower byte borrows makes a higher one look wrong, never a lower one, and the lowest is what counts.
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

// integer takes an integer of at most 18 digits, which is what always fits.
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
