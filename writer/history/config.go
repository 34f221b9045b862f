package history

import (
	"errors"
	"fmt"
	"time"

	"github.com/sendhouse/sendhouse/pkg/config"
)

// Config holds the settings of an operator. Embed it in the command line.
type Config struct {
	HistoryRequestsMax  int             `help:"Concurrent client reads from ClickHouse (messagesync, status). Eight times as many may wait; further ones get 503." default:"16"`
	HistoryTimeout      time.Duration   `help:"Time after which a client read gets 503." default:"5s"`
	HistoryPageBytesMax config.ByteSize `help:"Maximum size of a page of messagesync, a batch of them or a lookup, regardless of its limit. A page that it cuts short has more = 1." default:"8MiB"`
	HistoryTailBytesMax config.ByteSize `help:"Memory for messages that clients can read before they are in ClickHouse, of all partitions, which share it evenly. While ClickHouse lags by more, reads that need the rest get 503." default:"64MiB"`
}

// Limits of the settings.
const (
	requestsMaxMax = 1024
	// A slower reply could exceed the write timeout of the listener.
	timeoutMax = 10 * time.Second
	// The largest message must fit on a page.
	pageBytesMin = 8 << 20
	pageBytesMax = 256 << 20
	// Each partition gets 2 MiB at least: see recent.New.
	tailBytesMin = 1 << 20
	tailBytesMax = 64 << 30
)

// Check reports every setting that is out of range.
func (c Config) Check() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.HistoryRequestsMax >= 1 && c.HistoryRequestsMax <= requestsMaxMax, "history-requests-max %d: must be 1 to %d", c.HistoryRequestsMax, requestsMaxMax)
	check(c.HistoryTimeout >= 10*time.Millisecond && c.HistoryTimeout <= timeoutMax, "history-timeout %s: must be 10ms to %s", c.HistoryTimeout, timeoutMax)
	check(c.HistoryPageBytesMax >= pageBytesMin && c.HistoryPageBytesMax <= pageBytesMax,
		"history-page-bytes-max %s: must be %s to %s", c.HistoryPageBytesMax, config.ByteSize(pageBytesMin), config.ByteSize(pageBytesMax))
	check(c.HistoryTailBytesMax >= tailBytesMin && c.HistoryTailBytesMax <= tailBytesMax,
		"history-tail-bytes-max %s: must be %s to %s", c.HistoryTailBytesMax, config.ByteSize(tailBytesMin), config.ByteSize(tailBytesMax))
	return errors.Join(errs...)
}
