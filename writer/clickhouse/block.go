package clickhouse

import (
	"time"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// The server can split a block above either limit (min_insert_block_size_rows and _bytes), and the deduplication token
// would then protect only a part of it.
const (
	// BlockRowsMax is the maximum number of rows of a block.
	BlockRowsMax = 1_000_000
	// BlockBytesMax is the maximum size of a block as ClickHouse counts it: text, plus valueBytes of each column for a row.
	BlockBytesMax = 250 << 20
	// textOverheadBytes is the memory of a string in the server beyond its text: an offset, and a terminating byte.
	textOverheadBytes = 8 + 1
)

// valueBytes is the memory of a row's value in the server, beyond its text: a number, or the offsets of a string or an array.
func valueBytes(column string) int {
	switch column {
	case "UInt8":
		return 1
	case "UInt16":
		return 2
	case "UInt32":
		return 4
	case "String":
		return textOverheadBytes
	default: // numbers of 64 bits, times, and the offset of an array
		return 8
	}
}

// Block is a batch of messages as columns. It is reusable: Reset keeps the slices. Its strings alias the encoded messages
// that they were read from, so these must not change before the next Reset.
//
// A Block is not safe for concurrent use.
type Block struct {
	bytes int // as the server counts them

	columns  []values // of the stored fields, in their order
	rowBytes int      // valueBytes of all of them
	// The columns that the block itself reads.
	messageID    *numbers[int64]
	messageSeq   *numbers[uint64]
	channelID    *texts
	channelType  *numbers[uint8]
	expire       *numbers[uint32]
	timestamp    *numbers[int64]
	partitionSeq *numbers[uint64]

	message message.Stored // the latest row
	sorting sorting
	picked  picked
}

// prepare creates the columns.
func (b *Block) prepare() {
	for _, f := range message.StoredFields() {
		c := newValues(f)
		b.columns = append(b.columns, c)
		b.rowBytes += valueBytes(f.Column)
		switch f.Name {
		case "message_id":
			b.messageID = c.(*numbers[int64])
		case "message_seq":
			b.messageSeq = c.(*numbers[uint64])
		case "channel_id":
			b.channelID = c.(*texts)
		case "channel_type":
			b.channelType = c.(*numbers[uint8])
		case "expire":
			b.expire = c.(*numbers[uint32])
		case "timestamp":
			b.timestamp = c.(*numbers[int64])
		case "partition_seq":
			b.partitionSeq = c.(*numbers[uint64])
		}
	}
}

// Append decodes a message of the message log and adds it as a row. For an encoding that is not a message, or not one that
// can be stored, it returns an error that wraps [ErrUndecodable] and leaves the block unchanged.
func (b *Block) Append(partitionSeq uint64, encoded []byte) error {
	if b.columns == nil {
		b.prepare()
	}
	if err := Decode(&b.message, partitionSeq, encoded); err != nil {
		return err
	}
	for _, c := range b.columns {
		c.add(&b.message)
	}
	b.bytes += len(encoded) + b.rowBytes + len(b.message.Message.GetSubscribers())*textOverheadBytes
	return nil
}

// Rows returns the number of rows.
func (b *Block) Rows() int {
	if b.columns == nil {
		return 0
	}
	return len(b.messageID.rows)
}

// Bytes returns the size of the block as the server will count it, or a little more.
func (b *Block) Bytes() int { return b.bytes }

// Reset empties the block and releases the messages that it was read from.
func (b *Block) Reset() {
	b.bytes = 0
	for _, c := range b.columns {
		c.reset()
	}
	b.message.Release()
	b.sorting.reset()
	b.picked.reset()
}

// PartitionSeq returns the partition_seq of a row.
func (b *Block) PartitionSeq(row int) uint64 { return b.partitionSeq.rows[row] }

// MessageID returns the ID of a row's message.
func (b *Block) MessageID(row int) message.ID { return message.ID(b.messageID.rows[row]) }

// AcceptedAt returns the timestamp of a row: when its message was accepted.
func (b *Block) AcceptedAt(row int) time.Time { return time.UnixMilli(b.timestamp.rows[row]).UTC() }
