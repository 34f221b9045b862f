package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Open reads what is in the folder, which must exist, and applies it. If there was damage, the caller calls [Journal.Renew] when its state is
// as it should be written.
func Open(cfg Config) (*Journal, error) {
	if cfg.Write == nil {
		cfg.Write = WriteAndSync
	}
	j := &Journal{cfg: cfg}
	err := j.open()
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// MakeDir makes a folder that survives a power failure, with those above it. One that is there may have been made a moment ago.
func MakeDir(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	above := filepath.Dir(dir)
	if _, err := os.Stat(above); errors.Is(err, os.ErrNotExist) {
		if err := MakeDir(above); err != nil {
			return err
		}
	}
	made := os.Mkdir(dir, 0o700)
	if made != nil && !errors.Is(made, os.ErrExist) {
		return made
	}
	if err := syncDir(above); made == nil || !errors.Is(err, os.ErrPermission) {
		return err
	}
	return nil // whose folder that is has made this one
}

func (j *Journal) open() error {
	names, err := os.ReadDir(j.cfg.Dir)
	if err != nil {
		return err
	}
	for _, one := range names { // sorted by name, and so by number
		text, ok := strings.CutSuffix(one.Name(), suffix)
		number, err := strconv.ParseUint(text, 10, 32)
		if !ok || err != nil || number == 0 {
			continue
		}
		path := filepath.Join(j.cfg.Dir, one.Name())
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		j.segments = append(j.segments, &segment{number: uint32(number), file: file, path: path})
	}
	var data []byte // of the segment that is read
	for i := 0; i < len(j.segments); i++ {
		s := j.segments[i]
		if data, err = readAll(s.file, data); err != nil {
			return fmt.Errorf("read %s: %w", s.path, err)
		}
		if i == len(j.segments)-1 {
			return j.openLast(data)
		}
		j.openSealed(i, data)
	}
	return j.rotate()
}

// openSealed reads a segment that another follows.
func (j *Journal) openSealed(i int, data []byte) {
	s, next := j.segments[i], j.segments[i+1]
	length := sealedLength(next)
	s.bytes = int64(len(data))
	if length >= 0 && length <= int64(len(data)) {
		s.bytes = length // what is behind was never acknowledged
	}
	if kept := j.scan(s, data[:s.bytes], length >= 0); length < 0 && s.damaged == "" {
		s.bytes = kept
	}
	if length > s.bytes {
		j.damage(s, s.bytes, length-s.bytes, "the file ends too early")
	}
	if next.number != s.number+1 {
		next.setAside()
		j.cfg.Damaged(Damage{File: next.damaged, Reason: fmt.Sprintf("the segments between %d and %d are missing", s.number, next.number)})
	}
	j.bytes.Add(s.bytes)
}

// openLast reads the segment that is written to, and cuts off what a crash has left of a write.
func (j *Journal) openLast(data []byte) error {
	s := j.segments[len(j.segments)-1]
	s.bytes = j.scan(s, data, false)
	defer func() { j.bytes.Add(s.bytes) }()
	if s.damaged != "" || s.torn {
		s.bytes = int64(len(data)) // nothing is written to it: see Renew
		return nil
	}
	if s.bytes == 0 { // not even its first frame was synced
		_ = s.file.Close() // nothing was written to it
		j.segments = j.segments[:len(j.segments)-1]
		return j.rotate()
	}
	if s.bytes == int64(len(data)) {
		return nil
	}
	if err := errors.Join(s.file.Truncate(s.bytes), s.file.Sync()); err != nil {
		return fmt.Errorf("cut off the torn end of %s: %w", s.path, err)
	}
	return nil
}

// sealedLength reads from a segment's first frame how long the one before is; -1 if it cannot be read.
func sealedLength(s *segment) int64 {
	head := make([]byte, headerBytes+headBytes)
	if n, _ := s.file.ReadAt(head, 0); n < len(head) { // what is short has no head
		return -1
	}
	f, ok := parse(head, s.number)
	if !ok || f.kind != kindHead || len(f.body) != headBytes || f.body[0] != headVersion {
		return -1
	}
	return int64(binary.BigEndian.Uint64(f.body[1:]))
}

// scan applies the records of a segment, and returns how much of it is to be kept. Synced means that all of data was on disk once.
//
// A region that cannot be read, and that no later batch follows, is what a crash left of the last write: a disk writes the parts of a file in
// any order. No caller has returned from Commit with them. Those transactions of that write that are complete count all the same.
func (j *Journal) scan(s *segment, data []byte, synced bool) int64 {
	type record struct {
		frame
		at int
	}
	var open []record // of a transaction whose end has not been read
	apply := func() {
		for _, r := range open {
			if r.kind != kindHead {
				j.cfg.Apply(r.kind, r.body, Pos{s.number, uint32(r.at), uint32(r.length)})
			}
		}
		open = open[:0]
	}
	whole := 0        // up to here transactions are complete
	headless := false // the beginning of this transaction cannot be read
	for off := 0; off < len(data); {
		f, ok := parse(data[off:], s.number)
		if ok {
			open = append(open, record{f, off})
			off += f.length
			if f.flags&flagMore == 0 {
				if headless {
					open = open[:0]
				}
				apply()
				whole, headless = off, false
			}
			continue
		}
		next := find(data, off+1, s.number)
		switch {
		case synced || followed(data, next, s.number):
			apply() // what is left of a transaction counts, since all of it was there once
			j.damage(s, int64(off), int64(next-off), "it is not what was written")
		case next == len(data):
			return int64(whole)
		default:
			open, headless, s.torn = open[:0], true, true
		}
		off, whole = next, next
	}
	if synced || s.damaged != "" {
		apply()
	}
	return int64(whole)
}

func (j *Journal) damage(s *segment, offset, bytes int64, reason string) {
	s.setAside()
	j.cfg.Damaged(Damage{File: s.damaged, Offset: offset, Bytes: bytes, Reason: reason})
}

// Renew writes everything that counts to new segments, if any segment has a region that cannot be read, and sets the damaged ones aside.
func (j *Journal) Renew() error {
	if !slices.ContainsFunc(j.segments, func(s *segment) bool { return s.damaged != "" || s.torn }) {
		return nil
	}
	old := len(j.segments)
	if err := j.rotate(); err != nil {
		return err
	}
	for range old {
		if err := j.clean(); err != nil {
			return err
		}
	}
	return nil
}

// readAll reads a file into buf, or into new memory.
func readAll(f *os.File, buf []byte) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	buf = slices.Grow(buf[:0], int(info.Size()))[:info.Size()]
	n, err := f.ReadAt(buf, 0)
	if n < len(buf) {
		return nil, err
	}
	return buf, nil
}
