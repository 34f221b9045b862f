// Package journal keeps records in segment files, in order, and survives what may happen to the files.
//
// Callers of Commit share a write and a sync (group commit). Each caller's records are a transaction: after a crash all of them are there or
// none. Records are applied, by one function, in the order in which they stand in the files: when they are on disk, and again when the files
// are read. So what the caller keeps in memory is a fold of what is on disk, and cannot be anything else.
//
// # Segments
//
// A segment is a file NNNNNNNNNN.log. Only the last one is written to. Room is won back at the other end: the oldest segment is deleted, after
// the records of it that still count have been written again at the end. Since only the oldest one goes, a record that takes another one back
// outlives it.
//
// # Damage
//
// Each frame has a checksum, and its first bytes can be searched for. A region that cannot be read costs the records in it and no others. A
// region at the end of a segment that no later batch follows was never synced: it is what a crash leaves of a write, and is cut off. Any other
// is damage. Config.Damaged learns of it between the records before and those after. When all has been read, everything that counts is written
// to new segments, and the damaged ones are renamed (NNNNNNNNNN.log.damaged-DATE) and kept.
//
// A file that was cut at its very end, between two batches, looks like a file that was never longer, and is not noticed. Every other segment's
// length is recorded in the next one.
package journal

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Reasons for which a record is not to be had.
var (
	// ErrGone: the folder or a file of it was deleted or replaced while it was in use. It does not pass.
	ErrGone = errors.New("the files have been deleted or replaced")
	// ErrDamaged: the record is not what was written.
	ErrDamaged = errors.New("the record is damaged")
)

const (
	suffix        = ".log"
	commitsMax    = 4096    // transactions of one batch
	batchBytesMax = 4 << 20 // after which no further transaction joins a batch
	readBytesMax  = 1 << 20 // of one read of records that are near each other
	readGapMax    = 1 << 10 // between two of those
)

// Pos is where a record is.
type Pos struct{ Segment, Offset, Length uint32 }

// Damage is a region that cannot be read.
type Damage struct {
	File   string // under the name that it has now
	Offset int64
	Bytes  int64 // 0: not known
	Reason string
}

// Config is what a journal needs of its caller. The functions are called by one goroutine at a time.
type Config struct {
	Dir          string
	SegmentBytes int64 // after which a new segment begins
	// Apply takes in a record that is on disk. Body is the caller's for the time of the call.
	Apply func(kind byte, body []byte, at Pos)
	// Live returns how many bytes of a segment, of whole frames, still count.
	Live func(segment uint32) int64
	// Keep returns what to write in place of a record whose segment is to be deleted, and whether it still counts.
	Keep func(kind byte, body []byte, at Pos) ([]byte, bool)
	// Damaged receives a damage after the records before it have been applied.
	Damaged func(Damage)
	// Excess reports whether files of so many bytes are more than what counts in them justifies.
	Excess func(bytes int64) bool
	// Write writes and syncs; nil: as it should be. Tests have it fail.
	Write func(f *os.File, b []byte, at int64) error
}

type segment struct {
	number  uint32
	file    *os.File
	path    string
	bytes   int64  // on disk for certain
	damaged string // the name that it is to have then; "" if it is whole
	torn    bool   // a write to it was cut off, in the middle of the file
}

// Journal is a folder of segments. It must not be open twice.
type Journal struct {
	cfg Config

	mu      sync.Mutex // of what waits
	waiting []*change
	busy    bool

	files    sync.RWMutex // of segments; only the one who commits changes them
	segments []*segment
	bytes    atomic.Int64
	broken   bool // a write to the last segment failed: what follows goes to a new one
	failed   error
	batch    Batch
}

// Batch collects the records of a transaction.
type Batch struct {
	bytes []byte
	ends  []int // of the frames
	more  []bool
}

// Add appends a record whose body is the parts, one after the other.
func (b *Batch) Add(kind byte, parts ...[]byte) {
	b.bytes = appendFrame(b.bytes, kind, parts...)
	b.ends = append(b.ends, len(b.bytes))
	b.more = append(b.more, true)
}

// endTransaction is called when all records of one are in it.
func (b *Batch) endTransaction() {
	if n := len(b.more); n > 0 {
		b.more[n-1] = false
	}
}

func (b *Batch) reset() {
	if cap(b.bytes) > 2*batchBytesMax {
		b.bytes = nil
	}
	b.bytes, b.ends, b.more = b.bytes[:0], b.ends[:0], b.more[:0]
}

func (b *Batch) seal(segment uint32) {
	start := 0
	for i, end := range b.ends {
		var flags byte
		if i == 0 {
			flags = flagBatch
		}
		if b.more[i] {
			flags |= flagMore
		}
		seal(b.bytes[start:end], segment, flags)
		start = end
	}
}

// change is what one caller wants done.
type change struct {
	fill func(*Batch)
	turn chan turn
}

