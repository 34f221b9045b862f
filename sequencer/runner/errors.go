package runner

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// Sentinels that an Error wraps.
var (
	// ErrMissing: the logs lack what would be needed to continue without giving a
	// sequence number out twice. An operator must restore it.
	ErrMissing = errors.New("the log no longer holds what the state is made from")
	// ErrRefused: a check from outside refuses the partition and says why.
	ErrRefused = errors.New("refused")
	// ErrInvariant: what was read contradicts what the fold says. A bug, or a
	// foreign hand in the streams.
	ErrInvariant = errors.New("invariant broken")
	// errOutputLost: the message log lost more than the outbox still holds. The
	// partition recovers from a checkpoint.
	errOutputLost = errors.New("the message log lost its tail")
	// errOutputAhead: the message log has records that this owner has not derived. Another
	// sequencer is ahead, or something else has published to it; recovery tells which.
	errOutputAhead = errors.New("the message log is ahead")
	// errUnsettled: the message log was written again since the kept checkpoints were thought to be durable.
	errUnsettled = errors.New("the message log's records before the kept checkpoint were lost and are too new again")
	// ErrDamaged: a checkpoint cannot be read back as it was written.
	ErrDamaged = errors.New("damaged checkpoint")
	// ErrNotOwner: the lease has run out.
	ErrNotOwner = errors.New("the lease has run out")
	// errReadAgain: reading the write-ahead log came to a stop. The partition recovers, and refuses if a record is missing.
	errReadAgain = errors.New("reading the write-ahead log stalled")
)

// Error is an error of one partition.
type Error struct {
	Op        string // what was being done
	Partition int
	Err       error
}

// Error says which partition, what was being done, what went wrong, and which command
// mends it, if one does.
func (e *Error) Error() string {
	text := fmt.Sprintf("sequencer: partition %d: %s: %v", e.Partition, e.Op, e.Err)
	var foreign *ForeignRecordError
	if errors.As(e.Err, &foreign) {
		text += fmt.Sprintf("; run `sendhouse repair message-log --partition %d`, which derives the message log again from that record on", e.Partition)
	}
	if errors.Is(e.Err, ErrMissing) {
		text += fmt.Sprintf("; `sendhouse repair wal --partition %d` reports whether the partition can be continued from the message log", e.Partition)
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ForeignRecordError is the error of a record of the message log that is not what the
// write-ahead log makes of the record with the same sequence. It wraps ErrInvariant. A
// stream can neither replace a record nor drop its last one, so no owner can mend it.
type ForeignRecordError struct {
	StreamSeq uint64 // of the first record that is known to be wrong
	Found     string // what it is
	Want      string // what it must be
}

// Error says what stands there and what must.
func (e *ForeignRecordError) Error() string {
	return fmt.Sprintf("%v: record %d of the message log is %s, and the write-ahead log makes %s: something else has published to the message log, or it is damaged", ErrInvariant, e.StreamSeq, e.Found, e.Want)
}

// Unwrap returns ErrInvariant.
func (*ForeignRecordError) Unwrap() error { return ErrInvariant }

// describe tells one record of the message log from another.
func describe(record []byte) string {
	kind := "no batch of messages"
	var batch message.BatchView
	if message.ViewBatch(record, &batch) == nil {
		kind = fmt.Sprintf("a batch of %d messages from partition_seq %d on", len(batch.Messages), batch.First)
	}
	return fmt.Sprintf("%s (%d bytes, CRC32C %08x)", kind, len(record), crc32.Checksum(record, crc32.MakeTable(crc32.Castagnoli)))
}

// Permanent reports whether a retry cannot help.
func Permanent(err error) bool {
	return errors.Is(err, ErrMissing) || errors.Is(err, ErrRefused) || errors.Is(err, ErrInvariant) || errors.Is(err, fold.ErrRule) || errors.Is(err, fold.ErrIDsUsedUp)
}
