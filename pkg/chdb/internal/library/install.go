package library

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
)

// librarySizeBytesMax bounds what is unpacked from an archive. The library has 560 MB.
const librarySizeBytesMax = 4 << 30

// ErrIntegrity says that an archive is not the pinned one, byte for byte. Nothing of it was installed.
var ErrIntegrity = errors.New("libchdb archive has the wrong hash")

// Pack brings the archive of pin into the folder dir and returns the archive's path.
type Pack func(ctx context.Context, pin Pin, dir string) (string, error)

// Installed is what Install did.
type Installed struct {
	// Path is where the library now is.
	Path string
	// Fetched reports whether it had to be fetched. False means that it was there already and no network was used.
	Fetched bool
}

// Install makes sure that the pinned build for this platform is in the cache folder. If it is there already, Install does nothing, unless
// verify asks it to hash the library and compare: a library that fails is fetched again. The library is written beside its place and
// renamed into it, so a reader sees the old one or the new one, never a part.
func Install(ctx context.Context, pack Pack, verify bool) (Installed, error) {
	pin, err := Pinned()
	if err != nil {
		return Installed{}, err
	}
	target, err := cachePath(pin)
	if err != nil {
		return Installed{}, err
	}
	return installAt(ctx, pin, target, pack, verify)
}

func installAt(ctx context.Context, pin Pin, target string, pack Pack, verify bool) (Installed, error) {
	if checkInstalled(pin, target) == nil && (!verify || checkContent(target) == nil) {
		return Installed{Path: target}, nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return Installed{}, fmt.Errorf("make the folder that caches libchdb: %w", err)
	}
	work, err := os.MkdirTemp(filepath.Dir(target), ".fetch-*")
	if err != nil {
		return Installed{}, fmt.Errorf("make a folder to fetch libchdb into: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()

	archive, err := pack(ctx, pin, work)
	if err != nil {
		return Installed{}, err
	}
	if err := checkIntegrity(archive, pin); err != nil {
		return Installed{}, err
	}
	unpacked := filepath.Join(work, pin.FileName)
	recorded, err := unpackLibrary(archive, unpacked, pin)
	if err != nil {
		return Installed{}, err
	}
	if err := put(unpacked, target, recorded); err != nil {
		return Installed{}, err
	}
	return Installed{Path: target, Fetched: true}, nil
}

// NPMPack is the Pack that uses the npm command. It respects whatever registry npm is configured with: the pinned hash, not the place it
// comes from, is what makes the archive the right one.
func NPMPack(ctx context.Context, pin Pin, dir string) (string, error) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", fmt.Errorf("fetch %s: npm is needed and not found: install Node.js, or set %s to a libchdb you have", pin.Package, EnvPath)
	}
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, npm, "pack", "--json", "--ignore-scripts", "--pack-destination", dir, pin.Package+"@"+pin.Version)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("npm pack %s@%s: %w: %s", pin.Package, pin.Version, err, bytes.TrimSpace(errOut.Bytes()))
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(archives) != 1 {
		return "", fmt.Errorf("npm pack %s@%s left %d archives in %s, want 1", pin.Package, pin.Version, len(archives), dir)
	}
	return archives[0], nil
}

func checkIntegrity(archive string, pin Pin) error {
	file, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("open the libchdb archive: %w", err)
	}
	defer func() { _ = file.Close() }()
	sum := sha512.New()
	if _, err := io.Copy(sum, file); err != nil {
		return fmt.Errorf("hash the libchdb archive: %w", err)
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(sum.Sum(nil)); got != pin.Integrity {
		return fmt.Errorf("%w: %s@%s has %s, and %s is pinned", ErrIntegrity, pin.Package, pin.Version, got, pin.Integrity)
	}
	return nil
}

// unpackLibrary writes the one library in the archive to target and returns the marker that describes it.
func unpackLibrary(archive, target string, pin Pin) (marker, error) {
	file, err := os.Open(archive)
	if err != nil {
		return marker{}, fmt.Errorf("open the libchdb archive: %w", err)
	}
	defer func() { _ = file.Close() }()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		return marker{}, fmt.Errorf("read the libchdb archive: %w", err)
	}
	for entries := tar.NewReader(unzipped); ; {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return marker{}, fmt.Errorf("%s@%s holds no libchdb", pin.Package, pin.Version)
		}
		if err != nil {
			return marker{}, fmt.Errorf("read the libchdb archive: %w", err)
		}
		if name := path.Base(entry.Name); entry.Typeflag == tar.TypeReg && (name == "libchdb.so" || name == "libchdb.dylib") {
			return writeLibrary(entries, target, pin)
		}
	}
}

func writeLibrary(from io.Reader, target string, pin Pin) (marker, error) {
	file, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return marker{}, fmt.Errorf("unpack libchdb: %w", err)
	}
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(file, sum), io.LimitReader(from, librarySizeBytesMax))
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return marker{}, fmt.Errorf("unpack libchdb: %w", err)
	}
	return marker{
		Package: pin.Package, Version: pin.Version, Integrity: pin.Integrity, SizeBytes: size, SHA256: hex.EncodeToString(sum.Sum(nil)),
	}, nil
}

// put renames the library into its place. The marker of what was there before goes first and the new one comes last: at no moment does a
// marker vouch for a file that it does not describe.
func put(unpacked, target string, recorded marker) error {
	if err := os.Remove(target + markerSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace libchdb: %w", err)
	}
	if err := os.Rename(unpacked, target); err != nil {
		return fmt.Errorf("put libchdb in its place: %w", err)
	}
	text, err := json.MarshalIndent(recorded, "", "  ")
	if err != nil {
		return fmt.Errorf("describe what was installed: %w", err)
	}
	written := unpacked + markerSuffix
	if err := os.WriteFile(written, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("record what was installed: %w", err)
	}
	if err := os.Rename(written, target+markerSuffix); err != nil {
		return fmt.Errorf("record what was installed: %w", err)
	}
	return nil
}

// checkContent hashes the whole library and compares it with its marker.
func checkContent(target string) error {
	recorded, err := readMarker(target)
	if err != nil {
		return err
	}
	file, err := os.Open(target)
	if err != nil {
		return fmt.Errorf("open the installed libchdb: %w", err)
	}
	defer func() { _ = file.Close() }()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return fmt.Errorf("hash the installed libchdb: %w", err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != recorded.SHA256 {
		return fmt.Errorf("%w: %s is not what was installed; %s", ErrCorrupt, target, installHint)
	}
	return nil
}