// turn tells a waiting caller that its transaction is over, or that it is to commit.
type turn struct {
	lead bool
	err  error
}

// Commit returns when the records that fill adds are on disk and applied. Transactions happen in the order in which Commit was called, and fill is
// called in that order too. After an error the records may be on disk or not, and have not been applied.
func (j *Journal) Commit(fill func(*Batch)) error {
	own := &change{fill: fill, turn: make(chan turn, 1)}
	j.mu.Lock()
	j.waiting = append(j.waiting, own)
	lead := !j.busy
	j.busy = true
	j.mu.Unlock()
	if !lead {
		if t := <-own.turn; !t.lead {
			return t.err
		}
	}
	return j.lead(own)
}

// lead commits what waits, own in front, and passes the lead on.
func (j *Journal) lead(own *change) error {
	j.mu.Lock()
	all := j.waiting[:min(len(j.waiting), commitsMax)]
	j.mu.Unlock()
	j.batch.reset()
	n := 0
	for n < len(all) && len(j.batch.bytes) < batchBytesMax {
		all[n].fill(&j.batch)
		j.batch.endTransaction()
		n++
	}
	err := j.commit(&j.batch)
	for _, one := range all[:n] {
		if one != own {
			one.turn <- turn{err: err}
		}
	}
	j.tidy()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.waiting = slices.Delete(j.waiting, 0, n)
	if len(j.waiting) == 0 {
		j.busy = false
	} else {
		j.waiting[0].turn <- turn{lead: true}
	}
	return err
}

// commit writes a batch and applies it.
func (j *Journal) commit(b *Batch) error {
	if j.failed != nil {
		return j.failed
	}
	if len(b.ends) == 0 {
		return nil
	}
	last := j.last()
	if j.broken || last.bytes+int64(len(b.bytes)) > j.cfg.SegmentBytes && last.bytes > headerBytes+headBytes {
		if err := j.rotate(); err != nil {
			return err
		}
		last = j.last()
	}
	b.seal(last.number)
	if err := j.cfg.Write(last.file, b.bytes, last.bytes); err != nil {
		// What is on disk past the length that counts is unknown. The next segment records that length, and nothing past it is read.
		j.broken = true
		return fmt.Errorf("write %s: %w", last.path, err)
	}
	if err := last.linked(); err != nil {
		j.failed = err
		return err
	}
	start := 0
	for _, end := range b.ends {
		j.cfg.Apply(b.bytes[start+12], b.bytes[start+headerBytes:end], Pos{last.number, uint32(last.bytes) + uint32(start), uint32(end - start)})
		start = end
	}
	last.bytes += int64(len(b.bytes))
	j.bytes.Add(int64(len(b.bytes)))
	return nil
}

// linked checks that the file still has its name: a deleted one takes everything and keeps nothing.
func (s *segment) linked() error {
	named, err := os.Stat(s.path)
	if err == nil {
		var open os.FileInfo
		if open, err = s.file.Stat(); err == nil && os.SameFile(named, open) {
			return nil
		}
	}
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", s.path, ErrGone)
	}
	return fmt.Errorf("look for %s: %w", s.path, err)
}

func (j *Journal) last() *segment { return j.segments[len(j.segments)-1] }

// rotate begins a new segment. Its first frame is synced together with the first batch.
func (j *Journal) rotate() error {
	number, before := uint32(1), int64(0)
	if len(j.segments) > 0 {
		number, before = j.last().number+1, j.last().bytes
		if err := j.last().linked(); err != nil {
			j.failed = err
			return err
		}
	}
	path := filepath.Join(j.cfg.Dir, fmt.Sprintf("%010d%s", number, suffix))
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("begin a segment: %w", err)
	}
	head := appendFrame(nil, kindHead, []byte{headVersion}, binary.BigEndian.AppendUint64(nil, uint64(before)))
	seal(head, number, flagBatch)
	if err = j.cfg.Write(file, head, 0); err == nil {
		err = syncDir(j.cfg.Dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("begin segment %s: %w", path, err), file.Close(), os.Remove(path))
	}
	j.files.Lock()
	j.segments = append(j.segments, &segment{number: number, file: file, path: path, bytes: int64(len(head))})
	j.files.Unlock()
	j.bytes.Add(int64(len(head)))
	j.broken = false
	return nil
}

