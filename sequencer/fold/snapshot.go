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

// Snapshot is a state as it was at one record. Folding continues while it is
// written.
type Snapshot struct {
	params       Params
	clock        clock
	walSeq       uint64
	partitionSeq uint64
	channels     chunkList[channelEntry]
	arena        nameArena
	window       chunkList[windowEntry]
}

// Snapshot takes the state as it is now. It copies 16 bytes a channel and shares
// the rest, about 2 ms for a million channels.
func (s *State) Snapshot() *Snapshot {
	return &Snapshot{
		params:       s.params,
		clock:        s.clock,
		walSeq:       s.walSeq,
		partitionSeq: s.partitionSeq,
		channels:     s.channels.entries.copied(),
		arena:        s.channels.arena.share(),
		window:       s.window.entries.share(),
	}
}

// WALSeq is the stream sequence of the last record folded into the snapshot.
func (s *Snapshot) WALSeq() uint64 { return s.walSeq }

// PartitionSeq is State.PartitionSeq at the snapshot.
func (s *Snapshot) PartitionSeq() uint64 { return s.partitionSeq }

// The first field of an encoded snapshot is its version, which is the rule for time that holds: version 1 has none of what
// message.RuleFrozen does without, the broker's time and the entries' ages. So a version of the program that does not know a rule reads no
// snapshot that needs it.
const snapshotVersionNewest = message.RuleNewest

// windowEntryWords is the size of an entry in a snapshot of a rule.
func windowEntryWords(rule int) int {
	if rule == message.RuleFrozen {
		return 5
	}
	return windowEntryWordsMax
}

const windowEntryWordsMax = 6

// ErrSnapshot is wrapped where bytes are not a snapshot that this version reads.
var ErrSnapshot = errors.New("not a readable snapshot")

// WriteTo writes the snapshot: uvarints throughout, but for the window's entries,
// which are five or six little-endian 64-bit words each. It carries no checksum; who
// stores it adds one.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	e := encoder{w: bufio.NewWriterSize(w, 1<<16)}
	e.uvarint(uint64(s.clock.rule))
	e.uvarint(uint64(s.params.Partition))
	e.uvarint(uint64(s.params.DedupWindow))
	e.uvarint(uint64(s.params.DedupEntriesMax))
	e.uvarint(uint64(s.clock.ids.Last()))
	e.uvarint(uint64(s.clock.ageMilli))
	e.uvarint(s.walSeq)
	e.uvarint(s.partitionSeq)
	if s.clock.rule != message.RuleFrozen {
		e.uvarint(uint64(s.clock.brokerMilli))
	}

	e.uvarint(uint64(s.channels.len()))
	for pos := s.channels.first; pos < s.channels.next; pos++ {
		entry := s.channels.at(pos)
		channelType, name := s.arena.get(entry.name)
		e.uvarint(uint64(channelType))
		e.uvarint(uint64(len(name)))
		e.bytes(name)
		e.uvarint(entry.messageSeq)
	}

	e.uvarint(uint64(s.window.len()))
	for pos := s.window.first; pos < s.window.next; pos++ {
		entry := s.window.at(pos)
		var b [8 * windowEntryWordsMax]byte
		for i, word := range [...]uint64{entry.key[0], entry.key[1], entry.content, uint64(entry.id), entry.messageSeq, uint64(entry.ageMilli)} {
			binary.LittleEndian.PutUint64(b[8*i:], word)
		}
		e.bytes(b[:8*windowEntryWords(s.clock.rule)])
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
	// AgeMilli is the window's clock, in milliseconds: by message.RuleFrozen since 1970.
	AgeMilli     int64
	WALSeq       uint64 // the last record folded
	PartitionSeq uint64 // the partition_seq of the last message
	Rule         int    // for time
	// BrokerMilli is the broker's time at the last record, in milliseconds since 1970; 0 if none is known, and by message.RuleFrozen.
	BrokerMilli int64
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
	version := d.uvarint()
	if d.err == nil && (version < message.RuleFrozen || version > snapshotVersionNewest) {
		return Head{}, fmt.Errorf("%w: version %d, this program reads %d to %d", ErrSnapshot, version, message.RuleFrozen, snapshotVersionNewest)
	}
	h := Head{
		Params: d.params(), LastID: message.ID(d.uvarint()), AgeMilli: int64(d.uvarint()), WALSeq: d.uvarint(), PartitionSeq: d.uvarint(),
		Rule: int(version),
	}
	if h.Rule != message.RuleFrozen {
		h.BrokerMilli = int64(d.uvarint())
	}
	if d.err == nil && (h.AgeMilli < 0 || (h.BrokerMilli != 0 && !follows(h.BrokerMilli))) {
		d.fail("clock of %d ms, broker's time %d ms", h.AgeMilli, h.BrokerMilli)
	}
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
	s.walSeq, s.partitionSeq = h.WALSeq, h.PartitionSeq
	s.clock.rule, s.clock.ageMilli, s.clock.brokerMilli = h.Rule, h.AgeMilli, h.BrokerMilli
	d.channels(&s.channels)
	d.window(&s.window, params.DedupEntriesMax, h.Rule)
	if d.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, d.err)
	}
	if _, err := d.r.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: bytes after its end", ErrSnapshot)
	}
	if s.clock.ids, err = message.NewIDClock(params.Partition, h.LastID); err != nil {
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
		if e.messageSeq != 0 || seq == 0 {
			d.fail("channel %q: sequence %d after %d", name, seq, e.messageSeq)
			return
		}
		e.messageSeq = seq
	}
}

func (d *decoder) window(w *window, entriesMax, rule int) {
	n := d.uvarint()
	if n > uint64(entriesMax) {
		d.fail("%d window entries of at most %d", n, entriesMax)
	}
	for range n {
		var b [8 * windowEntryWordsMax]byte
		d.bytes(b[:8*windowEntryWords(rule)])
		if d.err != nil {
			return
		}
		word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
		entry := windowEntry{key: [2]uint64{word(0), word(1)}, content: word(2), id: message.ID(word(3)), messageSeq: word(4), ageMilli: int64(word(5))}
		if rule == message.RuleFrozen {
			entry.ageMilli = entry.id.UnixMilli()
		}
		if w.find(entry.key) != nil {
			d.fail("window entry of ID %d twice", entry.id)
			return
		}
		w.add(entry)
	}
}
