package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// The file, and its buckets:
//
//	entries  lane (16 bytes) and number (8)  →  record of an Entry
//	marks    lane                            →  number (8) and milliseconds (8): since when a try of this entry may have been stored
//	dead     number (8)                      →  record of a DeadLetter
//	format   "version"                       →  formatVersion
//
// Numbers and times are big-endian, so that they are sorted. A lane's mark is of its first entry, the only one that is ever tried, and is on
// disk before the first try. Where that will follow at once it is written in the transaction in which the entry gets there, at no cost of
// its own. Milliseconds 0 mean that no try can have been stored.
const (
	fileName      = "queue.db"
	formatVersion = "1"
	lockTimeout   = time.Second
	seqBytes      = 8
)

// bucketNames are the buckets.
type bucketNames struct{ entries, marks, dead, format []byte }

func names() bucketNames {
	return bucketNames{[]byte("entries"), []byte("marks"), []byte("dead"), []byte("format")}
}

// store is the file.
type store struct {
	committer
	names bucketNames
}

// openStore opens or makes the file, and locks it.
func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, fileName)
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, FreelistType: bolt.FreelistMapType, NoFreelistSync: true})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("%s: %w", dir, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s := &store{committer: committer{db: db, update: db.Update}, names: names()}
	if err := s.prepare(dir); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

func (s *store) prepare(dir string) error {
	err := s.commit(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{s.names.entries, s.names.marks, s.names.dead, s.names.format} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		format := tx.Bucket(s.names.format)
		switch version := format.Get([]byte("version")); {
		case version == nil:
			return format.Put([]byte("version"), []byte(formatVersion))
		case string(version) != formatVersion:
			return fmt.Errorf("%s has format %s, and this program knows %s", dir, version, formatVersion)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The file is on disk; so must be its name.
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (s *store) close() error { return s.db.Close() }

// found is a lane as a scan finds it.
type found struct {
	key            laneKey
	entries        int
	bytes          int64
	seq            uint64    // of the first entry
	uncertainSince time.Time // the first entry's mark
}

// scan goes through all lanes in order.
func (s *store) scan(now time.Time, each func(found)) (deadLetters int, deadBytes int64, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		var current found
		cursor := tx.Bucket(s.names.entries).Cursor()
		for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
			lane, seq := splitKey(k)
			if lane != current.key {
				if current.entries > 0 {
					each(current)
				}
				// There is always a mark of the first entry. If there were none, to doubt is safe.
				current = found{key: lane, seq: seq, uncertainSince: now}
				if of, since, ok := readMark(tx.Bucket(s.names.marks).Get(lane[:])); ok && of == seq {
					current.uncertainSince = since
				}
			}
			current.entries++
			current.bytes += int64(len(k) + len(v))
		}
		if current.entries > 0 {
			each(current)
		}
		return tx.Bucket(s.names.dead).ForEach(func(k, v []byte) error {
			deadLetters++
			deadBytes += int64(len(k) + len(v))
			return nil
		})
	})
	return deadLetters, deadBytes, err
}

// append adds a record to the end of a lane. Where it is the first, its mark is since; first says so.
func (s *store) append(lane laneKey, record []byte, since time.Time) (first bool, err error) {
	err = s.commit(func(tx *bolt.Tx) error {
		first, err = s.appendIn(tx, lane, record, since)
		return err
	})
	return first, err
}

func (s *store) appendIn(tx *bolt.Tx, lane laneKey, record []byte, since time.Time) (first bool, err error) {
	entries := tx.Bucket(s.names.entries)
	seq, err := entries.NextSequence()
	if err != nil {
		return false, err
	}
	if k, _ := firstOf(entries, lane); k == nil {
		first = true
		if err := tx.Bucket(s.names.marks).Put(lane[:], mark(seq, since)); err != nil {
			return false, err
		}
	}
	return first, entries.Put(joinKey(lane, seq), record)
}

// head gives a copy of the first record of a lane; nil if there is none.
func (s *store) head(lane laneKey) (seq uint64, record []byte, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		if k, v := firstOf(tx.Bucket(s.names.entries), lane); k != nil {
			_, seq = splitKey(k)
			record = bytes.Clone(v)
		}
		return nil
	})
	return seq, record, err
}

// remove takes the first entry out of a lane, and marks the next.
func (s *store) remove(lane laneKey, seq uint64, now time.Time) error {
	return s.commit(func(tx *bolt.Tx) error { return s.removeIn(tx, lane, seq, now) })
}

