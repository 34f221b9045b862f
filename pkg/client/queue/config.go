package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/sendhouse/sendhouse/pkg/client"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// Config says where the queue is and how it delivers. Dir and Client must be given; a zero elsewhere means the default that is named there.
type Config struct {
	// Dir is the queue's folder, of one process at a time. It is made if it is not there.
	Dir string
	// Client sends. The queue has its own pauses and takes single tries.
	Client *client.Client
	// Logger gets what goes wrong: when the server is away and when it is back, dead letters, damaged files. Never payloads. nil disables logging.
	Logger *slog.Logger

	// BytesMax bounds what is kept, waiting sends and dead letters together; at least 1 MiB. The files are never larger than twice that, and
	// shrink when the queue drains. 256 MiB.
	BytesMax int64
	// PayloadBytesMax is the largest payload that the server takes (--ingest-payload-bytes-max); a larger one is refused by Enqueue. 512 KiB.
	PayloadBytesMax int
	// Workers is how many requests are under way at one time. 8.
	Workers int
	// BatchItemsMax and BatchBytesMax bound the sends of one request: those of many channels, and several of one if the server keeps their order.
	// 2,000 and 1 MiB.
	BatchItemsMax int
	BatchBytesMax int
	// BackoffMin is the longest pause after the first failure; it doubles with each, up to BackoffMax. The pause taken is random, between
	// half of that and the whole. 200 ms.
	BackoffMin time.Duration
	// BackoffMax is the longest pause if the server does not ask for a longer one. 30 s.
	BackoffMax time.Duration
	// RetryAfterMax is the longest pause that the server's Retry-After can bring about. 60 s.
	RetryAfterMax time.Duration
	// DrainTimeout is how long tries under way may take when Run is to end. 5 s.
	DrainTimeout time.Duration

	// AgeMax is how long a send may wait; an older one becomes a dead letter for Expired. 0 means for ever.
	AgeMax time.Duration
	// ResendWithin is how long after a try that may have been stored the send is simply sent again. 0: for as long as the server says that it
	// remembers ([client.Client.Window]); while the server does not know that, such sends wait. Another value can only shorten what the server says.
	ResendWithin time.Duration
	// Check is asked about a send that is past ResendWithin. The default is Ask, with Client.
	Check Check
	// RepeatUncertain lets a send that is past ResendWithin, and of which Check cannot tell, be sent again: it may then be stored twice.
	// Without it the send becomes a dead letter for Uncertain.
	RepeatUncertain bool

	// OnSent is called for each send that the server has stored, before it leaves the queue: after a crash between the two it is called again.
	// It is called from many goroutines, for the sends of a channel in order; the channel waits for it.
	OnSent func(Entry, client.Result)
	// OnDead is called for each new dead letter once it is on disk, after OnSent for all of its request. After a crash between the two it is not
	// called; DeadLetters has all of them. It is
	// called from many goroutines; the channel waits for it.
	OnDead func(DeadLetter)

	write func(f *os.File, b []byte, at int64) error // of the journal; tests have it fail
}

// Check finds out whether the server has a send, which may have it since then. An error means to ask again later; the channel waits.
type Check func(ctx context.Context, s client.Send, since time.Time) (Verdict, client.Result, error)

// Verdict is what a Check has found.
type Verdict int

// The verdicts.
const (
	// CannotTell: the server may have the send or not.
	CannotTell Verdict = iota
	// Stored: the server has it; the Result says as what.
	Stored
	// NotStored: it surely has not, and no try is still on its way.
	NotStored
)

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.BytesMax, 256<<20)
	setDefault(&c.PayloadBytesMax, 512<<10)
	setDefault(&c.Workers, 8)
	setDefault(&c.BatchItemsMax, 2_000)
	setDefault(&c.BatchBytesMax, 1<<20)
	setDefault(&c.BackoffMin, 200*time.Millisecond)
	setDefault(&c.BackoffMax, max(30*time.Second, c.BackoffMin))
	setDefault(&c.DrainTimeout, 5*time.Second)
	setDefault(&c.RetryAfterMax, time.Minute)
	if c.Check == nil && c.Client != nil {
		c.Check = Ask(c.Client)
	}
	return c
}

func setDefault[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// check reports everything that is wrong.
func (c Config) check() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Dir != "", "Dir is missing")
	check(c.Client != nil, "Client is missing")
	check(c.BytesMax >= bytesMaxMin, "BytesMax %d: must be %d or more", c.BytesMax, bytesMaxMin)
	check(c.BatchItemsMax > 0 && c.BatchItemsMax <= serverBulkItemsMax, "BatchItemsMax %d: must be 1 to %d", c.BatchItemsMax, serverBulkItemsMax)
	check(c.BatchBytesMax > 0 && c.BatchBytesMax <= serverBulkBytesMax, "BatchBytesMax %d: must be 1 to %d", c.BatchBytesMax, serverBulkBytesMax)
	check(c.RetryAfterMax > 0, "RetryAfterMax %s: must be positive", c.RetryAfterMax)
	check(c.PayloadBytesMax > 0, "PayloadBytesMax %d: must be positive", c.PayloadBytesMax)
	check(c.Workers > 0, "Workers %d: must be positive", c.Workers)
	check(c.BackoffMin > 0 && c.BackoffMax >= c.BackoffMin, "BackoffMin %s, BackoffMax %s: must be positive, and the first not above the second", c.BackoffMin, c.BackoffMax)
	check(c.DrainTimeout > 0, "DrainTimeout %s: must be positive", c.DrainTimeout)
	check(c.AgeMax >= 0, "AgeMax %s: must not be negative", c.AgeMax)
	check(c.ResendWithin >= 0, "ResendWithin %s: must not be negative", c.ResendWithin)
	return errors.Join(errs...)
}

const (
	bytesMaxMin = 1 << 20
	// What the server takes in one bulk; a request is at most this large, with room for one send that passes the bound.
	serverBulkItemsMax = 10_000
	serverBulkBytesMax = 8 << 20
)

// backoff bounds the pauses after failures.
func (c Config) backoff() lifecycle.Backoff {
	return lifecycle.Backoff{Min: c.BackoffMin, Max: c.BackoffMax}
}

// segmentBytes is the size of a file of the queue.
func (c Config) segmentBytes() int64 { return min(c.BytesMax/64, 8<<20) }
