package chdb

import (
	"bufio"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	native "github.com/ClickHouse/clickhouse-go/v2/lib/proto"
	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// contentDecoder undoes the Content-Encoding of a request.
func contentDecoder(encoding string, from io.Reader) (io.Reader, error) {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		return from, nil
	case "gzip", "x-gzip":
		return failLate(gzip.NewReader(from))
	case "deflate":
		return failLate(zlib.NewReader(from))
	case "br":
		return brotli.NewReader(from), nil
	case "zstd":
		decoder, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, cannotDecompress(err)
		}
		return decoder.IOReadCloser(), nil
	}
	return nil, &Exception{Code: codeUnknownCompression, Message: fmt.Sprintf(
		"Unknown compression method %q: use gzip, deflate, br or zstd. (UNKNOWN_COMPRESSION_METHOD)", encoding)}
}

func failLate[R io.Reader](reader R, err error) (io.Reader, error) {
	if err != nil {
		return nil, cannotDecompress(err)
	}
	return reader, nil
}

// frameDecoder undoes decompress=1: ClickHouse's own framing of LZ4 or ZSTD blocks, each with a checksum.
type frameDecoder struct {
	from    *countingReader
	decoder *compress.Reader
	err     error // Of the last read. The decoder would give the last frame again if it were asked once more.
}

func newFrameDecoder(from io.Reader) *frameDecoder {
	counted := &countingReader{from: from}
	return &frameDecoder{from: counted, decoder: compress.NewReader(counted)}
}

// Read tells the end of the body between two frames, which is the end, from one within a frame, which is an error.
func (d *frameDecoder) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	before := d.from.bytes
	n, err := d.decoder.Read(p)
	switch {
	case errors.Is(err, io.EOF) && d.from.bytes == before:
		d.err = io.EOF
	case errors.Is(err, io.EOF):
		d.err = io.ErrUnexpectedEOF
	default:
		d.err = err
	}
	return n, d.err
}

type countingReader struct {
	from  io.Reader
	bytes int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.bytes += int64(n)
	return n, err
}

func cannotDecompress(err error) error {
	return &Exception{Code: codeCannotDecompress, Message: fmt.Sprintf("Cannot decompress the body: %v. (CANNOT_DECOMPRESS)", err)}
}

// contentEncoder is the writer for the best encoding that a client accepts and its name, or nothing.
func contentEncoder(accepted string, to io.Writer) (io.WriteCloser, string) {
	offers := make(map[string]bool)
	for offer := range strings.SplitSeq(accepted, ",") {
		name, quality, _ := strings.Cut(strings.ToLower(strings.TrimSpace(offer)), ";")
		offers[strings.TrimSpace(name)] = strings.ReplaceAll(quality, " ", "") != "q=0"
	}
	switch { // The cheapest for the processor first.
	case offers["zstd"]:
		writer, _ := zstd.NewWriter(to, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1)) // It fails only for options that are none.
		return writer, "zstd"
	case offers["gzip"]:
		writer, _ := gzip.NewWriterLevel(to, gzip.BestSpeed)
		return writer, "gzip"
	case offers["deflate"]:
		writer, _ := zlib.NewWriterLevel(to, zlib.BestSpeed)
		return writer, "deflate"
	case offers["br"]:
		return brotli.NewWriterLevel(to, 3), "br"
	}
	return nil, ""
}

// frameBytes is how much goes into one frame of compress=1, as on a server.
const frameBytes = 1 << 20

// frameEncoder does compress=1.
type frameEncoder struct {
	to      io.Writer
	writer  *compress.Writer
	pending []byte
}

func newFrameEncoder(to io.Writer, method string) (*frameEncoder, error) {
	switch strings.ToUpper(method) {
	case "", "LZ4":
		return &frameEncoder{to: to, writer: compress.NewWriter(compress.LevelZero, compress.LZ4)}, nil
	case "ZSTD":
		return &frameEncoder{to: to, writer: compress.NewWriter(compress.LevelZero, compress.ZSTD)}, nil
	}
	return nil, &Exception{Code: codeUnknownCompression, Message: fmt.Sprintf(
		"Unknown network_compression_method %q: use LZ4 or ZSTD. (UNKNOWN_COMPRESSION_METHOD)", method)}
}

func (f *frameEncoder) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		room := min(frameBytes-len(f.pending), len(p))
		f.pending = append(f.pending, p[:room]...)
		p = p[room:]
		if len(f.pending) == frameBytes {
			if err := f.Flush(); err != nil {
				return 0, err
			}
		}
	}
	return written, nil
}

// Flush writes what is there as a frame.
func (f *frameEncoder) Flush() error {
	if len(f.pending) == 0 {
		return nil
	}
	if err := f.writer.Compress(f.pending); err != nil {
		return fmt.Errorf("compress a frame: %w", err)
	}
	f.pending = f.pending[:0]
	_, err := f.to.Write(f.writer.Data)
	return err
}

func (f *frameEncoder) Close() error { return f.Flush() }

// A server writes the Native format at the protocol revision that the client asks for (client_protocol_version). The engine always writes
// it at revision 0, which has neither the block's info at its head nor the mark of the serialization at each column. Blocks that go to a
// client with a revision are read and written again.

// nativeWriter turns Native at revision 0 into Native at a client's revision.
type nativeWriter struct {
	to       io.Writer
	revision uint64
	location *time.Location
	buffer   proto.Buffer
}

// nativeReaders hold buffers of the size that suits large results; most are small.
//
//nolint:gochecknoglobals // a cache
var nativeReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 1<<20) }}

// transcode writes the whole blocks that from holds.
func (w *nativeWriter) transcode(from io.Reader) error {
	buffered := nativeReaders.Get().(*bufio.Reader)
	buffered.Reset(from)
	defer func() {
		buffered.Reset(nil)
		nativeReaders.Put(buffered)
	}()
	blocks := proto.NewReader(buffered)
	for {
		if _, err := buffered.Peek(1); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a block of the result: %w", err)
		}
		block := native.Block{ServerContext: &column.ServerContext{Timezone: w.location}}
		if err := block.Decode(blocks, 0); err != nil {
			return &Exception{Code: codeNotImplemented, Message: fmt.Sprintf(
				"The result cannot be written in the Native format at revision %d: %v. Ask for another format. (NOT_IMPLEMENTED)", w.revision, err)}
		}
		w.buffer.Reset()
		if err := w.encode(&block); err != nil {
			return err
		}
		if _, err := w.to.Write(w.buffer.Buf); err != nil {
			return err
		}
	}
}

// encode is Block.Encode, but for a block without rows: there the format has no column data at all, not even its prefix.
func (w *nativeWriter) encode(block *native.Block) error {
	if err := block.EncodeHeader(&w.buffer, w.revision); err != nil {
		return fmt.Errorf("write a block of the result: %w", err)
	}
	for i, one := range block.Columns {
		if block.Rows() == 0 {
			w.buffer.PutString(one.Name())
			w.buffer.PutString(string(one.Type()))
			if w.revision >= native.DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION {
				w.buffer.PutBool(false)
			}
			continue
		}
		if err := block.EncodeColumn(&w.buffer, w.revision, i); err != nil {
			return fmt.Errorf("write a block of the result: %w", err)
		}
	}
	return nil
}
