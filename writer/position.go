package writer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// positionVersion is the format version of the record. Records of other versions are left alone.
const positionVersion = 1

// lostRangesMax limits the number of lost ranges in a record; the count covers all.
const lostRangesMax = 16

// position is the record of one partition in the writer's bucket: how far the message log is in ClickHouse, and what is
// being inserted. It changes only by compare-and-set, so if two writers both believe that they own the partition, one
// is refused.
type position struct {
	Version int `json:"version"`
	// Writer is the process that wrote the record. It distinguishes our own write, whose acknowledgement was lost, from
	// another writer's.
	Writer string `json:"writer"`
	// StreamCreated is the creation time of the stream that the partition_seqs belong to.
	StreamCreated time.Time `json:"stream_created"`
	// Table is the table that Done and Pending belong to; nil in a record of a version that did not record it.
	Table *clickhouse.TableID `json:"table,omitempty"`
	// Done is the last partition_seq whose message is in ClickHouse, is a dead letter, or is lost; 0 if there is none.
	Done uint64 `json:"done"`
	// DoneDigest is the digest of the message at Done, 0 if unknown. The stream must still have the same message there.
	DoneDigest uint64 `json:"done_digest,omitempty,string"`
	// DoneRecord is the stream_seq of the record that holds the message at Done, 0 if unknown.
	DoneRecord uint64 `json:"done_record,omitempty"`
	// Pending is the range that is being inserted, nil if none. It starts at Done+1.
	Pending *pendingRange `json:"pending,omitempty"`
	// LostMessages counts messages that disappeared from the stream before they could be inserted; Lost holds the
	// latest ranges of them.
	LostMessages uint64     `json:"lost_messages,omitempty"`
	Lost         []seqRange `json:"lost,omitempty"`

	revision uint64 // of the record in the bucket, 0 if there is none yet
}

// pendingRange is a batch with its final limits and token.
type pendingRange struct {
	seqRange
	// Rows is the number of rows; it is less than the range's length if some records are dead letters.
	Rows int `json:"rows"`
	// Digest is the digest of all records in the range: records that are read again must match it.
	Digest uint64 `json:"digest,string"`
	// Token is the deduplication token of the insert.
	Token string `json:"token"`
}

// seqRange is a range of partition_seqs, both ends included.
type seqRange struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

func (s seqRange) count() uint64  { return s.Last - s.First + 1 }
func (s seqRange) String() string { return fmt.Sprintf("%d-%d", s.First, s.Last) }

// tokenOf returns the deduplication token of a range: the stream, its creation time and the range, so that no two
// different batches share one.
func tokenOf(stream string, created time.Time, r seqRange) string {
	return stream + "/" + created.UTC().Format(time.RFC3339Nano) + "/" + r.String()
}

// moved records that everything up to a partition_seq is done.
func (p *position) moved(done, digest, record uint64) {
	p.Done, p.DoneDigest, p.DoneRecord = done, digest, record
}

func (p *position) lose(r seqRange) {
	p.LostMessages += r.count()
	p.Lost = append(p.Lost, r)
	if extra := len(p.Lost) - lostRangesMax; extra > 0 {
		p.Lost = p.Lost[extra:]
	}
}

// errFenced reports that another writer has moved the position.
var errFenced = errors.New("another writer has moved this partition's position")

// bucket is the part of the key-value bucket that positions use.
type bucket interface {
	Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error)
	Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (uint64, error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
}

// positions reads and writes the record of one partition.
type positions struct {
	kv      bucket
	key     string
	writer  string
	timeout time.Duration
	wait    func(ctx context.Context, attempt int, err error) error // waits between attempts
}

// load reads the record. If there is none, it returns a position at the start with revision 0.
func (s *positions) load(ctx context.Context) (position, error) {
	entry, err := s.get(ctx)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return position{Version: positionVersion}, nil
	}
	if err != nil {
		return position{}, fmt.Errorf("read position %s: %w", s.key, err)
	}
	var p position
	if err := json.Unmarshal(entry.Value(), &p); err != nil {
		return position{}, fmt.Errorf("position %s is damaged: %w", s.key, err)
	}
	if err := p.check(); err != nil {
		return position{}, fmt.Errorf("position %s: %w", s.key, err)
	}
	p.revision = entry.Revision()
	return p, nil
}

func (p *position) check() error {
	switch {
	case p.Version != positionVersion:
		return fmt.Errorf("version %d is unsupported; this program supports %d", p.Version, positionVersion)
	case p.Pending != nil && (p.Pending.First != p.Done+1 || p.Pending.Last < p.Pending.First || p.Pending.Token == ""):
		return fmt.Errorf("pending range %s does not follow the last message done, %d", p.Pending, p.Done)
	default:
		return nil
	}
}

func (s *positions) get(ctx context.Context) (jetstream.KeyValueEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return s.kv.Get(ctx, s.key) //nolint:wrapcheck // the callers say what was being done
}

// save replaces the record that p was loaded from, or last saved to, and sets p's new revision. It returns errFenced if
// the record has changed in between. While NATS is unreachable it retries until ctx ends; it recognises a write whose
// acknowledgement was lost.
func (s *positions) save(ctx context.Context, p *position) error {
	p.Writer = s.writer
	if err := p.check(); err != nil {
		panic(fmt.Sprintf("writer: position %s: %v", s.key, err)) // only a bug gets here
	}
	value, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode position %s: %w", s.key, err)
	}
	for attempt := 0; ; attempt++ {
		revision, err := s.update(ctx, value, p.revision)
		if err != nil {
			revision, err = s.outcome(ctx, value, p.revision, err)
		}
		switch {
		case err == nil:
			p.revision = revision
			return nil
		case errors.Is(err, errFenced), ctx.Err() != nil:
			return err
		}
		if s.wait(ctx, attempt, err) != nil {
			return err
		}
	}
}

func (s *positions) update(ctx context.Context, value []byte, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var err error
	if revision == 0 {
		revision, err = s.kv.Create(ctx, s.key, value)
	} else {
		revision, err = s.kv.Update(ctx, s.key, value, revision)
	}
	if err != nil {
		return 0, fmt.Errorf("write position %s: %w", s.key, err)
	}
	return revision, nil
}

// outcome determines the result of a write that failed: the record is what we wrote and only the acknowledgement was
// lost, or it is unchanged and updateErr stands, or another writer has changed it.
func (s *positions) outcome(ctx context.Context, value []byte, before uint64, updateErr error) (uint64, error) {
	entry, err := s.get(ctx)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound) && before == 0:
		return 0, updateErr
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return 0, fmt.Errorf("%w: the record %s was deleted", errFenced, s.key)
	case err != nil:
		return 0, fmt.Errorf("%w; then read position %s: %w", updateErr, s.key, err)
	case bytes.Equal(entry.Value(), value):
		return entry.Revision(), nil
	case entry.Revision() == before:
		return 0, updateErr
	default:
		return 0, errFenced
	}
}
