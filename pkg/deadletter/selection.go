package deadletter

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Selection says which letters a command that changes something is to take: by ID, by filter, or all.
type Selection struct {
	IDs []uint64 `arg:"" optional:"" name:"id" help:"Dead letters by ID, as ls shows it."`
	Filter
	All bool `help:"All dead letters." env:"-"`
}

// Check refuses a selection that could be meant in two ways, and one that says nothing.
func (s Selection) Check() error {
	ways := 0
	for _, given := range []bool{len(s.IDs) > 0, !s.Filter.empty(), s.All} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return errors.Join(s.Filter.Check(), errors.New("say which dead letters are meant: by their IDs, by a filter (--role, --reason, --stream, --since, --older-than), or by --all"))
	}
	return s.Filter.Check()
}

// Walk calls visit with each letter that is selected: those given by ID in their order, others oldest first. An ID
// that is not there goes to missing, whose error ends the walk.
func (s Selection) Walk(ctx context.Context, stream *Stream, visit func(Entry) error, missing func(id uint64, err error) error) (last uint64, err error) {
	if len(s.IDs) == 0 {
		return stream.Walk(ctx, s.Filter, visit)
	}
	for _, id := range s.IDs {
		entry, err := stream.Get(ctx, id)
		switch {
		case errors.Is(err, ErrNotFound):
			err = missing(id, err)
		case err == nil:
			err = visit(entry)
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// Group is the letters of one role and reason.
type Group struct {
	Role   string `json:"role"`
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
	// Latest is the newest of them. Only Groups sets it, and leaves it nil if the letter has been removed since it was counted.
	Latest *Entry `json:"latest,omitempty"`
}

// groups counts letters by role and reason, in the order in which they are met.
type groups []Group

func (g *groups) add(e Entry) {
	for i := range *g {
		if one := &(*g)[i]; one.Role == e.Role && one.Reason == e.Reason {
			one.Count++
			return
		}
	}
	*g = append(*g, Group{Role: e.Role, Reason: e.Reason, Count: 1})
}

func (g groups) total() (total uint64) {
	for _, one := range g {
		total += one.Count
	}
	return total
}

func (g groups) String() string {
	texts := make([]string, len(g))
	for i, one := range g {
		texts[i] = fmt.Sprintf("%d of %s/%s", one.Count, one.Role, one.Reason)
	}
	return strings.Join(texts, ", ")
}
