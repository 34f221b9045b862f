package writer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Letter is a record that became a dead letter instead of a row.
type Letter struct {
	Partition    int
	PartitionSeq uint64
}

// lettersMax limits the number of dead letters that are kept, newest first.
const lettersMax = 1 << 20

// lettersWait limits the wait for the stream to deliver its dead letters.
const lettersWait = 10 * time.Second

// ReadLetters returns the records that became dead letters.
func ReadLetters(ctx context.Context, js jetstream.JetStream) (map[Letter]bool, error) {
	letters := make(map[Letter]bool)
	stream, err := js.Stream(ctx, topology.DeadLettersStream)
	if err != nil {
		return nil, fmt.Errorf("open the dead letters: %w", err)
	}
	state := stream.CachedInfo().State
	first := max(state.FirstSeq, state.LastSeq-min(state.LastSeq, lettersMax)+1)
	if state.Msgs == 0 || first > state.LastSeq {
		return letters, nil
	}
	messages, err := broker.ReadOrdered(ctx, js, topology.DeadLettersStream, first)
	if err != nil {
		return nil, fmt.Errorf("read the dead letters: %w", err)
	}
	defer messages.Stop()
	for {
		wait, cancel := context.WithTimeout(ctx, lettersWait)
		m, err := messages.Next(jetstream.NextContext(wait))
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			break // the remaining ones were deleted
		}
		if err != nil {
			return nil, fmt.Errorf("read the dead letters: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, fmt.Errorf("read the dead letters: %w", err)
		}
		if one, ok := letterOf(m); ok {
			letters[one] = true
		}
		if meta.Sequence.Stream >= state.LastSeq {
			break
		}
	}
	return letters, nil
}

// letterOf parses a dead letter of a record. A letter of a lost range belongs to no record of the log.
func letterOf(m jetstream.Msg) (Letter, bool) {
	partitionText, ok := strings.CutPrefix(m.Headers().Get(deadletter.HeaderStream), topology.MessagesStream(0)[:len("MESSAGES_")])
	partition, err1 := strconv.Atoi(partitionText)
	seq, err2 := strconv.ParseUint(m.Headers().Get(deadletter.HeaderPartitionSeq), 10, 64)
	return Letter{partition, seq}, ok && errors.Join(err1, err2) == nil
}
