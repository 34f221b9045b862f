package queue

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/sendhouse/sendhouse/pkg/client"
)

// Entry is a send in the queue.
type Entry struct {
	Send       client.Send
	EnqueuedAt time.Time

	// uncertainSince is the start of the first try that may have been stored before the send was enqueued; zero if there was none.
	uncertainSince time.Time
	seq            uint64
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
	// Damaged: its record on disk is not what was written; Raw has it.
	Damaged Reason = "damaged"
)

// DeadLetter is a send that the queue has given up.
type DeadLetter struct {
	// ID names the dead letter in this queue.
	ID uint64 `json:"-"`
	// Reason is why it is dead.
	Reason Reason `json:"reason"`
	// Send is what was to be sent; it is empty where Reason is Damaged.
	Send client.Send `json:"send"`
	// EnqueuedAt and DiedAt are when it came, and when it was given up.
	EnqueuedAt time.Time `json:"enqueued_at"`
	DiedAt     time.Time `json:"died_at"`
	// MaybeStored: a try before may have been stored.
	MaybeStored bool `json:"maybe_stored,omitempty"`
	// Status and Code are the server's, where it refused the send; Text is the whole reason, for people.
	Status int    `json:"status,omitempty"`
	Code   string `json:"code,omitempty"`
	Text   string `json:"text,omitempty"`
	// Raw is the record where Reason is Damaged.
	Raw []byte `json:"raw,omitempty"`
}

// entryJSON is an Entry on disk.
type entryJSON struct {
	EnqueuedMS  int64       `json:"enqueued_ms"`
	UncertainMS int64       `json:"uncertain_ms,omitempty"`
	Send        client.Send `json:"send"`
}

const checksumBytes = 4

var errDamaged = errors.New("the record is damaged")

// seal makes a record of v: a checksum (CRC-32C) and its JSON.
func seal(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(nil, checksum(text)), text...), nil
}

// unseal reads what seal made.
func unseal(record []byte, v any) error {
	if len(record) < checksumBytes || binary.BigEndian.Uint32(record) != checksum(record[checksumBytes:]) {
		return errDamaged
	}
	if err := json.Unmarshal(record[checksumBytes:], v); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return nil
}

func checksum(text []byte) uint32 { return crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)) }

func sealEntry(e *Entry) ([]byte, error) {
	return seal(entryJSON{EnqueuedMS: e.EnqueuedAt.UnixMilli(), UncertainMS: unixMilli(e.uncertainSince), Send: e.Send})
}

func unsealEntry(seq uint64, record []byte) (*Entry, error) {
	var j entryJSON
	if err := unseal(record, &j); err != nil {
		return nil, err
	}
	return &Entry{Send: j.Send, EnqueuedAt: time.UnixMilli(j.EnqueuedMS), uncertainSince: fromUnixMilli(j.UncertainMS), seq: seq}, nil
}

// unixMilli is t's milliseconds; 0 is no time.
func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromUnixMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// laneKey names the channel whose order a send keeps. Two channels of one key would only wait for each other.
type laneKey [16]byte

func laneOf(s *client.Send) laneKey {
	channel := s.ChannelID
	if s.ChannelType == client.ChannelPerson {
		// Both sides write into one channel, which either may name as a@b.
		a, b, composed := strings.Cut(channel, "@")
		if !composed {
			b = s.FromUID
		}
		channel = min(a, b) + "@" + max(a, b)
	}
	sum := sha256.Sum256(append([]byte{byte(s.ChannelType)}, channel...))
	return laneKey(sum[:])
}
