package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// send is what a client posts, with what it must have become in the end.
type send struct {
	clientMsgNo string
	fromUID     string
	channelID   string // as posted
	channelType message.ChannelType
	redDot      bool
	syncOnce    bool
	streamNo    string
	tagKey      string
	expire      uint32
	subscribers []string
	payload     []byte
}

// answer is what the service gave a send.
type answer struct {
	id  int64
	seq uint64
}

// record is a send that was answered 200.
type record struct {
	send
	answer
	begun    time.Time // before the first try
	answered time.Time // after the first answer
}

// body is the request.
func (s *send) body() []byte {
	type header struct {
		RedDot   int `json:"red_dot"`
		SyncOnce int `json:"sync_once"`
	}
	text, err := json.Marshal(struct {
		Header      header   `json:"header"`
		ClientMsgNo string   `json:"client_msg_no"`
		FromUID     string   `json:"from_uid"`
		ChannelID   string   `json:"channel_id"`
		ChannelType int      `json:"channel_type"`
		StreamNo    string   `json:"stream_no,omitempty"`
		TagKey      string   `json:"tag_key,omitempty"`
		Expire      uint32   `json:"expire,omitempty"`
		Subscribers []string `json:"subscribers,omitempty"`
		Payload     []byte   `json:"payload"`
	}{
		header{flag(s.redDot), flag(s.syncOnce)}, s.clientMsgNo, s.fromUID, s.channelID, int(s.channelType),
		s.streamNo, s.tagKey, s.expire, s.subscribers, s.payload,
	})
	if err != nil {
		panic(err) // strings and numbers
	}
	return text
}

func flag(set bool) int {
	if set {
		return 1
	}
	return 0
}

// channel is where the send goes, by the rule that the API's page gives.
func (s *send) channel() string {
	name := s.channelID
	if s.channelType == message.ChannelPerson {
		name = message.PersonChannel(s.fromUID, s.channelID)
	}
	if s.syncOnce {
		name += message.CommandSuffix
	}
	return name
}

// dice makes sends at random, the same for the same seed.
type dice struct {
	*rand.Rand
	channels int
	bytesMax int    // of a payload; payloadBytesDefault if 0
	prefix   string // of every client_msg_no
	expire   uint32 // of every send, all in one channel; 0 for a mixture
	made     int
}

const payloadBytesDefault = 600

// send makes the next one: mostly plain messages of groups and persons, some with everything that a send can have.
func (d *dice) send() send {
	d.made++
	s := send{
		clientMsgNo: fmt.Sprintf("%s-%d", d.prefix, d.made),
		fromUID:     fmt.Sprintf("u%d", d.IntN(d.channels)),
		redDot:      d.IntN(2) == 0,
		payload:     make([]byte, 1+d.IntN(cmp.Or(d.bytesMax, payloadBytesDefault))),
	}
	for i := range s.payload {
		s.payload[i] = byte(d.Uint32())
	}
	n := d.IntN(d.channels)
	switch d.IntN(4) {
	case 0:
		s.channelID, s.channelType = fmt.Sprintf("u%d", n), message.ChannelPerson
	case 1:
		s.channelID, s.channelType = fmt.Sprintf("群.%d*>\"\\", n), message.ChannelCommunity
	default:
		s.channelID, s.channelType = fmt.Sprintf("g%d", n), message.ChannelGroup
	}
	if d.IntN(8) == 0 {
		s.streamNo, s.tagKey, s.expire = "stream\x01\n", "täg", uint32(1_000_000_000+d.IntN(1000))
	}
	if d.IntN(8) == 0 {
		s.syncOnce, s.subscribers = true, []string{"uid-1", "uid-二"}
	}
	if d.expire > 0 {
		s.channelID, s.channelType, s.syncOnce, s.subscribers, s.expire = "short-lived", message.ChannelGroup, false, nil, d.expire
	}
	return s
}
