package tail

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/command"
	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Config says what to show. Embed it in the command line.
type Config struct {
	Channel     string        `help:"Show this channel only. A person's channel as a@b, in either order." placeholder:"ID"`
	ChannelType uint8         `help:"Type of the channel." default:"2"`
	Person      []string      `help:"Show the person's channel of these two uids." placeholder:"UID,UID"`
	Commands    bool          `help:"Of the channel, show the commands (sync_once), which have a sequence of their own."`
	FromSeq     uint64        `help:"Of the channel, begin at this message_seq."`
	Last        uint64        `help:"Of the channel, begin so many messages before the end."`
	Since       config.Moment `help:"Begin at this time, as 2026-01-31T12:00:00Z or as a time before now, 15m." placeholder:"TIME"`
	Follow      bool          `short:"f" help:"Continue with messages as they come, until interrupted. Without --from-seq, --last or --since, only those."`
	Live        bool          `help:"Show no_persist messages as they come: alone, only those; with --follow, both. They are stored nowhere, so past ones cannot be shown."`
	Limit       uint64        `help:"Show so many messages at most; 0 for no limit." default:"0"`
	Format      string        `help:"text, or json: one object a line." enum:"text,json" default:"text"`
}

// Check reports every setting that is wrong.
func (c Config) Check() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(len(c.Person) == 0 || len(c.Person) == 2, "--person: must be two uids, separated by a comma")
	check(len(c.Person) == 0 || c.Channel == "", "--person and --channel: only one can be given")
	for _, uid := range c.Person {
		check(uid != "" && !strings.Contains(uid, "@"), "--person %q: must not be empty or hold @", uid)
	}
	check(message.ChannelType(c.ChannelType).Valid(), "--channel-type %d: must be 1 to 255", c.ChannelType)
	one := c.Channel != "" || len(c.Person) == 2
	check(one || c.FromSeq == 0, "--from-seq: is of a channel, and none is given")
	check(one || c.Last == 0, "--last: is of a channel, and none is given")
	check(one || !c.Commands, "--commands: is of a channel, and none is given")
	places := 0
	for _, given := range []bool{c.FromSeq > 0, c.Last > 0, !c.Since.IsZero()} {
		if given {
			places++
		}
	}
	check(places <= 1, "--from-seq, --last and --since: only one can be given")
	check(places == 0 || c.Follow || !c.Live, "--live: shows only what comes; give --follow too, for stored messages from --from-seq, --last or --since")
	if one && message.ChannelType(c.ChannelType) == message.ChannelPerson && len(c.Person) == 0 {
		check(strings.Count(c.Channel, "@") == 1, "--channel %q: a person's channel is two uids joined by @", c.Channel)
	}
	return errors.Join(errs...)
}

// comes reports whether what comes is shown, until it is interrupted.
func (c Config) comes() bool { return c.Follow || c.Live }

// stored reports whether the message log is shown.
func (c Config) stored() bool { return c.Follow || !c.Live }

// channel is the canonical channel that is asked for; ok is false if all are.
func (c Config) channel() (name string, kind message.ChannelType, ok bool) {
	name, kind = c.Channel, message.ChannelType(c.ChannelType)
	switch {
	case len(c.Person) == 2:
		name, kind = message.PersonChannel(c.Person[0], c.Person[1]), message.ChannelPerson
	case c.Channel == "":
		return "", 0, false
	case kind == message.ChannelPerson:
		a, b, _ := strings.Cut(c.Channel, "@")
		name = message.PersonChannel(a, b)
	}
	if c.Commands {
		name += message.CommandSuffix
	}
	return name, kind, true
}

// Command is `sendhouse tail`.
type Command struct {
	command.Broker
	Config
}

// Check implements config.Checker.
func (c *Command) Check() error { return errors.Join(c.Broker.Check(), c.Config.Check()) }

// Run shows the messages.
func (c *Command) Run(in *command.Invocation) error {
	return in.Ask(in.Ctx, c.OrLocal(), command.Reader, func(ctx context.Context, js jetstream.JetStream, deployment topology.Deployment) error {
		return Run(ctx, c.Config, js, deployment.Partitions, in.Stdout)
	})
}
