package ingest

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/config"
)

// tokenLine is what `printf %s TOKEN | sha256sum` makes of a token.
func tokenLine(scopes, text string) string {
	return fmt.Sprintf("%s sha256:%x\n", scopes, sha256.Sum256([]byte(text)))
}

func tokenFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// authorized posts the example with an Authorization header, if it is not empty.
func (b *bundle) authorized(t *testing.T, path, authorization string) got {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+path, strings.NewReader(example))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	g, err := b.do(req)
	if err != nil { // an array or lines
		require.Equal(t, http.StatusOK, g.status, g.raw)
	}
	return g
}

func TestTokens(t *testing.T) {
	t.Parallel()
	var log syncBuffer
	path := tokenFile(t, "# who may\n\n"+tokenLine("send", "sender")+tokenLine("read,manage", "looker")+"  "+strings.TrimSpace(tokenLine("manage,send", "both"))+"\t# the back office\r\n")
	b := setup(t, options{
		partitions: 1, config: func(c *Config) { c.APITokensFile = path },
		log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	b.sequence()
	for _, row := range []struct {
		authorization string
		status        int
		code          string
		challenge     string
	}{
		{"Bearer sender", 200, "", ""},
		{"bearer  sender ", 200, "", ""},
		{"Bearer both", 200, "", ""},
		{"", 401, "unauthorized", `Bearer realm="sendhouse"`},
		{"Bearer", 401, "unauthorized", `Bearer realm="sendhouse"`},
		{"Basic c2VuZGVy", 401, "unauthorized", `Bearer realm="sendhouse"`},
		{"sender", 401, "unauthorized", `Bearer realm="sendhouse"`},
		{"Bearer sende", 401, "unauthorized", `Bearer realm="sendhouse", error="invalid_token"`},
		{"Bearer sender2", 401, "unauthorized", `Bearer realm="sendhouse", error="invalid_token"`},
		{fmt.Sprintf("Bearer %x", sha256.Sum256([]byte("sender"))), 401, "unauthorized", `Bearer realm="sendhouse", error="invalid_token"`},
		{"Bearer looker", 403, "insufficient_scope", `Bearer realm="sendhouse", error="insufficient_scope"`},
	} {
		t.Run(row.authorization, func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{"/message/send", "/message/sendbulk", "/message/sendbatch"} {
				g := b.authorized(t, path, row.authorization)
				if row.status == http.StatusOK && path == "/message/sendbatch" {
					require.Equal(t, "invalid_request", g.code(), "allowed, but the example has no receivers")
					continue
				}
				require.Equal(t, row.status, g.status, g.raw)
				require.Equal(t, row.challenge, g.header.Get("WWW-Authenticate"))
				if row.status != http.StatusOK {
					requireShape(t, g)
					require.Equal(t, row.code, g.code())
				}
			}
		})
	}
	t.Cleanup(func() { // when the rows are done
		for _, secret := range []string{"sender", "looker", fmt.Sprintf("%x", sha256.Sum256([]byte("sender")))} {
			if strings.Contains(log.String(), secret) {
				t.Errorf("the log holds %q", secret)
			}
		}
	})
	for _, probe := range []string{"/healthz", "/readyz"} {
		res, err := b.client.Get(b.url + probe)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode, "probes need none")
	}
}

func TestTwoTokensAreNone(t *testing.T) {
	t.Parallel()
	_, ok := bearer(http.Header{"Authorization": {"Bearer a", "Bearer b"}})
	require.False(t, ok)
}