// WriteAndSync is the usual Config.Write.
func WriteAndSync(f *os.File, b []byte, at int64) error {
	if _, err := f.WriteAt(b, at); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// Bytes is the size of all segments.
func (j *Journal) Bytes() int64 { return j.bytes.Load() }

// Read reads the body of a record. An error other than [ErrDamaged] may pass.
func (j *Journal) Read(at Pos) ([]byte, error) {
	j.files.RLock()
	defer j.files.RUnlock() // so that the file is not closed meanwhile
	s := j.segment(at.Segment)
	if s == nil {
		return nil, fmt.Errorf("%w: segment %d was set aside", ErrDamaged, at.Segment)
	}
	buf := make([]byte, at.Length)
	if n, err := s.file.ReadAt(buf, int64(at.Offset)); n < len(buf) {
		return nil, fmt.Errorf("read %s at %d: %w", s.path, at.Offset, err)
	}
	f, ok := parse(buf, at.Segment)
	if !ok {
		return nil, fmt.Errorf("%s at %d: %w", s.path, at.Offset, ErrDamaged)
	}
	return f.body, nil
}

// ReadAll reads the bodies of records, those that are near each other in one read of the file. Those that it cannot read are nil: Read says why.
func (j *Journal) ReadAll(places []Pos) [][]byte {
	order := make([]int, len(places))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(places[a].Segment, places[b].Segment), cmp.Compare(places[a].Offset, places[b].Offset))
	})
	bodies := make([][]byte, len(places))
	j.files.RLock()
	defer j.files.RUnlock() // so that no file is closed meanwhile
	for len(order) > 0 {
		first, n := places[order[0]], 1
		end := int64(first.Offset) + int64(first.Length)
		for ; n < len(order); n++ {
			at := places[order[n]]
			if at.Segment != first.Segment || int64(at.Offset) > end+readGapMax || int64(at.Offset)-int64(first.Offset) > readBytesMax {
				break
			}
			end = max(end, int64(at.Offset)+int64(at.Length))
		}
		if s := j.segment(first.Segment); s != nil {
			buf := make([]byte, end-int64(first.Offset))
			got, _ := s.file.ReadAt(buf, int64(first.Offset)) // Read says why it is not all
			for _, i := range order[:n] {
				from := int64(places[i].Offset) - int64(first.Offset)
				if f, ok := parse(buf[min(from, int64(got)):got], first.Segment); ok {
					bodies[i] = f.body
				}
			}
		}
		order = order[n:]
	}
	return bodies
}

// segment is the one with a number; nil if there is none.
func (j *Journal) segment(number uint32) *segment {
	i, ok := slices.BinarySearchFunc(j.segments, number, func(s *segment, n uint32) int { return cmp.Compare(s.number, n) })
	if !ok {
		return nil
	}
	return j.segments[i]
}

// tidy deletes the oldest segments while there is too much.
func (j *Journal) tidy() {
	for j.failed == nil && !j.broken && j.cfg.Excess(j.bytes.Load()) {
		if len(j.segments) == 1 {
			if j.last().bytes <= headerBytes+headBytes || j.rotate() != nil {
				return
			}
		}
		if j.clean() != nil {
			return // the disk fails; the next transaction says so
		}
	}
}

// clean writes again what counts in the oldest segment, and deletes it. A damaged one is renamed.
func (j *Journal) clean() error {
	oldest := j.segments[0]
	var data []byte
	live := j.cfg.Live(oldest.number)
	if live > 0 {
		data = make([]byte, oldest.bytes)
		if n, err := oldest.file.ReadAt(data, 0); n < len(data) {
			return fmt.Errorf("read %s: %w", oldest.path, err)
		}
	}
	b := Batch{bytes: make([]byte, 0, live)}
	for off := 0; off < len(data); {
		f, ok := parse(data[off:], oldest.number)
		if !ok {
			if !oldest.torn {
				oldest.setAside()
			}
			off = find(data, off+1, oldest.number)
			continue
		}
		if body, keep := j.cfg.Keep(f.kind, f.body, Pos{oldest.number, uint32(off), uint32(f.length)}); f.kind != kindHead && keep {
			b.Add(f.kind, body)
			b.endTransaction()
		}
		off += f.length
	}
	if err := j.commit(&b); err != nil {
		return err
	}
	j.files.Lock()
	defer j.files.Unlock()
	var err error
	if oldest.damaged != "" {
		err = os.Rename(oldest.path, oldest.damaged)
	} else {
		err = os.Remove(oldest.path)
	}
	if errors.Is(err, os.ErrNotExist) {
		err = nil // an earlier call removed the name and could not sync the folder
	}
	if err := errors.Join(err, syncDir(j.cfg.Dir)); err != nil {
		return err
	}
	_ = oldest.file.Close() // nothing was written to it
	j.bytes.Add(-oldest.bytes)
	j.segments = slices.Delete(j.segments, 0, 1)
	return nil
}

// setAside notes that the file is damaged.
func (s *segment) setAside() {
	if s.damaged == "" {
		s.damaged = s.path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000")
	}
}

// Close closes the files. No other method may run.
func (j *Journal) Close() error {
	var errs []error
	for _, s := range j.segments {
		errs = append(errs, s.file.Close())
	}
	j.failed = os.ErrClosed
	return errors.Join(errs...)
}
