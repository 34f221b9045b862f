package telemetry

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Set by the linker (see the Makefile): -X github.com/sendhouse/sendhouse/pkg/telemetry.version=…
//
//nolint:gochecknoglobals // the linker can set nothing else
var (
	version  string
	revision string
)

// Build says which program this is.
type Build struct {
	Version   string `json:"version"`    // as released, or "devel"
	Revision  string `json:"revision"`   // of the source, with the suffix "-dirty" if that was changed; or "unknown"
	GoVersion string `json:"go_version"` // of the toolchain
	Platform  string `json:"platform"`   // operating system and architecture, as in linux/amd64
}

// ReadBuild returns the values that the linker set, and for the rest what the Go toolchain recorded.
func ReadBuild() Build {
	info, _ := debug.ReadBuildInfo() // nil when the binary was built without modules
	return newBuild(version, revision, info)
}

func newBuild(version, revision string, info *debug.BuildInfo) Build {
	b := Build{
		Version:   version,
		Revision:  revision,
		GoVersion: runtime.Version(),
		Platform:  runtime.GOOS + "/" + runtime.GOARCH,
	}
	if info != nil {
		if b.Version == "" && info.Main.Version != "(devel)" {
			b.Version = info.Main.Version
		}
		if b.Revision == "" {
			b.Revision = recordedRevision(info)
		}
	}
	if b.Version == "" {
		b.Version = "devel"
	}
	if b.Revision == "" {
		b.Revision = "unknown"
	}
	return b
}

func recordedRevision(info *debug.BuildInfo) string {
	var revision, suffix string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			suffix = "-dirty"
		}
	}
	if revision == "" {
		return ""
	}
	return revision + suffix
}

// String is one line for people: what `sendhouse version` prints.
func (b Build) String() string {
	return fmt.Sprintf("sendhouse %s (revision %s, %s, %s)", b.Version, b.Revision, b.GoVersion, b.Platform)
}
