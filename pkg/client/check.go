package client

import (
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// subscribersMax is the API's limit (docs/reference/api.md). A payload has a limit too, but that is a setting of the server.
const subscribersMax = 10_000

// check finds everything in a send for which each server would refuse it.
func (s *Send) check() error {
	var fields, texts []string
	bad := func(field, rule string) {
		if rule == "" {
			return
		}
		if len(fields) == 0 || fields[len(fields)-1] != field {
			fields = append(fields, field)
		}
		texts = append(texts, field+" "+rule)
	}
	key := func(field, value string) {
		if !utf8.ValidString(value) {
			bad(field, "must be UTF-8")
		} else {
			bad(field, message.KeyRule(value))
		}
	}
	if len(s.Payload) == 0 {
		bad("payload", "must not be empty")
	}
	key("client_msg_no", s.ClientMsgNo)
	key("stream_no", s.StreamNo)
	key("tag_key", s.TagKey)
	channelType, temporary := message.ChannelType(s.ChannelType), s.ChannelID == "" && len(s.Subscribers) > 0
	bad("from_uid", message.UIDRule(s.FromUID, channelType))
	if !channelType.Valid() && (!temporary || channelType != 0) {
		bad("channel_type", message.ChannelTypeRule)
	}
	switch left, right, composed := strings.Cut(s.ChannelID, "@"); {
	case temporary:
	case message.ChannelIDRule(s.ChannelID, channelType) != "":
		bad("channel_id", message.ChannelIDRule(s.ChannelID, channelType))
	case composed && s.FromUID != left && s.FromUID != right:
		bad("channel_id", "names a person channel that the sender is no side of")
	}
	if len(s.Subscribers) > subscribersMax {
		bad("subscribers", "are more than 10,000")
	}
	for _, uid := range s.Subscribers {
		if rule := message.UIDRule(uid, 0); uid != "" && rule != "" {
			bad("subscribers", "must be uids: one "+rule)
			break
		}
	}
	if len(s.Subscribers) > 0 && !s.SyncOnce {
		bad("subscribers", "is only for commands: SyncOnce")
	}
	if len(fields) == 0 {
		return nil
	}
	return &Error{Status: http.StatusBadRequest, Code: "invalid_request", Field: strings.Join(fields, ","), Msg: strings.Join(texts, "; ") + "; it was not sent"}
}
