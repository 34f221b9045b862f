package deadletter

import (
	"context"
	"errors"
	"fmt"
)

// Selection says which letters a command that changes something is to take: by ID, by filter, or all.
type Selection struct {
	IDs []uint64 `arg:"" optional:"" name:"id" help:"Dead letters by ID, as ls shows it."`
	Filter
	All bool `help:"All dead letters." env:"-"`
}

// Check refuses a selection that could be meant in two ways, and one that says nothing.
func (s Selection) Check() error {
	if err := s.Filter.Check(); err != nil {
		return err
	}
	ways := 0
	for _, given := range []bool{len(s.IDs) > 0, !s.Filter.empty(), s.All} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return errors.New("say which dead letters are meant: by their IDs, by a filter (--role, --reason, --stream, --since, --older-than), or by --all")
	}
	return nil
}

// Walk calls visit with each letter that is selected: those given by ID in their order, others oldest first. An ID
// that is not there goes to missing, whose error ends the walk.
func (s Selection) Walk(ctx context.Context, b *Box, visit func(Letter) error, missing func(id uint64, err error) error) (last uint64, err error) {
	if len(s.IDs) == 0 {
		return b.Walk(ctx, s.Filter, visit)
	}
	for _, id := range s.IDs {
		letter, err := b.Get(ctx, id)
		switch {
		case errors.Is(err, ErrNotFound):
			err = missing(id, err)
		case err == nil:
			err = visit(letter)
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// Count is how many letters there are of a role and reason.
type Count struct {
	Role   string `json:"role"`
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// counts collects them in the order in which they are met.
type counts []Count

func (c *counts) add(l Letter) {
	for i := range *c {
		if one := &(*c)[i]; one.Role == l.Role && one.Reason == l.Reason {
			one.Count++
			return
		}
	}
	*c = append(*c, Count{Role: l.Role, Reason: l.Reason, Count: 1})
}

func (c counts) total() int {
	total := 0
	for _, one := range c {
		total += one.Count
	}
	return total
}

func (c counts) String() string {
	text := ""
	for i, one := range c {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%d of %s/%s", one.Count, one.Role, one.Reason)
	}
	return text
}
