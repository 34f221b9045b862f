package fold

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// Snapshot is a state as it was at one record. Folding goes on while it is
// written.
type Snapshot struct {
	params   Params
	lastID   message.ID
	nowMilli int64
	walSeq   uint64
	output   uint64
	channels chunkList[channelEntry]
	arena    nameArena
	window   chunkList[windowEntry]
}

// Snapshot takes the state as it is now. It copies 16 bytes a channel and shares
// the rest, about 2 ms for a million channels.
func (s *State) Snapshot() *Snapshot {
	return &Snapshot{
		params:   s.params,
		lastID:   s.clock.Last(),
		nowMilli: s.nowMilli,
		walSeq:   s.walSeq,
		output:   s.output,
		channels: s.channels.entries.copied(),
		arena:    s.channels.arena.share(),
		window:   s.window.entries.share(),
	}
}

// WALSeq is the stream sequence of the last record folded into the snapshot.
func (s *Snapshot) WALSeq() uint64 { return s.walSeq }

// Output is State.Output at the snapshot.
func (s *Snapshot) Output() uint64 { return s.output }

// snapshotVersion is the first field of an encoded snapshot.
const snapshotVersion = 1

// ErrSnapshot is wrapped where bytes are not a snapshot that this version reads.
var ErrSnapshot = errors.New("not a readable snapshot")

// WriteTo writes the snapshot: uvarints throughout, but for the window's entries,
// which are five little-endian 64-bit words each. It carries no checksum; who
// stores it adds one.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	e := encoder{w: bufio.NewWriterSize(w, 1<<16)}
	e.uvarint(snapshotVersion)
	e.uvarint(uint64(s.params.Partition))
	e.uvarint(uint64(s.params.DedupWindow))
	e.uvarint(uint64(s.params.DedupEntriesMax))
	e.uvarint(uint64(s.lastID))
	e.uvarint(uint64(s.nowMilli))
	e.uvarint(s.walSeq)
	e.uvarint(s.output)

	e.uvarint(uint64(s.channels.len()))
	for pos := s.channels.first; pos < s.channels.next; pos++ {
		entry := s.channels.at(pos)
		channelType, name := s.arena.get(entry.name)
		e.uvarint(uint64(channelType))
		e.uvarint(uint64(len(name)))
		e.bytes(name)
		e.uvarint(entry.seq)
	}

	e.uvarint(uint64(s.window.len()))
	for pos := s.window.first; pos < s.window.next; pos++ {
		entry := s.window.at(pos)
		var b [windowEntryBytes]byte
		for i, word := range [...]uint64{entry.key[0], entry.key[1], entry.content, uint64(entry.id), entry.seq} {
			binary.LittleEndian.PutUint64(b[8*i:], word)
		}
		e.bytes(b[:])
	}
	if e.err == nil {
		e.err = e.w.Flush()
	}
	if e.err != nil {
		return e.n, fmt.Errorf("write snapshot: %w", e.err)
	}
	return e.n, nil
}

// Read rebuilds the state that a snapshot was taken of. The snapshot must be of
// the same parameters. The error wraps ErrSnapshot where the bytes are wrong or
// end too early, and r's own error where that gives another.
func Read(r io.Reader, params Params) (*State, error) {
	in := input{r: r}
	s, err := decode(&in, params)
	if in.err != nil { // what it did not give may be right
		return nil, fmt.Errorf("read snapshot: %w", in.err)
	}
	return s, err
}

// Head is what a snapshot begins with.
type Head struct {
	Params Params
	LastID message.ID // the last one given out
	// NowMilli is the time of the fold's clock, in milliseconds since 1970.
	NowMilli int64
	WALSeq   uint64 // the last record folded
	Output   uint64 // the partition_seq of the last message
}

// ReadHead reads a snapshot to its end and returns what it begins with, without
// building the state. The rest is not looked at. Errors are as those of [Read].
func ReadHead(r io.Reader) (Head, error) {
	in := input{r: r}
	d := decoder{r: bufio.NewReaderSize(&in, 1<<16)}
	h, err := d.head()
	if in.err == nil {
		_, _ = io.Copy(io.Discard, d.r) // in keeps the error
	}
	if in.err != nil {
		return Head{}, fmt.Errorf("read snapshot: %w", in.err)
	}
	return h, err
}

