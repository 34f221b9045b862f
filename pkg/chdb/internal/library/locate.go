package library

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// EnvPath names the environment variable that, when set, holds the path of the library to load; the cache folder is then not looked at.
const EnvPath = "SENDHOUSE_CHDB_LIB"

// installHint ends each error that a fetch would cure.
const installHint = "run `make deps`"

// ErrMissing reports that no library was found at the paths that were tried.
var ErrMissing = errors.New("libchdb is missing")

// ErrCorrupt says that there is something in the library's place that is not the library.
var ErrCorrupt = errors.New("libchdb is damaged")

// markerSuffix is added to the library's path for the file that records what was installed there. It is written last, so that a library
// without one is an installation that was cut short.
const markerSuffix = ".installed.json"

// marker is what a fetch records beside the library. With it a start can tell the right build from a wrong or truncated one without
// reading half a gigabyte.
type marker struct {
	Package   string `json:"package"`
	Version   string `json:"version"`
	Integrity string `json:"integrity"`
	SizeBytes int64  `json:"size_bytes"`
	SHA256    string `json:"sha256"`
}

// Locate returns the path of the library to load: the one named by override, else the one named by the environment variable EnvPath,
// else the pinned build in the cache folder, which must be there whole. It reads no more than the file's size and its marker.
func Locate(override string) (string, error) {
	for _, named := range []struct{ path, origin string }{{override, "the configuration"}, {os.Getenv(EnvPath), EnvPath}} {
		if named.path != "" {
			return named.path, checkNamed(named.path, named.origin)
		}
	}
	pin, err := Pinned()
	if err != nil {
		return "", err
	}
	path, err := cachePath(pin)
	if err != nil {
		return "", err
	}
	return path, checkInstalled(pin, path)
}

// cachePath is where the pinned build belongs in the user's cache folder.
func cachePath(pin Pin) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the folder that caches libchdb: %w; set %s to the library's path instead", err, EnvPath)
	}
	return filepath.Join(cache, "sendhouse", "chdb", pin.Version+"-"+pin.Platform, pin.FileName), nil
}

func checkNamed(path, origin string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s names %s, and there is no such file", ErrMissing, origin, path)
	}
	if err != nil {
		return fmt.Errorf("look at the libchdb named by %s: %w", origin, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s names %s, which is not a file", ErrCorrupt, origin, path)
	}
	return nil
}

// checkInstalled compares what lies at path with the pin, cheaply.
func checkInstalled(pin Pin, path string) error {
	recorded, err := readMarker(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s %s is not in %s; %s", ErrMissing, pin.Package, pin.Version, filepath.Dir(path), installHint)
	}
	if err != nil {
		return fmt.Errorf("%w: %w; %s", ErrCorrupt, err, installHint)
	}
	if recorded.Integrity != pin.Integrity {
		return fmt.Errorf("%w: %s is from %s %s, and %s %s is wanted; %s",
			ErrCorrupt, path, recorded.Package, recorded.Version, pin.Package, pin.Version, installHint)
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s was installed and is gone; %s", ErrMissing, path, installHint)
	}
	if err != nil {
		return fmt.Errorf("look at the installed libchdb: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() != recorded.SizeBytes {
		return fmt.Errorf("%w: %s has %d bytes and was installed with %d; %s", ErrCorrupt, path, info.Size(), recorded.SizeBytes, installHint)
	}
	return nil
}

func readMarker(path string) (marker, error) {
	var recorded marker
	text, err := os.ReadFile(path + markerSuffix)
	if err != nil {
		return recorded, fmt.Errorf("read what was installed: %w", err)
	}
	if err := json.Unmarshal(text, &recorded); err != nil {
		return recorded, fmt.Errorf("read what was installed at %s: %w", path, err)
	}
	return recorded, nil
}
