package library

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// archive writes a package archive with the given files and returns its path and integrity.
func archive(t *testing.T, files map[string]string) (path, integrity string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "package.tgz")
	file, err := os.Create(path)
	require.NoError(t, err)
	zipped := gzip.NewWriter(file)
	packed := tar.NewWriter(zipped)
	for name, text := range files {
		require.NoError(t, packed.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}))
		_, err = packed.Write([]byte(text))
		require.NoError(t, err)
	}
	require.NoError(t, errors.Join(packed.Close(), zipped.Close(), file.Close()))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	sum := sha512.Sum512(content)
	return path, "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

// bench is a pin for an archive, a place for it, and a Pack that counts how often it is asked.
type bench struct {
	pin    Pin
	target string
	packed int
	pack   Pack
}

func setup(t *testing.T, files map[string]string) *bench {
	t.Helper()
	path, integrity := archive(t, files)
	b := &bench{
		pin:    Pin{Platform: "test", Package: "@test/lib", Version: "1.2.3", Integrity: integrity, FileName: "libchdb.so"},
		target: filepath.Join(t.TempDir(), "deep", "libchdb.so"),
	}
	b.pack = func(context.Context, Pin, string) (string, error) {
		b.packed++
		return path, nil
	}
	return b
}

func (b *bench) install(t *testing.T, verify bool) (Installed, error) {
	t.Helper()
	return installAt(t.Context(), b.pin, b.target, b.pack, verify)
}

func TestInstallFetchesOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, map[string]string{"package/index.js": "no", "package/libchdb.so": "the library"})
	require.ErrorIs(t, checkInstalled(b.pin, b.target), ErrMissing)
	for i := range 3 {
		got, err := b.install(t, i == 2)
		require.NoError(t, err)
		require.Equal(t, Installed{Path: b.target, Fetched: i == 0}, got)
	}
	require.Equal(t, 1, b.packed)
	text, err := os.ReadFile(b.target)
	require.NoError(t, err)
	require.Equal(t, "the library", string(text))
	left, err := os.ReadDir(filepath.Dir(b.target))
	require.NoError(t, err)
	require.Len(t, left, 2, "the library and its marker")
}

// What is not whole is seen without reading it, and fetched again.
func TestInstallMendsWhatIsDamaged(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(*testing.T, *bench){
		"truncated":    func(t *testing.T, b *bench) { require.NoError(t, os.Truncate(b.target, 3)) },
		"gone":         func(t *testing.T, b *bench) { require.NoError(t, os.Remove(b.target)) },
		"no marker":    func(t *testing.T, b *bench) { require.NoError(t, os.Remove(b.target+markerSuffix)) },
		"empty marker": func(t *testing.T, b *bench) { require.NoError(t, os.Truncate(b.target+markerSuffix, 0)) },
		"other version": func(t *testing.T, b *bench) {
			text, err := os.ReadFile(b.target + markerSuffix)
			require.NoError(t, err)
			changed := strings.Replace(string(text), "sha512-", "sha512-A", 1)
			require.NoError(t, os.WriteFile(b.target+markerSuffix, []byte(changed), 0o600))
		},
	} {
		b := setup(t, map[string]string{"package/libchdb.dylib": "the library"})
		_, err := b.install(t, false)
		require.NoError(t, err)
		damage(t, b)
		require.ErrorContains(t, checkInstalled(b.pin, b.target), "run `make deps`", name)
		got, err := b.install(t, false)
		require.NoError(t, err)
		require.True(t, got.Fetched, name)
		require.NoError(t, checkInstalled(b.pin, b.target), name)
	}
	// A change that keeps the size is seen only when asked to verify.
	b := setup(t, map[string]string{"package/libchdb.so": "the library"})
	_, err := b.install(t, false)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(b.target, []byte("the viruses"), 0o600))
	require.NoError(t, checkInstalled(b.pin, b.target))
	require.ErrorIs(t, checkContent(b.target), ErrCorrupt)
	got, err := b.install(t, true)
	require.NoError(t, err)
	require.True(t, got.Fetched)
	require.NoError(t, checkContent(b.target))
}

func TestInstallRefusesOtherArchives(t *testing.T) {
	t.Parallel()
	b := setup(t, map[string]string{"package/libchdb.so": "the library"})
	b.pin.Integrity = "sha512-AAAA"
	_, err := b.install(t, false)
	require.ErrorIs(t, err, ErrIntegrity)
	require.NoFileExists(t, b.target)

	b = setup(t, map[string]string{"package/index.js": "no library"})
	_, err = b.install(t, false)
	require.ErrorContains(t, err, "holds no libchdb")
	require.NoFileExists(t, b.target)

	b.pack = func(context.Context, Pin, string) (string, error) { return "", errors.New("no network") }
	_, err = b.install(t, false)
	require.ErrorContains(t, err, "no network")
}

func TestLocateNamedLibrary(t *testing.T) {
	file := filepath.Join(t.TempDir(), "libchdb.so")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	got, err := Locate(file)
	require.NoError(t, err)
	require.Equal(t, file, got)

	t.Setenv(EnvPath, file)
	got, err = Locate("")
	require.NoError(t, err)
	require.Equal(t, file, got)

	t.Setenv(EnvPath, file+".nosuch")
	_, err = Locate("")
	require.ErrorIs(t, err, ErrMissing)
	require.ErrorContains(t, err, EnvPath)
	t.Setenv(EnvPath, t.TempDir())
	_, err = Locate("")
	require.ErrorIs(t, err, ErrCorrupt)
}

// Without anything named, an empty cache folder is an error that says what to run.
func TestLocateInEmptyCache(t *testing.T) {
	t.Setenv(EnvPath, "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	_, err := Locate("")
	require.ErrorIs(t, err, ErrMissing)
	require.ErrorContains(t, err, "run `make deps`")
}

// Each platform that is promised has a pin that could be fetched.
func TestPins(t *testing.T) {
	t.Parallel()
	for _, platform := range []string{"linux/amd64", "linux/arm64", "darwin/arm64"} {
		goos, goarch, _ := strings.Cut(platform, "/")
		pin, err := pinnedFor(goos, goarch)
		require.NoError(t, err)
		require.True(t, strings.HasSuffix(pin.Package, "/lib-"+pin.Platform), pin.Package)
		hash, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(pin.Integrity, "sha512-"))
		require.NoError(t, err)
		require.Len(t, hash, sha512.Size)
		require.Regexp(t, `^26\.5\.\d+$`, pin.Version)
	}
	_, err := pinnedFor("windows", "amd64")
	require.ErrorIs(t, err, ErrUnsupportedPlatform)
}
