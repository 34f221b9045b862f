package deadletter

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// ListOptions are the flags of the command that lists.
type ListOptions struct {
	Filter
	Limit int  `help:"How many to list, the oldest first; the counts are of all. 0 lists none." default:"100" env:"-"`
	JSON  bool `help:"Print JSON instead of a table." env:"-"`
}

// Listing is what List prints as JSON.
type Listing struct {
	Counts  []Count  `json:"counts"`
	Letters []Letter `json:"letters"`
	More    bool     `json:"more"` // there are more letters than listed
}

// List prints the letters that the filter allows, and how many there are of each role and reason.
func List(ctx context.Context, b *Box, o ListOptions, out io.Writer) error {
	if err := o.Check(); err != nil {
		return err
	}
	if o.Limit < 0 {
		return fmt.Errorf("--limit %d: must not be negative", o.Limit)
	}
	var all counts
	letters := []Letter{}
	if _, err := b.Walk(ctx, o.Filter, func(l Letter) error {
		all.add(l)
		if len(letters) < o.Limit {
			l.Body = nil
			letters = append(letters, l)
		}
		return nil
	}); err != nil {
		return err
	}
	more := all.total() > len(letters)
	if o.JSON {
		return writeJSON(out, Listing{Counts: append([]Count{}, all...), Letters: letters, More: more})
	}
	return writeTable(out, all, letters, more)
}

// errorBytesMax is how much of an error the table shows; the whole is in show and in JSON.
const errorBytesMax = 160

func writeTable(out io.Writer, all counts, letters []Letter, more bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(letters) > 0 {
		_, _ = fmt.Fprintln(w, "ID\tTIME\tROLE\tREASON\tSTREAM\tSEQ\tBYTES\tERROR") // Flush reports what fails
	}
	for _, l := range letters {
		_, _ = fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", l.ID, l.Time.Format(time.RFC3339), l.Role, l.Reason, l.Stream, l.PartitionSeq, l.Bytes, printable(shorten(l.Error)))
	}
	switch {
	case len(all) == 0:
		_, _ = fmt.Fprintln(w, "no dead letters")
	case more:
		_, _ = fmt.Fprintf(w, "%d dead letters, %d listed: %s\n", all.total(), len(letters), all)
	default:
		_, _ = fmt.Fprintf(w, "%d dead letters: %s\n", all.total(), all)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print dead letters: %w", err)
	}
	return nil
}

func shorten(text string) string {
	if len(text) <= errorBytesMax {
		return text
	}
	return text[:errorBytesMax] + "…"
}

// PurgeOptions are the flags of the command that removes.
type PurgeOptions struct {
	Selection
	Yes bool `help:"Really remove them. Without it, the command says what it would remove and fails." env:"-"`
}

// Purge removes letters for good, if that was confirmed. It removes those that it has counted, and none that came
// while it did.
func Purge(ctx context.Context, b *Box, o PurgeOptions, out io.Writer) error {
	if err := o.Check(); err != nil {
		return err
	}
	var found counts
	var ids []uint64
	last, err := o.Walk(ctx, b, func(l Letter) error {
		found.add(l)
		if len(o.IDs) > 0 || !o.bySubject() {
			ids = append(ids, l.ID)
		}
		return nil
	}, func(_ uint64, err error) error { return err })
	switch {
	case err != nil:
		return err
	case found.total() == 0:
		return say(out, "no dead letters")
	case !o.Yes:
		return fmt.Errorf("%d dead letters would be removed for good (%s): say --yes to do it", found.total(), found)
	}
	if ids == nil {
		err = b.removeBySubject(ctx, o.subject(), last)
	}
	for _, id := range ids {
		if err = b.Remove(ctx, id); err != nil {
			break
		}
	}
	if err != nil {
		return err
	}
	return say(out, "removed %d dead letters: %s", found.total(), found)
}

func say(out io.Writer, format string, args ...any) error {
	if _, err := fmt.Fprintf(out, format+"\n", args...); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

func writeJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
