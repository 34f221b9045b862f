package replay

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// Config says what to replay. Embed it in the command line.
type Config struct {
	Source           string        `help:"Where messages are read: messages, the message log; or wal, the write-ahead log, which makes the same ones again, of the time since it was trimmed, where the message log has lost them." enum:"messages,wal" default:"messages"`
	From             config.Moment `help:"Begin with messages of this time, as 2026-01-31T12:00:00Z or as a time before now, 2h." placeholder:"TIME"`
	Until            config.Moment `help:"End before messages of this time." placeholder:"TIME"`
	FromPartitionSeq uint64        `name:"from-partition-seq" help:"Begin at this partition_seq of each partition." default:"0"`
	Channel          []string      `name:"replay-channel" help:"Only these channels, as TYPE/ID: 2/group123, 1/alice@bob." placeholder:"TYPE/ID"`
	Partition        []int         `name:"replay-partition" help:"Only these partitions." placeholder:"N"`
	Rate             float64       `name:"replay-rate" help:"Messages per second at most; 0 for as many as go." default:"0"`
	State            string        `help:"File that makes the replay resumable: its position is written here, and read at the next start." placeholder:"PATH"`
}

// Values of Config.Source.
const (
	FromMessages = "messages"
	FromWAL      = "wal"
)

// Check reports every setting that is wrong.
func (c Config) Check() error {
	var errs []error
	if !c.From.IsZero() && c.FromPartitionSeq > 0 {
		errs = append(errs, errors.New("--from and --from-partition-seq: only one can be given"))
	}
	if !c.From.IsZero() && !c.Until.IsZero() && !c.From.Before(c.Until.Time) {
		errs = append(errs, errors.New("--until: must be after --from"))
	}
	if c.Rate < 0 {
		errs = append(errs, fmt.Errorf("--replay-rate %g: must not be negative", c.Rate))
	}
	for _, text := range c.Channel {
		if _, _, err := parseChannel(text); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// parseChannel reads TYPE/ID and returns the canonical channel.
func parseChannel(text string) (string, message.ChannelType, error) {
	kindText, name, _ := strings.Cut(text, "/")
	number, err := strconv.ParseUint(kindText, 10, 8)
	kind := message.ChannelType(number)
	if err != nil || !kind.Valid() || name == "" {
		return "", 0, fmt.Errorf("--replay-channel %q: must be a type from 1 to 255, a slash and a channel, as in 2/group123", text)
	}
	if kind == message.ChannelPerson {
		a, b, ok := strings.Cut(name, "@")
		if !ok {
			return "", 0, fmt.Errorf("--replay-channel %q: a person's channel is two uids joined by @", text)
		}
		command := strings.HasSuffix(b, message.CommandSuffix)
		name = message.PersonChannel(a, strings.TrimSuffix(b, message.CommandSuffix))
		if command {
			name += message.CommandSuffix
		}
	}
	return name, kind, nil
}

// channels returns the channels to read of a partition, none for all; wanted is false if none of the
// channels, or not the partition, is asked for.
func (c Config) channels(partition, partitions int) (channels []messagelog.Channel, wanted bool, err error) {
	if len(c.Partition) > 0 && !slices.Contains(c.Partition, partition) {
		return nil, false, nil
	}
	for _, text := range c.Channel {
		name, kind, err := parseChannel(text)
		if err != nil {
			return nil, false, err
		}
		if topology.Partitions(partitions).Of(name, kind) == partition {
			if channel := (messagelog.Channel{ID: name, Type: kind}); !slices.Contains(channels, channel) {
				channels = append(channels, channel)
			}
		}
	}
	return channels, len(c.Channel) == 0 || len(channels) > 0, nil
}
