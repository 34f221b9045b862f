package deadletter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/topology"
)

// pilesMax is how many piles are looked at; there are as many as roles have reasons, which is a handful.
const pilesMax = 32

// Pile is the letters of one role and reason.
type Pile struct {
	Role   string `json:"role"`
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
	// Latest is the newest of them; nil where it has been removed since they were counted.
	Latest *Letter `json:"latest,omitempty"`
}

// Look opens the box and gives its piles.
func Look(ctx context.Context, js jetstream.JetStream) ([]Pile, error) {
	box, err := Open(ctx, js)
	if err != nil {
		return nil, err
	}
	return box.Piles(ctx)
}

// Piles counts the letters by role and reason, and gives the newest of each. It reads one letter for each, however many there are.
func (b *Box) Piles(ctx context.Context) ([]Pile, error) {
	info, err := b.stream.Info(ctx, jetstream.WithSubjectFilter(Filter{}.subject()))
	if err != nil {
		return nil, fmt.Errorf("count the dead letters: %w", err)
	}
	piles := []Pile{}
	for _, subject := range slices.Sorted(maps.Keys(info.State.Subjects)) {
		if len(piles) == pilesMax {
			break
		}
		pile := Pile{Count: info.State.Subjects[subject]}
		pile.Role, pile.Reason = topology.ParseDeadLetterSubject(subject)
		msg, err := b.stream.GetLastMsgForSubject(ctx, subject)
		switch {
		case err == nil:
			latest := read(msg.Sequence, msg.Subject, msg.Time, msg.Header, msg.Data)
			pile.Latest = &latest
		case !errors.Is(err, jetstream.ErrMsgNotFound):
			return nil, fmt.Errorf("read the latest dead letter on %s: %w", subject, err)
		}
		piles = append(piles, pile)
	}
	return piles, nil
}