func TestTokenFile(t *testing.T) {
	t.Parallel()
	good := tokenLine("send", "secret")
	for _, row := range []struct{ name, content, says string }{
		{"empty", "", "holds no token"},
		{"only comments", "# send sha256:\n", "holds no token"},
		{"a token in place of its hash", good + "send opensesame\n", "line 2: must be"},
		{"a scope that there is not", tokenLine("send,opensesame", "x"), "line 1: must be"},
		{"no scope", "sha256:" + strings.Repeat("a", 64), "line 1: must be"},
		{"an empty scope", tokenLine("send,", "x"), "line 1: must be"},
		{"a short hash", "send sha256:" + strings.Repeat("a", 62), "line 1: must be"},
		{"no hex", "send sha256:" + strings.Repeat("x", 64), "line 1: must be"},
		{"three words", strings.TrimSpace(good) + " opensesame", "line 1: must be"},
		{"twice the same", good + tokenLine("read", "secret"), "line 2: the same token as in line 1"},
		{"too large", strings.Repeat("#", tokensBytesMax+1), "larger than 1MiB"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, err := openTokens(tokenFile(t, row.content), nil, logger(t))
			require.ErrorContains(t, err, row.says)
			require.NotContains(t, err.Error(), "opensesame", "it may be a token")
		})
	}
	var many strings.Builder
	for i := range tokensMax + 1 {
		many.WriteString(tokenLine("send", fmt.Sprint(i)))
	}
	_, err := openTokens(tokenFile(t, many.String()), nil, logger(t))
	require.ErrorContains(t, err, "at most 1000")
	_, err = openTokens(filepath.Join(t.TempDir(), "none"), nil, logger(t))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestTokensReload: a change is in force with the next look at the file; a broken file
// changes nothing, and is reported once.
func TestTokensReload(t *testing.T) {
	t.Parallel()
	path := tokenFile(t, tokenLine("send", "old"))
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
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

		require.NoError(t, os.WriteFile(path, []byte(tokenLine("send", "new")), 0o600))
		require.True(t, known("new"))
		require.False(t, known("old"))
		require.Equal(t, 1, strings.Count(log.String(), "read again"))

		require.NoError(t, os.WriteFile(path, []byte("send broken\n"), 0o600))
		require.True(t, known("new"), "the tokens of before stay")
		require.True(t, known("new"))
		require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), "said once")
		require.NotContains(t, log.String(), "broken")

		require.NoError(t, os.Remove(path))
		require.True(t, known("new"))
		require.Equal(t, 2, strings.Count(log.String(), "level=ERROR"), "another error")

		require.NoError(t, os.WriteFile(path, []byte(tokenLine("send", "new")), 0o600))
		require.True(t, known("new"))
		require.Equal(t, 2, strings.Count(log.String(), "level=INFO"), "it is whole again")
	})
}

// TestNobodyElseWithoutTokens: an address that others reach needs tokens, or a word.
func TestNobodyElseWithoutTokens(t *testing.T) {
	t.Parallel()
	for addr, loopback := range map[string]bool{
		"127.0.0.1:5001": true, "127.9.9.9:1": true, "[::1]:5001": true, "localhost:5001": true, "[::ffff:127.0.0.1]:1": true,
		":5001": false, "0.0.0.0:5001": false, "[::]:5001": false, "10.0.0.1:5001": false, "example.org:5001": false, "localhost.example.org:1": false,
	} {
		cfg := defaultConfig(t)
		cfg.APIAddr = config.Addr(addr)
		if loopback {
			require.NoError(t, cfg.validate(), addr)
			continue
		}
		require.ErrorContains(t, cfg.validate(), "--insecure", addr)
		cfg.Insecure = true
		require.NoError(t, cfg.validate(), addr)
		cfg.Insecure, cfg.APITokensFile = false, "tokens"
		require.NoError(t, cfg.validate(), addr)
	}
}

func TestNewReportsTheTokenFile(t *testing.T) {
	t.Parallel()
	cfg := defaultConfig(t)
	cfg.APITokensFile, cfg.RequestsMax = filepath.Join(t.TempDir(), "none"), 0
	_, err := New(cfg, Deps{Logger: logger(t), Registerer: prometheus.NewRegistry()})
	require.ErrorContains(t, err, "api-tokens-file")
	require.ErrorContains(t, err, "requests-max")
}
