package testkit

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// MessageBatch is a record of the message log with messages that are encoded, or are meant to be, as the sequencer would make it: first is
// the partition_seq of the first of them.
func MessageBatch(first uint64, encoded ...[]byte) []byte {
	var newest message.ID
	for _, one := range encoded {
		if id, err := message.ViewID(one); err == nil {
			newest = max(newest, id)
		}
	}
	batch := message.AppendBatchHead(nil, first, newest)
	for _, one := range encoded {
		batch = protowire.AppendBytes(protowire.AppendTag(batch, 3, protowire.BytesType), one)
	}
	return batch
}

// EmptyMessageBatch is a record of the message log without a message, as a group commit of nothing but duplicates makes it: next is the
// partition_seq of the message that comes next, newest the last ID that was given.
func EmptyMessageBatch(next uint64, newest message.ID) []byte {
	return message.AppendBatchHead(nil, next, newest)
}
