package request

import (
	"bytes"
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// reference is a body as decoded by encoding/json.
type reference struct {
	Header *struct {
		NoPersist *int64 `json:"no_persist"`
		RedDot    *int64 `json:"red_dot"`
		SyncOnce  *int64 `json:"sync_once"`
	} `json:"header"`
	NoPersist   *int64    `json:"no_persist"`
	RedDot      *int64    `json:"red_dot"`
	SyncOnce    *int64    `json:"sync_once"`
	FromUID     *string   `json:"from_uid"`
	SenderUID   *string   `json:"sender_uid"`
	ChannelID   *string   `json:"channel_id"`
	ChannelType *int64    `json:"channel_type"`
	ClientMsgNo *string   `json:"client_msg_no"`
	StreamNo    *string   `json:"stream_no"`
	TagKey      *string   `json:"tag_key"`
	Expire      *int64    `json:"expire"`
	Subscribers []*string `json:"subscribers"`
	Payload     *[]byte   `json:"payload"`
}

func referenceDecode(body []byte) (reference, error) {
	var r reference
	err := json.Unmarshal(body, &r)
	return r, err
}

// referenceValidate is a second implementation of Validate, written for clarity and not for speed. It returns the names of
// the bad fields, or the send.
func referenceValidate(r reference, payloadBytesMax int) (bad []string, s *message.Send) {
	fault := func(is bool, name string) {
		if is && !slices.Contains(bad, name) {
			bad = append(bad, name)
		}
	}
	text := func(p *string) string {
		if p == nil {
			return ""
		}
		return *p
	}
	header := r.Header
	if header == nil {
		header = &struct {
			NoPersist *int64 `json:"no_persist"`
			RedDot    *int64 `json:"red_dot"`
			SyncOnce  *int64 `json:"sync_once"`
		}{}
	}
	flag := func(name string, inHeader, atTop *int64) bool {
		fault(inHeader != nil && *inHeader != 0 && *inHeader != 1, "header."+name)
		fault(atTop != nil && *atTop != 0 && *atTop != 1, name)
		if inHeader != nil {
			return *inHeader == 1
		}
		return atTop != nil && *atTop == 1
	}
	s = &message.Send{
		NoPersist: flag("no_persist", header.NoPersist, r.NoPersist),
		RedDot:    flag("red_dot", header.RedDot, r.RedDot),
		SyncOnce:  flag("sync_once", header.SyncOnce, r.SyncOnce),
		StreamNo:  text(r.StreamNo), TagKey: text(r.TagKey), ClientMsgNo: text(r.ClientMsgNo),
	}
	fault(r.Payload == nil || len(*r.Payload) == 0 || len(*r.Payload) > payloadBytesMax, "payload")
	for name, key := range map[string]string{"stream_no": s.StreamNo, "tag_key": s.TagKey, "client_msg_no": s.ClientMsgNo} {
		fault(len(key) > 256 || key != "" && strings.TrimSpace(key) == "", name)
	}
	fault(r.Expire != nil && (*r.Expire < 0 || *r.Expire > math.MaxUint32), "expire")

	for _, p := range r.Subscribers {
		if uid := text(p); uid != "" {
			fault(!isUID(uid), "subscribers")
			s.Subscribers = append(s.Subscribers, uid)
		}
	}
	slices.Sort(s.Subscribers)
	s.Subscribers = slices.Compact(s.Subscribers)
	fault(len(r.Subscribers) > 10_000, "subscribers")
	badSync := slices.Contains(bad, "sync_once") || slices.Contains(bad, "header.sync_once")
	fault(len(s.Subscribers) > 0 && !s.SyncOnce && !badSync, "subscribers")

	channelType, channelID := int64(0), text(r.ChannelID)
	if r.ChannelType != nil {
		channelType = *r.ChannelType
	}
	temporary := channelID == "" && len(s.Subscribers) > 0
	fault((channelType < 1 || channelType > 255) && (channelType != 0 || !temporary), "channel_type")

	s.FromUid = text(r.FromUID)
	from := "from_uid"
	if s.FromUid == "" && r.SenderUID != nil && *r.SenderUID != "" {
		s.FromUid, from = *r.SenderUID, "sender_uid"
	}
	fault(!isUID(s.FromUid), from)
	fault(channelType == 1 && (strings.Contains(s.FromUid, "@") || strings.HasSuffix(s.FromUid, "____cmd")), from)

	if temporary {
		channelID, channelType = message.TemporaryChannel(s.Subscribers), 8
	} else {
		sides := []string{channelID}
		if channelType == 1 {
			sides = strings.Split(channelID, "@")
		}
		fault(len(sides) > 2, "channel_id")
		fault(len(sides) == 2 && s.FromUid != "" && !slices.Contains(sides, s.FromUid), "channel_id")
		for _, side := range sides {
			fault(!isUID(side) || strings.HasSuffix(side, "____cmd"), "channel_id")
			fault(channelType != 1 && (strings.ContainsAny(side, "@#&") || strings.ContainsFunc(side, unicode.IsSpace)), "channel_id")
		}
	}
	if len(bad) > 0 {
		return bad, nil
	}
	canonical, err := message.CanonicalChannel(s.FromUid, channelID, message.ChannelType(channelType), s.SyncOnce)
	if err != nil {
		panic(err) // all expected errors have been handled
	}
	s.ChannelId, s.ChannelType = canonical, uint32(channelType)
	s.Payload = *r.Payload
	if r.Expire != nil {
		s.Expire = uint32(*r.Expire)
	}
	return nil, s
}

func isUID(s string) bool {
	return s != "" && len(s) <= 256 && !controls().MatchString(s) && strings.TrimSpace(s) == s
}

func controls() *regexp.Regexp { return regexp.MustCompile(`\p{Cc}`) }

// foldedKey reports whether the body has a key that encoding/json would match to a field regardless of case, and Decode
// does not.
func foldedKey(body []byte) bool {
	known := []string{
		"header", "no_persist", "red_dot", "sync_once", "from_uid", "sender_uid", "channel_id", "channel_type",
		"client_msg_no", "stream_no", "tag_key", "expire", "subscribers", "payload",
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return false // the end, or invalid JSON: then there is nothing to compare
		}
		if s, ok := token.(string); ok {
			for _, k := range known {
				if s != k && strings.EqualFold(s, k) {
					return true
				}
			}
		}
	}
}
