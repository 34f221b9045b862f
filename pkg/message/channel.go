package message

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strings"
)

// ChannelType is the kind of a channel, 1 to 255. The numbers are WuKongIM's, and an application may use any other of them as a type of its
// own: it has the rules of a group.
type ChannelType uint32

// The channel types that WuKongIM names.
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

// Valid reports whether t can be the type of a channel. It is one byte on every hop: in the slot, in the fold's names and in ClickHouse.
func (t ChannelType) Valid() bool { return t >= 1 && t <= math.MaxUint8 }

// ChannelTypeRule is what is wrong with a channel_type that is not valid, to follow the name of its field; see [UIDRule].
const ChannelTypeRule = "must be an integer from 1 to 255"

// CommandSuffix is appended to the canonical name of a channel for commands
// (sync_once), which have a sequence of their own.
const CommandSuffix = "____cmd"

// ErrNotAMember is returned where a composed person channel names neither side
// as the sender.
var ErrNotAMember = errors.New("the sender is neither side of the person channel")

// PersonChannel is the canonical name of the person channel of uids a and b. It
// is the same whichever of them comes first: the uid with the larger CRC32
// (IEEE) leads, and on a tie the lexicographically greater one, joined by "@"
// (WuKongIM's GetFakeChannelIDWith).
func PersonChannel(a, b string) string {
	ha, hb := crc32.ChecksumIEEE([]byte(a)), crc32.ChecksumIEEE([]byte(b))
	if ha > hb || (ha == hb && a > b) {
		return a + "@" + b
	}
	return b + "@" + a
}

// CanonicalChannel is the channel that a send of fromUID to channelID goes to.
// For a person channel, channelID is the other side's uid, or the composed
// "a@b" in either order with fromUID as one side (else ErrNotAMember). A command
// goes to the channel's command channel.
//
// It takes the parts as validated; in particular no uid of a person channel may
// hold "@", or two channels could share a name.
func CanonicalChannel(fromUID, channelID string, channelType ChannelType, syncOnce bool) (string, error) {
	if channelType == ChannelPerson {
		other, err := otherSide(fromUID, channelID)
		if err != nil {
			return "", err
		}
		channelID = PersonChannel(fromUID, other)
	}
	if syncOnce {
		channelID += CommandSuffix
	}
	return channelID, nil
}

// TemporaryChannelBytes is the length of the ID of a temporary channel.
const TemporaryChannelBytes = 32

// TemporaryChannel is the name of the channel of a command that names its receivers and no channel: the first 128 bits, in hex, of the SHA-256 of
// the uids, sorted by bytes, each once, and joined by line feeds, which no uid contains. Its type is [ChannelTemporary]. The same receivers have the
// same channel wherever it is computed.
func TemporaryChannel(sorted []string) string {
	h := sha256.New()
	for i, uid := range sorted {
		if i > 0 {
			_, _ = h.Write([]byte{'\n'}) // a hash never fails
		}
		_, _ = h.Write([]byte(uid))
	}
	return hex.EncodeToString(h.Sum(nil)[:TemporaryChannelBytes/2])
}

// Receivers brings the receivers of a command into the form in which a send has them, and [TemporaryChannel] takes them: sorted by bytes, without
// empty ones, each once. It reuses the slice.
func Receivers(uids []string) []string {
	uids = slices.DeleteFunc(uids, func(uid string) bool { return uid == "" })
	slices.Sort(uids)
	return slices.Compact(uids)
}

func otherSide(fromUID, channelID string) (string, error) {
	left, right, composed := strings.Cut(channelID, "@")
	switch {
	case !composed:
		return channelID, nil
	case left == fromUID:
		return right, nil
	case right == fromUID:
		return left, nil
	default:
		return "", fmt.Errorf("channel %q, sender %q: %w", channelID, fromUID, ErrNotAMember)
	}
}
