package replay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

const stateVersion = 2

// state is what the state file holds.
type state struct {
	Version int    `json:"version"`
	Replay  string `json:"replay"` // a name that no other has
	// Asked is what was asked for. A state can only be resumed with the same.
	Asked string       `json:"asked"`
	Mark  uint64       `json:"mark"` // of the sink, after the last whole batch
	Parts []*partState `json:"parts"`
}

// partState is the replay of a partition.
type partState struct {
	Partition int       `json:"partition"`
	Created   time.Time `json:"created"` // the message log, which numbers are of
	First     uint64    `json:"first"`
	Last      uint64    `json:"last"` // fixed when the replay began
	Done      uint64    `json:"done"` // up to here the sink has everything; First-1 at the start
}

// loadState reads the state file; nil if there is none.
func loadState(path, asked string) (*state, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // a replay from the start
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // a replay from the start
	}
	if err != nil {
		return nil, fmt.Errorf("--state: %w", err)
	}
	s := new(state)
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("--state %s: is damaged: %w", path, err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("--state %s: has version %d, this program knows %d", path, s.Version, stateVersion)
	}
	if s.Asked != asked {
		return nil, fmt.Errorf("--state %s: is of another replay (%s); this one is %s", path, s.Asked, asked)
	}
	return s, nil
}

// save replaces the state file, whole or not at all, and on disk when it returns.
func (s *state) save(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	if err := lifecycle.ReplaceFile(path, text, 0o666); err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	return nil
}
