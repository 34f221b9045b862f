package runner

import (
	"context"
	"time"

	"github.com/sendhouse/sendhouse/pkg/tracing"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// The ports are what a partition needs of the world. In production NATS
// implements all of them (packages natslog and checkpoint).

// Record is one record of the write-ahead log and the subject that its answer
// goes to; empty if no answer is expected.
type Record struct {
	fold.Record
	ReplyTo string
	Traced  tracing.Samples // of its sends; nothing of the fold depends on it
}

// Derived is a record on its way into the message log: what the record of the write-ahead log with the same stream
// sequence became.
type Derived struct {
	StreamSeq uint64 // which the message log must give it
	Messages  int    // how many it holds
	Data      []byte // an encoded MessageBatch
	// Traced goes beside it where sends are traced, by the places of their messages in the record. A
	// record that is derived again may lack it.
	Traced tracing.Samples
}

// Bounds are the first and last stream sequence of a stream, and its size. Of an
// empty stream First is Last+1. BytesMax is 0 if there is no limit.
type Bounds struct {
	First, Last     uint64
	Bytes, BytesMax uint64
	Time            time.Time // of the leader's clock when it answered; zero if it does not tell
}

// Tail is the end of the message log: the last record before which, from a given one
// on, none is missing. If that record is no longer kept, Found is false and only
// StreamSeq is known.
type Tail struct {
	StreamSeq uint64
	Found     bool
	Data      []byte
	// Beyond is the log's last stream sequence if records between StreamSeq and it are missing, as
	// after a power loss; else 0. Nothing can be appended until the log is cut at StreamSeq.
	Beyond uint64
	// Missing counts older records that are not there, between ones that are. They
	// cannot be derived again.
	Missing uint64
}

// Reader reads the write-ahead log in order.
type Reader interface {
	// Next blocks until there is a record or ctx ends.
	Next(ctx context.Context) (Record, error)
	Stop()
}

// Logs are the streams of one partition.
type Logs interface {
	WALBounds(ctx context.Context) (Bounds, error)
	// WALMissing asks the leader for the first record, from the record since on, that is not in the write-ahead log although
	// older and newer ones are or were; 0 if there is none.
	WALMissing(ctx context.Context, since uint64) (uint64, error)
	ReadWAL(ctx context.Context, from uint64) (Reader, error)
	// TrimWAL drops the records before first.
	TrimWAL(ctx context.Context, first uint64) error

	// What begins with Output asks the message log's leader. OutputTail looks for missing records from the
	// record since on. OutputFrontLost reports whether some of them are missing from the front, for another reason
	// than the log's limits. CutOutput removes all records after last. OutputTime is when the log took a record, which
	// tells it from the same record written again after a loss; zero where retention has dropped it. ok is false
	// where the log does not reach it.
	OutputTail(ctx context.Context, since uint64) (Tail, error)
	OutputFrontLost(ctx context.Context, since uint64) (bool, error)
	CutOutput(ctx context.Context, last uint64) error
	OutputTime(ctx context.Context, streamSeq uint64) (at time.Time, ok bool, err error)
	// Append sends a record on the condition that the log's last sequence is the
	// one before the record's. It does not wait. Only with ack set does the
	// outcome come back, to the function given to OnAck: since each record is
	// conditional on the one before, the word on the last speaks for all.
	Append(r *Derived, ack bool) error
	OnAck(func(streamSeq uint64, err error))

	// Answer and Live publish at most once.
	Answer(subject string, answers []byte) error
	Live(subject string, message []byte) error
}

// CheckpointMeta describes a stored checkpoint.
type CheckpointMeta struct {
	Object       string    `json:"object"`
	WALSeq       uint64    `json:"wal_seq"`
	PartitionSeq uint64    `json:"output"`
	Bytes        int64     `json:"bytes"`
	CRC32C       uint32    `json:"crc32c"`
	TakenAt      time.Time `json:"taken_at"`
}

// same reports whether two describe one checkpoint.
func (m CheckpointMeta) same(other CheckpointMeta) bool {
	return m.Object == other.Object && m.CRC32C == other.CRC32C && m.TakenAt.Equal(other.TakenAt)
}

// Kept are the checkpoints of a partition that are kept.
type Kept struct {
	Metas   []CheckpointMeta // newest first, at most two
	Version uint64           // grows with every claim and every checkpoint, of any owner
	Claim   uint64           // the version that this owner's claim made
	// Damaged is set if the pointer to them was damaged or gone, and they were found from
	// what is stored.
	Damaged error
}

// Checkpoints keeps two checkpoints of one partition.
type Checkpoints interface {
	List(ctx context.Context) (Kept, error)
	// Claim lists them and makes a new version, so that an owner that does not know of it
	// cannot store a checkpoint. It fails if another was faster.
	Claim(ctx context.Context) (Kept, error)
	// Load reads a state back; damage is an error that wraps ErrDamaged.
	Load(ctx context.Context, meta CheckpointMeta, params fold.Params) (*fold.State, error)
	// Save stores a snapshot, keeps the given one beside it, if any, and drops the
	// rest; it returns what is kept then. It refuses where anybody made a version since
	// the one that was seen, which is of Claim or Save.
	Save(ctx context.Context, snapshot *fold.Snapshot, takenAt time.Time, seen Kept, beside *CheckpointMeta) (Kept, error)
}
