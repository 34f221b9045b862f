package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sendhouse/sendhouse/pkg/client"
)

// Config says where the queue is and how it delivers. Dir and Client must be given; a zero elsewhere means the default that is named there.
type Config struct {
	// Dir is the queue's folder, of one process at a time. It is made if it is not there.
	Dir string
	// Client sends. Its TriesMax and backoff are for Queue.Send; the queue itself takes single tries.
	Client *client.Client
	// Logger hears of trouble: when the server is away and when it is back, and of dead letters. Never of payloads. nil is silence.
	Logger *slog.Logger

	// BytesMax bounds what is kept, waiting sends and dead letters together; the file can be up to twice as large. 256 MiB.
	BytesMax int64
	// Workers is how many channels are served at one time. 16.
	Workers int
	// BackoffMin is the longest pause after the first failure; it doubles with each, up to BackoffMax. The pause taken is random, between
	// half of that and the whole. 200 ms.
	BackoffMin time.Duration
	// BackoffMax is the longest pause where the server does not ask for a longer one. 30 s.
	BackoffMax time.Duration
	// DrainTimeout is how long tries under way may take when Run is to end. 5 s.
	DrainTimeout time.Duration

	// AgeMax is how long a send may wait; an older one becomes a dead letter for Expired. 0 means for ever.
	AgeMax time.Duration
	// ResendWithin is how long after a try that may have been stored the send is simply sent again. It must be well below the server's
	// --dedup-window, and below the time in which one of its partitions takes a million sends (--dedup-entries-max). 5 min.
	ResendWithin time.Duration
	// Check is asked about a send that is past ResendWithin. The default is Ask, with Client.
	Check Check
	// RepeatUncertain lets a send that is past ResendWithin, and of which Check cannot tell, be sent again: it may then be stored twice.
	// Without it the send becomes a dead letter for Uncertain.
	RepeatUncertain bool

	// OnSent is told of each send that the server has answered, before it leaves the queue: after a crash between the two it is told again.
	// It is called from many goroutines; the channel waits for it.
	OnSent func(Entry, client.Result)
	// OnDead is told of each new dead letter once it is on disk. After a crash between the two it is not told; Dead has all of them. It is
	// called from many goroutines; the channel waits for it.
	OnDead func(DeadLetter)
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
	setDefault(&c.Workers, 16)
	setDefault(&c.BackoffMin, 200*time.Millisecond)
	setDefault(&c.BackoffMax, max(30*time.Second, c.BackoffMin))
	setDefault(&c.DrainTimeout, 5*time.Second)
	setDefault(&c.ResendWithin, 5*time.Minute)
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
	check(c.BytesMax > 0, "BytesMax %d: must be positive", c.BytesMax)
	check(c.Workers > 0, "Workers %d: must be positive", c.Workers)
	check(c.BackoffMin > 0 && c.BackoffMax >= c.BackoffMin, "BackoffMin %s, BackoffMax %s: must be positive, and the first not above the second", c.BackoffMin, c.BackoffMax)
	check(c.DrainTimeout > 0, "DrainTimeout %s: must be positive", c.DrainTimeout)
	check(c.AgeMax >= 0, "AgeMax %s: must not be negative", c.AgeMax)
	check(c.ResendWithin > 0, "ResendWithin %s: must be positive", c.ResendWithin)
	return errors.Join(errs...)
}
