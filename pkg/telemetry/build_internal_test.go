package telemetry

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNewBuild(t *testing.T) {
	t.Parallel()
	recorded := func(version, revision, modified string) *debug.BuildInfo {
		return &debug.BuildInfo{
			Main: debug.Module{Version: version},
			Settings: []debug.BuildSetting{
				{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: revision}, {Key: "vcs.modified", Value: modified},
			},
		}
	}
	tests := []struct {
		name                  string
		version, revision     string
		info                  *debug.BuildInfo
		wantVersion, wantRevi string
	}{
		{"nothing known", "", "", nil, "devel", "unknown"},
		{"recorded", "", "", recorded("v1.2.3", "abc", "false"), "v1.2.3", "abc"},
		{"recorded, changed source", "", "", recorded("(devel)", "abc", "true"), "devel", "abc-dirty"},
		{"recorded without revision", "", "", recorded("(devel)", "", "true"), "devel", "unknown"},
		{"linker goes first", "v2.0.0", "def", recorded("v1.2.3", "abc", "true"), "v2.0.0", "def"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBuild(tt.version, tt.revision, tt.info)
			require.Equal(t, tt.wantVersion, b.Version)
			require.Equal(t, tt.wantRevi, b.Revision)
			require.Contains(t, b.String(), "sendhouse "+tt.wantVersion+" (revision "+tt.wantRevi+", "+runtime.Version())
		})
	}
}