func (s *store) removeIn(tx *bolt.Tx, lane laneKey, seq uint64, now time.Time) error {
	entries, marks := tx.Bucket(s.names.entries), tx.Bucket(s.names.marks)
	if err := entries.Delete(joinKey(lane, seq)); err != nil {
		return err
	}
	k, _ := firstOf(entries, lane)
	if k == nil {
		return marks.Delete(lane[:])
	}
	_, next := splitKey(k)
	return marks.Put(lane[:], mark(next, now))
}

// bury makes the first entry of a lane a dead letter. Where that failed before, last is the ID that it gave, or else 0; after an error too
// the ID counts for the next attempt.
func (s *store) bury(lane laneKey, seq uint64, record []byte, now time.Time, last uint64) (id uint64, err error) {
	id = last
	err = s.commit(func(tx *bolt.Tx) error {
		if tx.Bucket(s.names.entries).Get(joinKey(lane, seq)) == nil {
			return nil // the commit that failed is on disk all the same
		}
		dead := tx.Bucket(s.names.dead)
		var err error
		if id, err = dead.NextSequence(); err != nil {
			return err
		}
		if err := dead.Put(seqKey(id), record); err != nil {
			return err
		}
		return s.removeIn(tx, lane, seq, now)
	})
	return id, err
}

// mark writes the mark of a lane's first entry.
func (s *store) mark(lane laneKey, seq uint64, since time.Time) error {
	return s.commit(func(tx *bolt.Tx) error {
		return tx.Bucket(s.names.marks).Put(lane[:], mark(seq, since))
	})
}

// unmark says of the first entries of lanes that no try can have been stored.
func (s *store) unmark(lanes []*lane) error {
	return s.commit(func(tx *bolt.Tx) error {
		marks := tx.Bucket(s.names.marks)
		for _, one := range lanes {
			seq, _, ok := readMark(marks.Get(one.key[:]))
			if !ok {
				continue // it has nothing any more
			}
			if err := marks.Put(one.key[:], mark(seq, time.Time{})); err != nil {
				return err
			}
		}
		return nil
	})
}

// deadAfter gives up to max dead letters behind an ID, in order, as records.
func (s *store) deadAfter(id uint64, most int, each func(id uint64, record []byte)) error {
	return s.db.View(func(tx *bolt.Tx) error {
		cursor := tx.Bucket(s.names.dead).Cursor()
		for k, v := cursor.Seek(seqKey(id + 1)); k != nil && most > 0; k, v = cursor.Next() {
			each(binary.BigEndian.Uint64(k), bytes.Clone(v))
			most--
		}
		return nil
	})
}

// dropDead removes a dead letter, and says how many bytes it was; 0 if it was not there. In its place it enqueues a record, if there is one.
func (s *store) dropDead(id uint64, lane laneKey, record []byte) (size int64, err error) {
	err = s.commit(func(tx *bolt.Tx) error {
		dead := tx.Bucket(s.names.dead)
		old := dead.Get(seqKey(id))
		if old == nil {
			return nil
		}
		size = int64(seqBytes + len(old))
		if err := dead.Delete(seqKey(id)); err != nil || record == nil {
			return err
		}
		_, err := s.appendIn(tx, lane, record, time.Time{})
		return err
	})
	return size, err
}

func firstOf(entries *bolt.Bucket, lane laneKey) (k, v []byte) {
	k, v = entries.Cursor().Seek(lane[:])
	if !bytes.HasPrefix(k, lane[:]) {
		return nil, nil
	}
	return k, v
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

func joinKey(lane laneKey, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, len(lane)+seqBytes), lane[:]...), seq)
}

func splitKey(k []byte) (lane laneKey, seq uint64) {
	return laneKey(k[:len(lane)]), binary.BigEndian.Uint64(k[len(lane):])
}

func mark(seq uint64, since time.Time) []byte {
	return binary.BigEndian.AppendUint64(seqKey(seq), uint64(unixMilli(since)))
}

func readMark(v []byte) (seq uint64, since time.Time, ok bool) {
	if len(v) != 2*seqBytes {
		return 0, time.Time{}, false
	}
	return binary.BigEndian.Uint64(v), fromUnixMilli(int64(binary.BigEndian.Uint64(v[seqBytes:]))), true
}
