package load

import (
	"encoding/base64"
	"strconv"

	"github.com/sendhouse/sendhouse/pkg/message"
)

const (
	payloadHead = `{"type":1,"content":"`
	payloadTail = `"}`
	// envelopeBytesMax is the most that a send has around its payload in a request.
	envelopeBytesMax = 512
	// textBytes is how much random text the contents are cut from, besides the longest of them.
	textBytes = 64 << 10
	// sendersInChannel is how many users write to a group.
	sendersInChannel = 16
)

// script makes the sends of a run. Send n is a function of the run's name, the seed and n, so a
// send need not be remembered to be repeated or verified.
type script struct {
	run      string // in front of every name, so that a run has channels and keys of its own
	seed     uint64
	channels uint32
	zipf     *zipf // nil: uniform
	kind     message.ChannelType
	sizes    PayloadSizes
	text     []byte
}

// send is one of them. Its names are made when it is written.
type send struct {
	n       uint64
	channel uint32
	sender  uint32
	size    int // of the payload
	offset  int // of its content in the text
}

func newScript(cfg Config, run string, seed uint64) *script {
	s := &script{run: run, seed: seed, channels: cfg.Channels, kind: message.ChannelType(cfg.ChannelType), sizes: cfg.PayloadSize}
	if cfg.Zipf > 0 {
		s.zipf = newZipf(cfg.Channels, cfg.Zipf)
	}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789   "
	words := splitMix(seed)
	s.text = make([]byte, textBytes+cfg.PayloadSize.max())
	for i := range s.text {
		s.text[i] = letters[words.next()%uint64(len(letters))]
	}
	return s
}

// send returns send n.
func (s *script) send(n uint64) send {
	words := splitMix(s.seed ^ n*0xd1342543de82ef95)
	out := send{n: n}
	if s.zipf != nil {
		out.channel = s.zipf.rank(&words)
	} else {
		out.channel = uint32(words.next() % uint64(s.channels))
	}
	out.size = s.sizes.pick(words.next(), words.next())
	word := words.next()
	out.offset, out.sender = int(word%textBytes), uint32(word>>32)%sendersInChannel
	return out
}

// appendFrom appends the sender's uid. Each person's channel has a sender of its own, so that two
// numbers are never the same two people.
func (s *script) appendFrom(dst []byte, m send) []byte {
	dst = append(append(dst, s.run...), "-u"...)
	if s.kind == message.ChannelPerson {
		return strconv.AppendUint(dst, uint64(m.channel), 10)
	}
	return strconv.AppendUint(dst, uint64(m.sender), 10)
}

// appendChannelID appends the channel as it is asked for.
func (s *script) appendChannelID(dst []byte, m send) []byte {
	return strconv.AppendUint(append(append(dst, s.run...), "-c"...), uint64(m.channel), 10)
}

// appendChannel appends the channel's canonical name.
func (s *script) appendChannel(dst []byte, m send) []byte {
	if s.kind != message.ChannelPerson {
		return s.appendChannelID(dst, m)
	}
	return append(dst, message.PersonChannel(string(s.appendFrom(nil, m)), string(s.appendChannelID(nil, m)))...)
}

func (s *script) appendKey(dst []byte, m send) []byte {
	return strconv.AppendUint(append(append(dst, s.run...), '-'), m.n, 10)
}

func (s *script) appendPayload(dst []byte, m send) []byte {
	dst = append(dst, payloadHead...)
	dst = append(dst, s.text[m.offset:m.offset+m.size-payloadBytesMin]...)
	return append(dst, payloadTail...)
}

// appendJSON appends the send as a request body. All names are of letters, digits and hyphens.
// scratch is memory to use.
func (s *script) appendJSON(dst []byte, m send, scratch *[]byte) []byte {
	dst = append(dst, `{"header":{"red_dot":1},"client_msg_no":"`...)
	dst = s.appendKey(dst, m)
	dst = append(dst, `","from_uid":"`...)
	dst = s.appendFrom(dst, m)
	dst = append(dst, `","channel_id":"`...)
	dst = s.appendChannelID(dst, m)
	dst = append(dst, `","channel_type":`...)
	dst = strconv.AppendUint(dst, uint64(s.kind), 10)
	dst = append(dst, `,"payload":"`...)
	*scratch = s.appendPayload((*scratch)[:0], m)
	dst = base64.StdEncoding.AppendEncode(dst, *scratch)
	return append(dst, `"}`...)
}
