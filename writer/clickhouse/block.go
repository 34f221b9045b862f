package clickhouse

import (
	"fmt"
	"time"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// A block above either limit can be cut in two by the server (min_insert_block_size_rows and _bytes),
// and the deduplication token would then protect only a part of it.
const (
	// BlockRowsMax is the most rows of a block.
	BlockRowsMax = 1_000_000
	// BlockBytesMax is the most bytes of a block as ClickHouse counts them: text, and rowOverheadBytes a row.
	BlockBytesMax = 250 << 20
	// rowOverheadBytes is what a row takes in the server's memory besides its text: 53 bytes of numbers, an
	// offset of 8 bytes for each of the 7 strings and the array, and a byte of termination for each string.
	rowOverheadBytes = 53 + 8*8 + 7
	// subscriberOverheadBytes is the same for one subscriber.
	subscriberOverheadBytes = 8 + 1
)

// Block is a batch of messages as columns. It is made once and filled again and again: Reset keeps the
// slices. The strings in it alias the encoded messages they were read from, so these must not be changed
// before the next Reset.
//
// A Block is not safe for concurrent use.
type Block struct {
	bytes int // as the server counts

	messageID    []int64
	messageSeq   []uint64
	channelID    []string
	channelType  []uint8
	fromUID      []string
	clientMsgNo  []string
	redDot       []uint8
	syncOnce     []uint8
	streamNo     []string
	tagKey       []string
	expire       []uint32
	payload      []string
	unixMilli    []int64
	partition    []uint16
	partitionSeq []uint64
	walSeq       []uint64
	walIndex     []uint32

	// The subscribers of row i are subscribers[subscribersEnd[i-1]:subscribersEnd[i]].
	subscribers    []string
	subscribersEnd []int

	sorting sorting
	picked  picked
}

// Append decodes a message of the message log and adds it as a row. An encoding that is not a message, or
// not one that can be stored, is an error that wraps [ErrUndecodable]; the block is then as before.
func (b *Block) Append(partitionSeq uint64, encoded []byte) error {
	var r row
	subscribersBefore := len(b.subscribers)
	if err := r.decode(encoded, &b.subscribers); err != nil {
		b.subscribers = b.subscribers[:subscribersBefore]
		return fmt.Errorf("partition_seq %d: %w", partitionSeq, err)
	}
	b.messageID = append(b.messageID, int64(r.id))
	b.messageSeq = append(b.messageSeq, r.seq)
	b.channelID = append(b.channelID, r.channelID)
	b.channelType = append(b.channelType, r.channelType)
	b.fromUID = append(b.fromUID, r.fromUID)
	b.clientMsgNo = append(b.clientMsgNo, r.clientMsgNo)
	b.redDot = append(b.redDot, r.redDot)
	b.syncOnce = append(b.syncOnce, r.syncOnce)
	b.streamNo = append(b.streamNo, r.streamNo)
	b.tagKey = append(b.tagKey, r.tagKey)
	b.expire = append(b.expire, r.expire)
	b.payload = append(b.payload, r.payload)
	b.unixMilli = append(b.unixMilli, r.unixMilli())
	b.partition = append(b.partition, uint16(r.id.Partition()))
	b.partitionSeq = append(b.partitionSeq, partitionSeq)
	b.walSeq = append(b.walSeq, r.walSeq)
	b.walIndex = append(b.walIndex, r.walIndex)
	b.subscribersEnd = append(b.subscribersEnd, len(b.subscribers))
	b.bytes += len(encoded) + rowOverheadBytes + (len(b.subscribers)-subscribersBefore)*subscriberOverheadBytes
	return nil
}

// Rows is the number of rows.
func (b *Block) Rows() int { return len(b.messageID) }

// Bytes is the size of the block as the server will count it, or a little more.
func (b *Block) Bytes() int { return b.bytes }

// Reset empties the block and lets go of the messages it was read from.
func (b *Block) Reset() {
	b.bytes = 0
	b.messageID, b.messageSeq = b.messageID[:0], b.messageSeq[:0]
	b.channelType, b.redDot, b.syncOnce = b.channelType[:0], b.redDot[:0], b.syncOnce[:0]
	b.expire, b.unixMilli = b.expire[:0], b.unixMilli[:0]
	b.partition, b.partitionSeq, b.walSeq, b.walIndex = b.partition[:0], b.partitionSeq[:0], b.walSeq[:0], b.walIndex[:0]
	b.subscribersEnd = b.subscribersEnd[:0]
	for _, strings := range []*[]string{&b.channelID, &b.fromUID, &b.clientMsgNo, &b.streamNo, &b.tagKey, &b.payload, &b.subscribers} {
		clear(*strings)
		*strings = (*strings)[:0]
	}
	b.sorting.reset()
	b.picked.reset()
}

// PartitionSeq is that of a row.
func (b *Block) PartitionSeq(row int) uint64 { return b.partitionSeq[row] }

// MessageID is the ID of a row's message.
func (b *Block) MessageID(row int) message.ID { return message.ID(b.messageID[row]) }

// AcceptedAt is the timestamp of a row: when its message was accepted.
func (b *Block) AcceptedAt(row int) time.Time { return time.UnixMilli(b.unixMilli[row]).UTC() }

func (b *Block) subscribersOf(row int) []string {
	start := 0
	if row > 0 {
		start = b.subscribersEnd[row-1]
	}
	return b.subscribers[start:b.subscribersEnd[row]]
}
