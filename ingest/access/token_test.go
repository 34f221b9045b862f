package access

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/internal/ingesttest"
)

func TestTwoTokensAreNone(t *testing.T) {
	t.Parallel()
	_, ok := bearer(http.Header{"Authorization": {"Bearer a", "Bearer b"}})
	require.False(t, ok)
}

func TestTokenFile(t *testing.T) {
	t.Parallel()
	good := ingesttest.TokenLine("send", "secret")
	for _, row := range []struct{ name, content, says string }{
		{"empty", "", "holds no token"},
		{"only comments", "# send sha256:\n", "holds no token"},
		{"a token in place of its hash", good + "send opensesame\n", "line 2: must be"},
		{"a scope that there is not", ingesttest.TokenLine("send,opensesame", "x"), "line 1: must be"},
		{"no scope", "sha256:" + strings.Repeat("a", 64), "line 1: must be"},
		{"an empty scope", ingesttest.TokenLine("send,", "x"), "line 1: must be"},
		{"a short hash", "send sha256:" + strings.Repeat("a", 62), "line 1: must be"},
		{"no hex", "send sha256:" + strings.Repeat("x", 64), "line 1: must be"},
		{"three words", strings.TrimSpace(good) + " opensesame", "line 1: must be"},
		{"twice the same", good + ingesttest.TokenLine("read", "secret"), "line 2: the same token as in line 1"},
		{"too large", strings.Repeat("#", tokensBytesMax+1), "larger than 1MiB"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, err := openTokens(ingesttest.TokenFile(t, row.content), nil, slog.New(slog.DiscardHandler))
			require.ErrorContains(t, err, row.says)
			require.NotContains(t, err.Error(), "opensesame", "it may be a token")
		})
	}
	var many strings.Builder
	for i := range tokensMax + 1 {
		many.WriteString(ingesttest.TokenLine("send", fmt.Sprint(i)))
	}
	_, err := openTokens(ingesttest.TokenFile(t, many.String()), nil, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "at most 1000")
	_, err = openTokens(filepath.Join(t.TempDir(), "none"), nil, slog.New(slog.DiscardHandler))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestTokensReload: a change takes effect at the next poll; a broken file changes nothing, and is reported once.
func TestTokensReload(t *testing.T) {
	t.Parallel()
	path := ingesttest.TokenFile(t, ingesttest.TokenLine("send", "old"))
	synctest.Test(t, func(t *testing.T) {
		var log ingesttest.Log
		tokens, err := openTokens(path, nil, slog.New(slog.NewTextHandler(&log, nil)))
		require.NoError(t, err)
		stop := tokens.watch()
		defer stop()
		known := func(text string) bool {
			time.Sleep(2*tokens.poll + time.Millisecond) //nolint:forbidigo // of the bubble's clock
			synctest.Wait()
			_, known := tokens.find(text)
			return known
		}
		require.True(t, known("old"))
		require.Empty(t, log.String(), "nothing has changed")

		require.NoError(t, os.WriteFile(path, []byte(ingesttest.TokenLine("send", "new")), 0o600))
		require.True(t, known("new"))
		require.False(t, known("old"))
		require.Equal(t, 1, strings.Count(log.String(), "reloaded files"))

		require.NoError(t, os.WriteFile(path, []byte("send broken\n"), 0o600))
		require.True(t, known("new"), "the tokens of before stay")
		require.True(t, known("new"))
		require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), "said once")
		require.NotContains(t, log.String(), "broken")

		require.NoError(t, os.Remove(path))
		require.True(t, known("new"))
		require.Equal(t, 2, strings.Count(log.String(), "level=ERROR"), "another error")

		require.NoError(t, os.WriteFile(path, []byte(ingesttest.TokenLine("send", "new")), 0o600))
		require.True(t, known("new"))
		require.Equal(t, 2, strings.Count(log.String(), "level=INFO"), "it is whole again")
	})
}
