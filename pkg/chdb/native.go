package chdb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	native "github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

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
