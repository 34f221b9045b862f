package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// asked is what list, show and purge share: the flags for the connection, and opening the stream over it. Requeueing
// inserts rows, so its command is in package writer.
type asked struct{ broker.ClientConfig }

func (a asked) ask(in *command.Invocation, question func(context.Context, *Stream) error) error {
	return in.Ask(in.Ctx, a.ClientConfig, command.Operator, func(ctx context.Context, js jetstream.JetStream, _ topology.Deployment) error {
		stream, err := Open(ctx, js)
		if err != nil {
			return err
		}
		return question(ctx, stream)
	})
}

// Check implements config.Checker.
func (a asked) Check() error { return a.CheckGiven() }

// ListCommand is `sendhouse deadletters ls`.
type ListCommand struct {
	asked
	ListOptions
}

// Check implements config.Checker.
func (c *ListCommand) Check() error { return errors.Join(c.asked.Check(), c.ListOptions.Check()) }

// Run lists letters.
func (c *ListCommand) Run(in *command.Invocation) error {
	return c.ask(in, func(ctx context.Context, stream *Stream) error { return List(ctx, stream, c.ListOptions, in.Stdout) })
}

// ShowCommand is `sendhouse deadletters show`.
type ShowCommand struct {
	asked
	ShowOptions
}

// Run shows a letter.
func (c *ShowCommand) Run(in *command.Invocation) error {
	return c.ask(in, func(ctx context.Context, stream *Stream) error { return Show(ctx, stream, c.ShowOptions, in.Stdout) })
}

// PurgeCommand is `sendhouse deadletters purge`.
type PurgeCommand struct {
	asked
	PurgeOptions
}

// Check implements config.Checker.
func (c *PurgeCommand) Check() error { return errors.Join(c.asked.Check(), c.PurgeOptions.Check()) }

// Run removes letters.
func (c *PurgeCommand) Run(in *command.Invocation) error {
	return c.ask(in, func(ctx context.Context, stream *Stream) error { return Purge(ctx, stream, c.PurgeOptions, in.Stdout) })
}

// ListOptions are the flags of the command that lists.
type ListOptions struct {
	Filter
	Limit int  `help:"How many to list, the oldest first; the counts are of all. 0 lists none." default:"100" env:"-"`
	JSON  bool `help:"Print JSON instead of a table." env:"-"`
}

// Check reports everything that is wrong with the options.
func (o ListOptions) Check() error {
	if o.Limit < 0 {
		return errors.Join(o.Filter.Check(), fmt.Errorf("--limit %d: must not be negative", o.Limit))
	}
	return o.Filter.Check()
}

// Listing is what List prints as JSON.
type Listing struct {
	Counts  []Group `json:"counts"`
	Letters []Entry `json:"letters"`
	More    bool    `json:"more"` // there are more letters than listed
}

// List prints the letters that the filter allows, and how many there are of each role and reason.
func List(ctx context.Context, s *Stream, o ListOptions, out io.Writer) error {
	if err := o.Check(); err != nil {
		return err
	}
	var all groups
	letters := []Entry{}
	if _, err := s.Walk(ctx, o.Filter, func(l Entry) error {
		all.add(l)
		if len(letters) < o.Limit {
			l.Body = nil
			letters = append(letters, l)
		}
		return nil
	}); err != nil {
		return err
	}
	more := all.total() > uint64(len(letters))
	if o.JSON {
		return writeJSON(out, Listing{Counts: append([]Group{}, all...), Letters: letters, More: more})
	}
	return writeTable(out, all, letters, more)
}

// errorBytesMax is how much of an error the table shows; the whole is in show and in JSON.
const errorBytesMax = 160

func writeTable(out io.Writer, all groups, letters []Entry, more bool) error {
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
func Purge(ctx context.Context, s *Stream, o PurgeOptions, out io.Writer) error {
	if err := o.Check(); err != nil {
		return err
	}
	var found groups
	var ids []uint64
	last, err := o.Walk(ctx, s, func(l Entry) error {
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
		err = s.removeBySubject(ctx, o.subject(), last)
	}
	for _, id := range ids {
		if err = s.Remove(ctx, id); err != nil {
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
