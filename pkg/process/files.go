package process

import (
	"fmt"
	"log/slog"
	"syscall"
)

// How the limit of open files (RLIMIT_NOFILE) is shared. Connections get no more than their shares of what is left when the files of the
// disk have theirs, so that no number of idle connections keeps a group commit, a checkpoint or a merge from its files.
const (
	// filesReserved is for logs, tables and connections of the process's own. `up` under load, with the engine still in it, was seen to have 222 open.
	filesReserved = 384
	// filesLeast is the smallest limit a process starts with.
	filesLeast = 512

	// The shares of what is left, as divisors. The API has a quarter of its share besides, for connections that are answered 503 because there is no room.
	shareAPI, shareNATS, shareAdmin = 2, 8, 16

	// What the embedded NATS and the admin listener have at most. The embedded ClickHouse has a limit of its own: see pkg/engine.
	natsConnectionsMax, adminConnectionsMax = 1024, 256
)

// fileLimit is how many files a process may have open.
type fileLimit int64

// readFileLimit reads the limit of this process, which the Go runtime has raised as far as it may.
func readFileLimit() (fileLimit, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	files := fileLimit(min(limit.Cur, 1<<30))
	if files < filesLeast {
		return 0, fmt.Errorf("limit of open files is %d, and %d are the least: raise it with `ulimit -n 65536`, or with LimitNOFILE=65536 in a systemd unit", files, filesLeast)
	}
	return files, nil
}

// share is how many connections may be open that have a part of what is left, and most at most.
func (l fileLimit) share(part, most int) int { return min(int(l-filesReserved)/part, most) }

// APIConnections bounds the connections of the API that were asked for to what the limit of open files allows.
func (p *Process) APIConnections(asked int) int { return p.connections("the API", shareAPI, asked) }

// connections bounds the connections that were asked for to a part of what the limit of open files leaves, and logs if that is less.
func (p *Process) connections(of string, part, asked int) int {
	allowed := p.files.share(part, asked)
	if allowed < asked {
		p.Log.Warn("limit of open files allows fewer connections: raise it with `ulimit -n 65536`, or with LimitNOFILE=65536 in a systemd unit",
			slog.String("of", of), slog.Int("connections_max", asked), slog.Int("allowed", allowed), slog.Int64("open_files_max", int64(p.files)))
	}
	return allowed
}
