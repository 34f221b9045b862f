package runner

import (
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/sequencer/fold"
)

// Derive appends the record of the message log that a record of the write-ahead log became, and says how many messages it holds: the
// state is that after it, and the effects are those of its sends. Nothing else decides what is in it.
func Derive(dst []byte, state *fold.State, effects []fold.Effect) (record []byte, messages int) {
	for i := range effects {
		if effects[i].Output != 0 {
			messages++
		}
	}
	dst = message.AppendBatchHead(dst, state.Output()-uint64(messages)+1, state.LastID())
	for i := range effects {
		if e := &effects[i]; e.Output != 0 {
			dst = message.AppendBatchMessage(dst, e.Send, e.Identity)
		}
	}
	return dst, messages
}
