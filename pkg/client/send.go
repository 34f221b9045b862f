package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// ChannelType is what kind of channel a send goes to, 1 to 255. Those without a name here are for the application; to the server they are groups.
type ChannelType uint8

// The channel types that have a meaning.
const (
	ChannelPerson          ChannelType = 1
	ChannelGroup           ChannelType = 2
	ChannelCustomerService ChannelType = 3
	ChannelCommunity       ChannelType = 4
	ChannelCommunityTopic  ChannelType = 5
	ChannelInfo            ChannelType = 6
	ChannelData            ChannelType = 7
	ChannelTemporary       ChannelType = 8
	ChannelLive            ChannelType = 9
	ChannelVisitors        ChannelType = 10
	ChannelAgent           ChannelType = 11
	ChannelAgentGroup      ChannelType = 12
)

// Send is a message to be. The server checks it; its rules are in docs/reference/api.md.
type Send struct {
	// ClientMsgNo is the sender's own key for the message, at most 256 bytes and not white space alone. If it is empty, one is made.
	ClientMsgNo string
	// FromUID is the sender, 1 to 256 bytes.
	FromUID string
	// ChannelID is the channel, 1 to 256 bytes; where ChannelType is ChannelPerson, the other one's uid. It may be empty where Subscribers
	// are given.
	ChannelID   string
	ChannelType ChannelType
	// Payload is what is sent: 1 byte to 512 KiB by default, before base64, which is added here.
	Payload []byte
	// NoPersist: give it an ID, publish it once, store it nowhere.
	NoPersist bool
	// RedDot: clients show it as unread.
	RedDot bool
	// SyncOnce: it is a command, and goes to the channel's command channel.
	SyncOnce bool
	// StreamNo and TagKey are stored with the message; at most 256 bytes each.
	StreamNo string
	TagKey   string
	// Expire is the seconds after which the message's row is gone; 0 means never.
	Expire uint32
	// Subscribers are the receivers of a command, at most 10,000.
	Subscribers []string
}

// Result is what a send has become.
type Result struct {
	// MessageID is unique, and greater than those of the channel's earlier messages.
	MessageID int64
	// MessageSeq counts 1, 2, 3, … in the channel; it is 0 where the send had NoPersist.
	MessageSeq int64
	// ClientMsgNo is that of the send, or the one that was made for it.
	ClientMsgNo string
	// Replayed: it had been sent before, and this is the first answer again.
	Replayed bool
	// ChannelID and ChannelType are the temporary channel that the server has made of the receivers. They are empty if the send named a channel,
	// and if the server is of a version that does not tell.
	ChannelID   string
	ChannelType ChannelType
}

// sendJSON is a Send as the API takes it.
type sendJSON struct {
	Header      headerJSON  `json:"header"`
	ClientMsgNo string      `json:"client_msg_no"`
	FromUID     string      `json:"from_uid"`
	ChannelID   string      `json:"channel_id,omitempty"`
	ChannelType ChannelType `json:"channel_type,omitempty"`
	StreamNo    string      `json:"stream_no,omitempty"`
	TagKey      string      `json:"tag_key,omitempty"`
	Expire      uint32      `json:"expire,omitempty"`
	Subscribers []string    `json:"subscribers,omitempty"`
	Payload     []byte      `json:"payload"`
}

type headerJSON struct {
	NoPersist flag `json:"no_persist"`
	RedDot    flag `json:"red_dot"`
	SyncOnce  flag `json:"sync_once"`
}

// flag is a bool that is 0 or 1 in JSON.
type flag bool

func (f flag) MarshalJSON() ([]byte, error) {
	if f {
		return []byte("1"), nil
	}
	return []byte("0"), nil
}

func (f *flag) UnmarshalJSON(text []byte) error {
	switch string(text) {
	case "0":
		*f = false
	case "1":
		*f = true
	default:
		return fmt.Errorf("%s is neither 0 nor 1", text)
	}
	return nil
}

// MarshalJSON is the body that the API takes.
func (s Send) MarshalJSON() ([]byte, error) {
	return json.Marshal(sendJSON{
		Header:      headerJSON{NoPersist: flag(s.NoPersist), RedDot: flag(s.RedDot), SyncOnce: flag(s.SyncOnce)},
		ClientMsgNo: s.ClientMsgNo, FromUID: s.FromUID, ChannelID: s.ChannelID, ChannelType: s.ChannelType,
		StreamNo: s.StreamNo, TagKey: s.TagKey, Expire: s.Expire, Subscribers: s.Subscribers, Payload: s.Payload,
	})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Send) UnmarshalJSON(text []byte) error {
	var j sendJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*s = Send{
		ClientMsgNo: j.ClientMsgNo, FromUID: j.FromUID, ChannelID: j.ChannelID, ChannelType: j.ChannelType, Payload: j.Payload,
		NoPersist: bool(j.Header.NoPersist), RedDot: bool(j.Header.RedDot), SyncOnce: bool(j.Header.SyncOnce),
		StreamNo: j.StreamNo, TagKey: j.TagKey, Expire: j.Expire, Subscribers: j.Subscribers,
	}
	return nil
}

// Prepare sets ClientMsgNo if it is empty, and checks it by the server's rules, as far as they are the same on every server. The
// error is an [Error] like the server's. All that send do this themselves.
func (s *Send) Prepare() error {
	if err := s.check(); err != nil {
		return err
	}
	if s.ClientMsgNo != "" {
		return nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("client: make a client_msg_no: %w", err)
	}
	s.ClientMsgNo = id.String()
	return nil
}

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
