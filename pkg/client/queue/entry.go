package queue

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/client/internal/journal"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// Entry is a send in the queue.
type Entry struct {
	// Number names the send in this queue. Numbers grow.
	Number     uint64
	Send       client.Send
	EnqueuedAt time.Time
}

// Reason is why a send became a dead letter.
type Reason string

// The reasons.
const (
	// Refused: the server will not have it; Status, Code and Text say why.
	Refused Reason = "refused"
	// Expired: it had waited for Config.AgeMax.
	Expired Reason = "expired"
	// Uncertain: a try may have been stored, so long ago that another could store it twice; see the package's comment.
	Uncertain Reason = "uncertain"
	// Damaged: a part of the queue's files could not be read; Text says which.
	Damaged Reason = "damaged"
)

// DeadLetter is a send that the queue has given up.
type DeadLetter struct {
	// Number is that of the entry.
	Number uint64 `json:"-"`
	// Reason is why it is dead.
	Reason Reason `json:"reason"`
	// Send is what was to be sent; it is empty if Reason is Damaged.
	Send client.Send `json:"send"`
	// EnqueuedAt and DiedAt are when it came, and when it was given up.
	EnqueuedAt time.Time `json:"enqueued_at"`
	DiedAt     time.Time `json:"died_at"`
	// MaybeStored: a try may have been stored, the first at MaybeStoredSince.
	MaybeStored      bool      `json:"maybe_stored,omitempty"`
	MaybeStoredSince time.Time `json:"maybe_stored_since,omitzero"`
	// Status and Code are the server's, if it refused the send; Text is the whole reason, for people.
	Status int    `json:"status,omitempty"`
	Code   string `json:"code,omitempty"`
	Text   string `json:"text,omitempty"`
}

// The records of the journal. Numbers are big-endian; since is in Unix seconds, 0 meaning that no try can have been stored.
//
//	put   lane | number | since | length (1; 0 means 256) and client_msg_no | the send's JSON, as the API takes it
//	mark  lane | first | last | since: tries of these entries begin now, or, since 0, none of them is stored
//	gone  lane | last: the entries up to this one have been delivered
//	dead  lane | number | since | a DeadLetter's JSON, in place of the entry
//	drop  number: the dead letter is removed
const (
	kindPut byte = iota + 1
	kindMark
	kindGone
	kindDead
	kindDrop
)

// itemHeadBytes is what a put or a dead record has before its JSON.
const itemHeadBytes = len(laneKey{}) + 8 + 4

// putKeyBytesMax is the longest client_msg_no that a put record can have. It is a part of the format.
const putKeyBytesMax = 256

const _ = uint(putKeyBytesMax - message.ClientMsgNoBytesMax) // does not compile if the API takes longer ones

// item is an entry, or a dead letter, as memory has it. A queue of a million keeps a million of these, so it is small and without pointers.
type item struct {
	number uint64
	at     journal.Pos
	since  uint32 // Unix seconds: when the first try that may be stored began; 0: there is none
}

func (i item) bytes() int64 { return int64(i.at.Length) }

func itemHead(key laneKey, number uint64, since uint32) []byte {
	head := append(make([]byte, 0, itemHeadBytes), key[:]...)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(head, number), since)
}

// putBody is what follows the head of a put record. Every send has a client_msg_no of 1 to 256 bytes, so one byte holds its length.
func putBody(s *client.Send, text []byte) []byte {
	body := append(make([]byte, 0, 1+len(s.ClientMsgNo)+len(text)), byte(len(s.ClientMsgNo)))
	return append(append(body, s.ClientMsgNo...), text...)
}

// splitPut reads the client_msg_no and the JSON of a put record.
func splitPut(record []byte) (no string, text []byte) {
	record = record[itemHeadBytes:]
	n := 1 + int(record[0])
	if n == 1 {
		n += putKeyBytesMax
	}
	return string(record[1:n]), record[n:]
}

func markRecord(key laneKey, first, last uint64, since uint32) []byte {
	record := binary.BigEndian.AppendUint64(append(make([]byte, 0, len(key)+8+8+4), key[:]...), first)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(record, last), since)
}

func goneRecord(key laneKey, last uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, len(key)+8), key[:]...), last)
}

// fields reads the parts of a record that follow the lane.
type fields []byte

func (f *fields) key() (key laneKey) {
	*f = (*f)[copy(key[:], *f):]
	return key
}

func (f *fields) u64() uint64 {
	v := binary.BigEndian.Uint64(*f)
	*f = (*f)[8:]
	return v
}

func (f *fields) u32() uint32 {
	v := binary.BigEndian.Uint32(*f)
	*f = (*f)[4:]
	return v
}

// secondsOf rounds a time down, so that an age is never too small.
func secondsOf(ms int64) uint32 { return uint32(ms / 1000) }

// entryOf decodes the record of an entry.
func entryOf(number uint64, text []byte) (Entry, error) {
	e := Entry{Number: number, EnqueuedAt: time.UnixMilli(msOf(number))}
	return e, json.Unmarshal(text, &e.Send)
}

// laneKey names the channel whose order a send keeps. Two channels of one key would only wait for each other.
type laneKey [16]byte

func laneOf(s *client.Send) laneKey {
	channel := s.ChannelID
	switch {
	case s.ChannelType == client.ChannelPerson:
		// Both sides write into one channel, which either may name as a@b.
		a, b, composed := strings.Cut(channel, "@")
		if !composed {
			b = s.FromUID
		}
		channel = min(a, b) + "@" + max(a, b)
	case channel == "": // the server names it by its receivers
		uids := slices.DeleteFunc(slices.Clone(s.Subscribers), func(uid string) bool { return uid == "" })
		slices.Sort(uids)
		channel = strings.Join(slices.Compact(uids), "\n")
	}
	sum := sha256.Sum256(append([]byte{byte(s.ChannelType)}, channel...))
	return laneKey(sum[:])
}

var errNotThere = errors.New("there is no such dead letter")
