package sequencer

import (
	"context"
	"time"

	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// The ports are what a partition needs of the world. On the real system NATS is
// behind all of them (natslog.go, checkpoint.go).

// record is one record of the write-ahead log and the subject that its answer
// goes to, empty where nobody waits.
type record struct {
	fold.Record
	ReplyTo string
}

// output is one message on its way into the message log.
type output struct {
	Seq      uint64 // the stream sequence that it must get
	WALSeq   uint64
	WALIndex uint32
	Subject  string
	Data     []byte // an encoded Message
}

// bounds are the first and last stream sequence of a stream. Of an empty stream
// first is last+1.
type bounds struct{ First, Last uint64 }

// tail is the end of the message log. Where the last message is no longer kept,
// Found is false and only Seq is known.
type tail struct {
	Seq      uint64
	Found    bool
	WALSeq   uint64
	WALIndex uint32
}

// walReader reads the write-ahead log in order.
type walReader interface {
	// Next blocks until there is a record or ctx ends.
	Next(ctx context.Context) (record, error)
	Stop()
}

// logs are the streams of one partition.
type logs interface {
	WALBounds(ctx context.Context) (bounds, error)
	ReadWAL(ctx context.Context, from uint64) (walReader, error)
	// TrimWAL drops the records before first.
	TrimWAL(ctx context.Context, first uint64) error

	// OutputTail asks the message log's leader.
	OutputTail(ctx context.Context) (tail, error)
	// Append sends a message on the condition that the log's last sequence is the
	// one before the message's. It does not wait. Only with ack set does the
	// outcome come back, to the function given to OnAck: since each message is
	// conditional on the one before, the word on the last speaks for all.
	Append(m *output, ack bool) error
	OnAck(func(seq uint64, err error))

	// Answer and Live publish at most once.
	Answer(subject string, answers []byte) error
	Live(subject string, message []byte) error
}

// checkpointMeta describes a stored checkpoint.
type checkpointMeta struct {
	Object  string    `json:"object"`
	WALSeq  uint64    `json:"wal_seq"`
	Output  uint64    `json:"output"`
	Bytes   int64     `json:"bytes"`
	CRC32C  uint32    `json:"crc32c"`
	TakenAt time.Time `json:"taken_at"`
}

// checkpoints keeps the newest two checkpoints of one partition.
type checkpoints interface {
	// List gives them, newest first.
	List(ctx context.Context) ([]checkpointMeta, error)
	// Load reads a state back; damage is an error that wraps errDamaged.
	Load(ctx context.Context, meta checkpointMeta, params fold.Params) (*fold.State, error)
	// Save stores a snapshot in place of the older one and returns what is kept
	// then, newest first.
	Save(ctx context.Context, snapshot *fold.Snapshot, takenAt time.Time) ([]checkpointMeta, error)
}