func (d *decoder) head() (Head, error) {
	if v := d.uvarint(); d.err == nil && v != snapshotVersion {
		return Head{}, fmt.Errorf("%w: version %d, this program reads %d", ErrSnapshot, v, snapshotVersion)
	}
	h := Head{Params: d.params(), LastID: message.ID(d.uvarint()), NowMilli: int64(d.uvarint()), WALSeq: d.uvarint(), Output: d.uvarint()}
	if d.err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrSnapshot, d.err)
	}
	return h, nil
}

func decode(r io.Reader, params Params) (*State, error) {
	s, err := New(params)
	if err != nil {
		return nil, err
	}
	d := decoder{r: bufio.NewReaderSize(r, 1<<16)}
	h, err := d.head()
	if err != nil {
		return nil, err
	}
	if h.Params != params {
		return nil, fmt.Errorf("%w: taken with %+v, read with %+v", ErrSnapshot, h.Params, params)
	}
	s.nowMilli, s.walSeq, s.output = h.NowMilli, h.WALSeq, h.Output
	d.channels(&s.channels)
	d.window(&s.window, params.DedupEntriesMax)
	if d.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, d.err)
	}
	if _, err := d.r.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: bytes after its end", ErrSnapshot)
	}
	if s.clock, err = message.NewIDClock(params.Partition, h.LastID); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	return s, nil
}

type encoder struct {
	w   *bufio.Writer
	n   int64
	err error
}

func (e *encoder) bytes(b []byte) {
	if e.err == nil {
		var n int
		n, e.err = e.w.Write(b)
		e.n += int64(n)
	}
}

func (e *encoder) uvarint(v uint64) {
	var b [binary.MaxVarintLen64]byte
	e.bytes(b[:binary.PutUvarint(b[:], v)])
}

// input keeps the error with which r failed; that r ends is none.
type input struct {
	r   io.Reader
	err error
}

func (in *input) Read(p []byte) (int, error) {
	n, err := in.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		in.err = err
	}
	return n, err
}

type decoder struct {
	r   *bufio.Reader
	err error
}

func (d *decoder) uvarint() uint64 {
	if d.err != nil {
		return 0
	}
	var v uint64
	v, d.err = binary.ReadUvarint(d.r)
	return v
}

func (d *decoder) bytes(b []byte) {
	if d.err == nil {
		_, d.err = io.ReadFull(d.r, b)
	}
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

func (d *decoder) params() Params {
	return Params{
		Partition:       int(d.uvarint()),
		DedupWindow:     time.Duration(d.uvarint()),
		DedupEntriesMax: int(d.uvarint()),
	}
}

func (d *decoder) channels(t *channelTable) {
	var name []byte
	for range d.uvarint() {
		channelType, length := d.uvarint(), d.uvarint()
		if length == 0 || length > nameBytesMax || !message.ChannelType(channelType).Valid() {
			d.fail("channel of %d bytes, type %d", length, channelType)
		}
		if d.err != nil {
			return
		}
		name = append(name[:0], make([]byte, length)...)
		d.bytes(name)
		seq := d.uvarint()
		if d.err != nil {
			return
		}
		e := t.find(t.hash(message.ChannelType(channelType), name), message.ChannelType(channelType), name)
		if e.seq != 0 || seq == 0 {
			d.fail("channel %q: sequence %d after %d", name, seq, e.seq)
			return
		}
		e.seq = seq
	}
}

func (d *decoder) window(w *window, entriesMax int) {
	n := d.uvarint()
	if n > uint64(entriesMax) {
		d.fail("%d window entries of at most %d", n, entriesMax)
	}
	for range n {
		var b [windowEntryBytes]byte
		d.bytes(b[:])
		if d.err != nil {
			return
		}
		word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
		entry := windowEntry{key: [2]uint64{word(0), word(1)}, content: word(2), id: message.ID(word(3)), seq: word(4)}
		if w.find(entry.key) != nil {
			d.fail("window entry of ID %d twice", entry.id)
			return
		}
		w.add(entry)
	}
}
