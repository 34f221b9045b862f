package load

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// Config says what load to make. Embed it in the command line.
type Config struct {
	Target      string        `help:"Base URL of the API." default:"http://127.0.0.1:5001" placeholder:"URL"`
	APIToken    config.Secret `name:"api-token" help:"Bearer token to send with, where the API wants one." placeholder:"TOKEN"`
	Rate        float64       `help:"Open loop: sends per second, whatever the answers. 0: closed loop, each connection sends when it has its answer." default:"0"`
	Concurrency int           `help:"Connections. In an open loop, how many requests can be under way." default:"64"`
	Duration    time.Duration `help:"How long to measure, after the warm-up. Default: 10s, or no limit where --count is given."`
	Count       uint64        `help:"How many sends, warm-up included; 0 for no limit."`
	WarmUp      time.Duration `name:"warm-up" help:"Send for this long before measuring. What is sent in it is checked like the rest." default:"1s"`

	Channels    uint32        `help:"Channels that the sends are spread over." default:"10000"`
	Zipf        float64       `help:"Exponent of a Zipf distribution over the channels, for example 0.99; 0 for a uniform one." default:"0"`
	ChannelType uint8         `help:"Type of the channels: 1 person, 2 group." default:"2"`
	PayloadSize PayloadSizes  `help:"Bytes of a payload: a size (100B), a range (100B-32KiB), or a mix with weights (100B:80,1KiB:15,32KiB:5)." default:"100B"`
	Duplicates  float64       `help:"Share of sends that repeat an answered one, 0 to 0.9." default:"0"`
	Bulk        int           `help:"Sends in a request, over /message/sendbulk; 0 for single sends." default:"0"`
	Timeout     time.Duration `help:"How long an answer may take before the send is tried again." default:"15s"`
	GiveUp      time.Duration `help:"How long a send is tried again before it counts as not answered." default:"60s"`
	Seed        uint64        `help:"Seed of the channels, sizes and contents; 0 picks one and prints it." default:"0"`
}

// Limits of the settings.
const (
	concurrencyMax = 16_384
	channelsMax    = 100_000_000
	bulkMax        = 10_000
	bulkBytesMax   = 16 << 20 // of /message/sendbulk
	durationUsual  = 10 * time.Second
)

// Check reports every setting out of its range.
func (c Config) Check() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	target, err := url.Parse(c.Target)
	check(err == nil && (target.Scheme == "http" || target.Scheme == "https") && target.Host != "", "--target %q: must be an http or https URL", c.Target)
	check(c.Rate >= 0 && c.Rate <= 1e7, "--rate %g: must be 0 to 10000000", c.Rate)
	check(c.Concurrency >= 1 && c.Concurrency <= concurrencyMax, "--concurrency %d: must be 1 to %d", c.Concurrency, concurrencyMax)
	check(c.Duration >= 0, "--duration %s: must not be negative", c.Duration)
	check(c.WarmUp >= 0, "--warm-up %s: must not be negative", c.WarmUp)
	check(c.Channels >= 1 && c.Channels <= channelsMax, "--channels %d: must be 1 to %d", c.Channels, channelsMax)
	check(c.Zipf >= 0 && c.Zipf <= 10, "--zipf %g: must be 0 to 10", c.Zipf)
	kind := message.ChannelType(c.ChannelType)
	check(kind == message.ChannelPerson || kind == message.ChannelGroup, "--channel-type %d: must be 1 or 2", c.ChannelType)
	check(c.PayloadSize.max() >= payloadBytesMin, "--payload-size: is missing")
	check(c.Duplicates >= 0 && c.Duplicates <= 0.9, "--duplicates %g: must be 0 to 0.9", c.Duplicates)
	check(c.Bulk >= 0 && c.Bulk <= bulkMax, "--bulk %d: must be 0 to %d", c.Bulk, bulkMax)
	check(c.Bulk*(c.PayloadSize.max()*4/3+envelopeBytesMax) <= bulkBytesMax, "--bulk %d of up to %d bytes each: a request may have %d bytes", c.Bulk, c.PayloadSize.max(), bulkBytesMax)
	check(c.Timeout > 0, "--timeout %s: must be above 0", c.Timeout)
	check(c.GiveUp >= 0, "--give-up %s: must not be negative", c.GiveUp)
	return errors.Join(errs...)
}

// limit is the time to measure, 0 for no limit.
func (c Config) limit() time.Duration {
	if c.Duration == 0 && c.Count == 0 {
		return durationUsual
	}
	return c.Duration
}
