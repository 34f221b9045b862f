package journal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// A frame is a record on disk:
//
//	magic (4) | length of the body (4) | CRC-32C (4) | kind (1) | flags (1) | body
//
// The checksum covers the segment's number and all that follows the checksum, so that a block of a deleted file is never taken for a frame
// of this one. The magic is no UTF-8: text in a body cannot look like a frame.
const (
	frameMagic  = "\xffSHq"
	headerBytes = 14

	// Overhead is what a record takes on disk beside its body.
	Overhead = headerBytes

	// flagBatch: the frame is the first of a batch, that is of one write and one sync. So everything before it was synced.
	flagBatch = 1
	// flagMore: the next frame belongs to the same transaction.
	flagMore = 2
)

// kindHead begins a segment. Its body is a version and the length of the segment before.
const (
	kindHead    = 0
	headVersion = 1
	headBytes   = 1 + 8
)

type frame struct {
	kind, flags byte
	body        []byte
	length      int // of the whole frame
}

// appendFrame appends a frame with no checksum yet.
func appendFrame(dst []byte, kind byte, parts ...[]byte) []byte {
	start := len(dst)
	dst = append(dst, frameMagic...)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0, kind, 0)
	for _, part := range parts {
		dst = append(dst, part...)
	}
	binary.BigEndian.PutUint32(dst[start+4:], uint32(len(dst)-start-headerBytes))
	return dst
}

// seal sets a frame's flags and checksum.
func seal(f []byte, segment uint32, flags byte) {
	f[13] = flags
	binary.BigEndian.PutUint32(f[8:], checksum(f, segment))
}

func checksum(f []byte, segment uint32) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(segment, table, f[4:8])
	return crc32.Update(sum, table, f[12:])
}

// parse reads the frame at the beginning of data.
func parse(data []byte, segment uint32) (f frame, ok bool) {
	if len(data) < headerBytes || string(data[:4]) != frameMagic {
		return frame{}, false
	}
	length := int64(binary.BigEndian.Uint32(data[4:])) + headerBytes
	if length > int64(len(data)) {
		return frame{}, false
	}
	data = data[:length]
	if binary.BigEndian.Uint32(data[8:]) != checksum(data, segment) {
		return frame{}, false
	}
	return frame{kind: data[12], flags: data[13], body: data[headerBytes:], length: int(length)}, true
}

// find returns where the next whole frame begins, at from or later; the end of data if there is none.
func find(data []byte, from int, segment uint32) int {
	for from < len(data) {
		i := bytes.Index(data[from:], []byte(frameMagic))
		if i < 0 {
			break
		}
		from += i
		if _, ok := parse(data[from:], segment); ok {
			return from
		}
		from++
	}
	return len(data)
}

// followed reports whether a batch begins at from or later: then everything before it was on disk once.
func followed(data []byte, from int, segment uint32) bool {
	for from = find(data, from, segment); from < len(data); from = find(data, from, segment) {
		f, _ := parse(data[from:], segment)
		if f.flags&flagBatch != 0 {
			return true
		}
		from += f.length
	}
	return false
}
