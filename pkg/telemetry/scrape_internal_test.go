package telemetry

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A scraper that hangs up each time does not fill the log.
func TestFailedScrapesAreLoggedOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := &scrapeLog{log: slog.New(slog.NewTextHandler(&out, nil))}
	for range 100 {
		l.Println("error encoding and sending metric family:", errors.New("write: broken pipe"))
	}
	require.Equal(t, 1, strings.Count(out.String(), "\n"), out.String())
	require.Contains(t, out.String(), "broken pipe")
}
