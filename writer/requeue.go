package writer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/topology"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// requeueAttemptsMax limits the attempts of one insert before the command gives up.
const requeueAttemptsMax = 6

// The outcomes of requeueing a letter.
const (
	outcomeInserted = "inserted"       // its row is now in the table, and the letter is removed
	outcomeStored   = "already_stored" // its row was in the table already, and the letter is removed
	outcomeExpired  = "expired"        // its message has expired, so ClickHouse would remove the row again; the letter is removed
	outcomeGone     = "gone"           // the letter no longer exists
	outcomeFailed   = "failed"         // the letter stays: the cause persists, or is not settled yet
	outcomeNever    = "impossible"     // the letter stays: nothing in it could become a row
)

// Requeued is the outcome of one letter.
type Requeued struct {
	ID      uint64 `json:"id"`
	Outcome string `json:"outcome"`
	Error   string `json:"error,omitempty"`
}

// requeuer inserts dead letters of the writer into the table, each as the row that it would have been: with its own
// channel, message_seq and message_id, exactly once.
//
// A letter takes four steps. A crash between any two of them does no harm, nor does a second requeuer:
//
//  1. The position of the partition must have passed the record. Until then its writer may still insert it.
//  2. Query the table for the message's channel and message_seq. If the message is there, only step 4 remains. If another
//     message is there, stop: a merge would treat the two as one.
//  3. Insert the row under the token of the refused insert, so that a late insert of a writer that was overtaken adds
//     nothing. Query the table again.
//  4. Remove the letter.
type requeuer struct {
	client  *clickhouse.Client
	js      jetstream.JetStream
	letters *deadletter.Stream
	timing  timing
	now     func() time.Time
	block   clickhouse.Block
	// step is called before each step that changes something; tests crash there.
	step func(name string) error
}

// impossibleError reports that a letter can never become a row.
type impossibleError struct{ what string }

func (e *impossibleError) Error() string { return e.what }

// fatalError ends the whole command: the next letter would fail the same way.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

// newRequeuer connects to ClickHouse and checks its table, as the writer does at its start.
func newRequeuer(ctx context.Context, cfg clickhouse.Config, js jetstream.JetStream, log *slog.Logger) (*requeuer, error) {
	letters, err := deadletter.Open(ctx, js)
	if err != nil {
		return nil, err
	}
	client, err := clickhouse.Open(cfg, log)
	if err != nil {
		return nil, err
	}
	if err := client.Check(ctx); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &requeuer{
		client: client, js: js, letters: letters, timing: defaultTiming(0), now: time.Now,
		step: func(string) error { return nil },
	}, nil
}

// requeue processes one letter. It returns only errors that end the whole command.
func (q *requeuer) requeue(ctx context.Context, letter deadletter.Entry) (Requeued, error) {
	outcome, err := q.store(ctx, letter)
	result := Requeued{ID: letter.ID, Outcome: outcome}
	var impossible *impossibleError
	var fatal *fatalError
	switch {
	case err == nil:
		return result, nil
	case errors.As(err, &impossible):
		result.Outcome = outcomeNever
	default:
		result.Outcome = outcomeFailed
	}
	result.Error = err.Error()
	if errors.As(err, &fatal) {
		return result, fatal.err
	}
	return result, nil
}

func (q *requeuer) store(ctx context.Context, letter deadletter.Entry) (outcome string, err error) {
	partition, err := requeueable(letter)
	if err != nil {
		return "", err
	}
	q.block.Reset()
	if err := q.block.Append(letter.PartitionSeq, letter.Body); err != nil {
		return "", fmt.Errorf("still %w", err)
	}
	if have := q.block.MessageID(0).Partition(); have != partition {
		return "", &impossibleError{fmt.Sprintf("message_id %d belongs to partition %d, but the letter to %s", q.block.MessageID(0), have, letter.Stream)}
	}
	if err := q.passed(ctx, partition, letter.PartitionSeq); err != nil {
		return "", err
	}
	there, err := q.stored(ctx)
	if err != nil {
		return "", err
	}
	switch expires := q.block.Expires(0); {
	case there:
		outcome = outcomeStored
	case !expires.IsZero() && !expires.After(q.now()):
		outcome = outcomeExpired
	default:
		outcome = outcomeInserted
		if err := q.insert(ctx, tokenOfLetter(letter)); err != nil {
			return "", err
		}
	}
	if err := q.step("remove"); err != nil {
		return "", err
	}
	if err := q.letters.Remove(ctx, letter.ID); err != nil {
		return "", &fatalError{fmt.Errorf("its row is in the table, but the letter cannot be removed: %w", err)}
	}
	return outcome, nil
}

