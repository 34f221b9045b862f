package process

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestConnectionsLeaveFiles: whatever the limit, all connections together leave the files that are reserved.
func TestConnectionsLeaveFiles(t *testing.T) {
	t.Parallel()
	for _, limit := range []fileLimit{filesLeast, 600, 1024, 4096, 65_536, 1 << 30} {
		for _, asked := range []int{1, 300, 16_384, 1 << 20} {
			var log strings.Builder
			p := &Process{Log: slog.New(slog.NewTextHandler(&log, nil)), files: limit}
			api := p.APIConnections(asked)
			nats := p.connections("NATS", shareNATS, natsConnectionsMax)
			all := api + max(8, api/4) + nats + p.connections("admin", shareAdmin, adminConnectionsMax)
			require.LessOrEqual(t, all+filesReserved, int(limit))
			require.Positive(t, nats)
			require.LessOrEqual(t, api, asked)
			require.Positive(t, api)
			require.Equal(t, api < asked, strings.Contains(log.String(), "the API"), "what was asked for and is not given is said")
			if api < asked {
				require.Contains(t, log.String(), "LimitNOFILE=65536")
			}
		}
	}
}

func TestReadFileLimit(t *testing.T) {
	t.Parallel()
	limit, err := readFileLimit()
	require.NoError(t, err)
	require.GreaterOrEqual(t, limit, fileLimit(filesLeast))
}
