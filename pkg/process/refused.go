package process

import (
	"path/filepath"
	"regexp"
	"strings"
)

// RefusedStart is the error with which an `up` ends that embeds NATS, with its data in a folder. The repairs that it names must start
// that NATS, so it adds the folder to them.
func RefusedStart(err error, dataDir string) error { return &refusedStartError{err, dataDir} }

type refusedStartError struct {
	error
	dataDir string
}

var namedRepair = regexp.MustCompile(`sendhouse repair [a-z-]+`)

// Error adds the data folder to the repairs that are named.
func (e *refusedStartError) Error() string {
	dir, err := filepath.Abs(e.dataDir)
	if err != nil {
		dir = e.dataDir // works in the same folder
	}
	if strings.ContainsFunc(dir, func(r rune) bool { return r == ' ' || r == '\'' }) {
		dir = "'" + strings.ReplaceAll(dir, "'", `'\''`) + "'"
	}
	return namedRepair.ReplaceAllStringFunc(e.error.Error(), func(repair string) string { return repair + " --data-dir " + dir })
}

// Unwrap returns the error itself.
func (e *refusedStartError) Unwrap() error { return e.error }