// requeueable reports whether a letter holds something that could become a row, and returns its partition.
func requeueable(letter deadletter.Entry) (partition int, err error) {
	switch {
	case letter.Role != subsystem:
		return 0, &impossibleError{fmt.Sprintf("it is a letter of the role %s, and only those of the %s can be requeued", letter.Role, subsystem)}
	case letter.Reason == reasonLost:
		return 0, &impossibleError{"it stands for records that disappeared from the message log before they were read: nothing is left to requeue"}
	case letter.Reason != reasonRefused && letter.Reason != reasonUndecodable:
		return 0, &impossibleError{fmt.Sprintf("unknown reason %q", letter.Reason)}
	}
	kind, partition, ok := topology.KindOf(letter.Stream)
	if !ok || kind != topology.KindMessages || letter.PartitionSeq == 0 {
		return 0, &impossibleError{fmt.Sprintf("the headers %s %q and %s %d do not identify a record of the message log",
			deadletter.HeaderStream, letter.Stream, deadletter.HeaderPartitionSeq, letter.PartitionSeq)}
	}
	return partition, nil
}

// tokenOfLetter returns the token of the refused insert. For a letter that never reached an insert it returns one that is
// the same each time.
func tokenOfLetter(letter deadletter.Entry) string {
	if letter.Token != "" {
		return letter.Token
	}
	return fmt.Sprintf("deadletter/%s/%d/%016x", letter.Stream, letter.PartitionSeq, xxhash.Sum64(letter.Body))
}

// passed verifies that no writer will insert the record any more.
func (q *requeuer) passed(ctx context.Context, partition int, seq uint64) error {
	kv, err := q.js.KeyValue(ctx, topology.WriterBucket)
	if err != nil {
		return &fatalError{fmt.Errorf("key-value bucket %s: %w", topology.WriterBucket, err)}
	}
	p, err := (&positions{kv: kv, key: positionKey(partition), timeout: q.timing.request}).load(ctx)
	if err != nil {
		return &fatalError{err}
	}
	if p.Done < seq {
		return fmt.Errorf("the position of partition %d has not passed message %d yet (done: %d), so its writer may still insert it: try again later", partition, seq, p.Done)
	}
	return nil
}

// stored reports whether the table has the message in the block.
func (q *requeuer) stored(ctx context.Context) (bool, error) {
	key, id := q.block.Key(0), int64(q.block.MessageID(0))
	ids, err := q.client.Find(ctx, key)
	if err != nil {
		return false, &fatalError{err}
	}
	if other := slices.IndexFunc(ids, func(have int64) bool { return have != id }); other >= 0 {
		return false, fmt.Errorf("the table has another message, %d, at message_seq %d of channel %q (type %d), so message %d cannot be inserted",
			ids[other], key.MessageSeq, key.ChannelID, key.ChannelType, id)
	}
	return len(ids) > 0, nil
}

// insert inserts the block and verifies that the table has it. A final refusal is an error of this letter; insert retries
// other failures, and then returns an error of the whole command.
func (q *requeuer) insert(ctx context.Context, token string) error {
	if err := q.step("insert"); err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		err := q.client.Insert(ctx, &q.block, 0, 1, token)
		if err == nil {
			break
		}
		switch class := clickhouse.ClassOf(err); {
		case class == clickhouse.Data:
			return fmt.Errorf("still refused: %w", err)
		case class == clickhouse.Configuration, class == clickhouse.Oversize, attempt+1 == requeueAttemptsMax:
			return &fatalError{err}
		}
		if q.timing.backoff.Wait(ctx, attempt+1) != nil {
			return &fatalError{err}
		}
	}
	there, err := q.stored(ctx)
	if err == nil && !there {
		err = fmt.Errorf("ClickHouse accepted the insert, but the row is not visible: a replica lags, or the table has lost the row and still remembers its token, %s", token)
	}
	return err
}
