package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/guard"
	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// authorized posts the example with an Authorization header, unless it is empty.
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
		partitions: 1, config: func(c *Config) { c.Access.APITokensFile = path },
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

// TestLoopbackWithoutTokens: an address that others can reach requires tokens, or --insecure.
func TestLoopbackWithoutTokens(t *testing.T) {
	t.Parallel()
	for addr, loopback := range map[string]bool{
		"127.0.0.1:5001": true, "127.9.9.9:1": true, "[::1]:5001": true, "localhost:5001": true, "[::ffff:127.0.0.1]:1": true,
		":5001": false, "0.0.0.0:5001": false, "[::]:5001": false, "10.0.0.1:5001": false, "example.org:5001": false, "localhost.example.org:1": false,
	} {
		cfg := defaultConfig(t)
		cfg.APIAddr = config.Addr(addr)
		if loopback {
			require.NoError(t, cfg.Check(guard.Hosts{}), addr)
			continue
		}
		require.ErrorContains(t, cfg.Check(guard.Hosts{}), "--insecure", addr)
		cfg.Access.Insecure = true
		require.NoError(t, cfg.Check(guard.Hosts{}), addr)
		cfg.Access.Insecure, cfg.Access.APITokensFile = false, tokenFile(t, "send sha256:"+strings.Repeat("0", 64)+"\n")
		require.NoError(t, cfg.Check(guard.Hosts{}), addr)
	}
}

func TestNewReportsTheTokenFile(t *testing.T) {
	t.Parallel()
	cfg := defaultConfig(t)
	cfg.Access.APITokensFile, cfg.RequestsMax = filepath.Join(t.TempDir(), "none"), 0
	_, err := New(cfg, Deps{Logger: logger(t), Registerer: prometheus.NewRegistry()})
	require.ErrorContains(t, err, "api-tokens-file")
	require.ErrorContains(t, err, "requests-max")
}

// TestTokenRate: each token has its own rate; sends above it are answered 429, with the time to wait.
func TestTokenRate(t *testing.T) {
	t.Parallel()
	path := tokenFile(t, tokenLine("send", "one")+tokenLine("send", "two"))
	b := setup(t, options{partitions: 1, config: func(c *Config) {
		c.Access.APITokensFile, c.Access.TokenRate, c.Access.TokenBurst = path, 0.1, 3
	}})
	b.sequence()
	for range 3 {
		require.Equal(t, http.StatusOK, b.authorized(t, "/message/send", "Bearer one").status)
	}
	g := b.authorized(t, "/message/send", "Bearer one")
	require.Equal(t, http.StatusTooManyRequests, g.status, g.raw)
	requireShape(t, g)
	require.Equal(t, "rate_limited", g.code())
	require.Contains(t, g.body["msg"], "token")
	after, err := strconv.Atoi(g.header.Get("Retry-After"))
	require.NoError(t, err)
	require.True(t, after >= 5 && after <= 10, "one send in 10 s: %d", after)
	require.Equal(t, http.StatusOK, b.authorized(t, "/message/send", "Bearer two").status)
	require.Equal(t, "unauthorized", b.authorized(t, "/message/send", "Bearer three").code())

	// A change of the file resets no rate.
	require.NoError(t, os.WriteFile(path, []byte(tokenLine("send,read", "one")+tokenLine("send", "three")), 0o600))
	testkit.WaitFor(t, testTimeout, "the third token", func(context.Context) error {
		if g := b.authorized(t, "/message/send", "Bearer three"); g.status != http.StatusOK {
			return errors.New(g.raw)
		}
		return nil
	})
	require.Equal(t, "rate_limited", b.authorized(t, "/message/send", "Bearer one").code())
}

// TestAddressRate: guessing tokens is charged too, and so is every item of a bulk.
func TestAddressRate(t *testing.T) {
	t.Parallel()
	path := tokenFile(t, tokenLine("send", "one"))
	b := setup(t, options{partitions: 1, config: func(c *Config) {
		c.Access.APITokensFile, c.Access.AddressRate, c.Access.AddressBurst = path, 0.1, 5
		c.Access.TrustedProxies = []string{"127.0.0.0/8"}
	}})
	b.sequence()
	from := func(address, path, contentType, body, token string) got {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("X-Forwarded-For", address)
		g, err := b.do(req)
		require.NoError(t, err)
		return g
	}
	for range 5 {
		require.Equal(t, "unauthorized", from("10.0.0.1", "/message/send", "application/json", example, "guess").code())
	}
	g := from("10.0.0.1", "/message/send", "application/json", example, "one")
	require.Equal(t, "rate_limited", g.code(), g.raw)
	requireShape(t, g)
	require.Contains(t, g.body["msg"], "address")

	bulk := from("10.0.0.2", "/message/sendbatch", "application/json", `{"from_uid":"a","subscribers":["1","2","3","4","5","6","7","8"],"payload":"aGk="}`, "one")
	require.Equal(t, http.StatusOK, bulk.status, bulk.raw)
	g = from("10.0.0.2", "/message/send", "application/json", example, "one")
	require.Equal(t, "rate_limited", g.code())
	after, err := strconv.Atoi(g.header.Get("Retry-After"))
	require.NoError(t, err)
	require.Greater(t, after, 30, "it owes for three")
	require.Equal(t, http.StatusOK, from("10.0.0.3", "/message/send", "application/json", example, "one").status)
}

func TestDoorSettings(t *testing.T) {
	t.Parallel()
	for says, change := range map[string]func(*Config){
		"api-token-rate -1":        func(c *Config) { c.Access.TokenRate = -1 },
		"needs api-tokens-file":    func(c *Config) { c.Access.TokenRate = 1 },
		"api-address-rate 0.001":   func(c *Config) { c.Access.AddressRate = 0.001 },
		"api-address-burst -1":     func(c *Config) { c.Access.AddressBurst = -1 },
		"api-trusted-proxies":      func(c *Config) { c.Access.TrustedProxies = []string{"localhost"} },
		"api-cors-origins":         func(c *Config) { c.Access.CORSOrigins = []string{"example.org"} },
		"api-connections-max 0":    func(c *Config) { c.ConnectionsMax = 0 },
		"https://example.org/x":    func(c *Config) { c.Access.CORSOrigins = []string{"https://example.org/x"} },
		"want * or a scheme":       func(c *Config) { c.Access.CORSOrigins = []string{"*", "null"} },
		`"https://Example.org" is`: func(c *Config) { c.Access.CORSOrigins = []string{"https://Example.org"} },
	} {
		cfg := defaultConfig(t)
		change(&cfg)
		require.ErrorContains(t, cfg.Check(guard.Hosts{}), says)
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	const page = "https://chat.example.org"
	ask := func(b *bundle, method, path string, header ...string) (status int, answer http.Header) {
		req, err := http.NewRequestWithContext(t.Context(), method, b.url+path, bytes.NewReader([]byte(example)))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := b.client.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		return res.StatusCode, res.Header
	}
	preflight := []string{"Origin", page, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type"}

	off := setup(t, options{partitions: 1})
	off.sequence()
	status, _ := ask(off, http.MethodOptions, "/message/send", preflight...)
	require.Equal(t, http.StatusMethodNotAllowed, status)
	status, header := ask(off, http.MethodPost, "/message/send", "Origin", page)
	require.Equal(t, http.StatusForbidden, status)
	for name := range header {
		require.False(t, strings.HasPrefix(name, "Access-Control"), name)
	}

	tokens := tokenFile(t, tokenLine("send", "one"))
	on := setup(t, options{partitions: 1, config: func(c *Config) {
		c.Access.CORSOrigins, c.Access.APITokensFile = []string{"http://localhost:3000", page}, tokens
	}})
	on.sequence()
	status, header = ask(on, http.MethodOptions, "/message/send", preflight...)
	require.Equal(t, http.StatusNoContent, status, "without a token: browsers send none")
	require.Equal(t, page, header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "POST", header.Get("Access-Control-Allow-Methods"))
	require.Equal(t, "Authorization, Content-Type, X-Request-Id", header.Get("Access-Control-Allow-Headers"))
	require.Equal(t, "Origin", header.Get("Vary"))
	require.Empty(t, header.Get("Access-Control-Allow-Credentials"))
	status, _ = ask(on, http.MethodOptions, "/nowhere", preflight...)
	require.Equal(t, http.StatusNotFound, status)
	status, header = ask(on, http.MethodPost, "/message/send", "Origin", page, "Authorization", "Bearer one")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, page, header.Get("Access-Control-Allow-Origin"))
	require.Contains(t, header.Get("Access-Control-Expose-Headers"), "Retry-After")
	status, header = ask(on, http.MethodPost, "/message/send", "Origin", page)
	require.Equal(t, http.StatusUnauthorized, status)
	require.Equal(t, page, header.Get("Access-Control-Allow-Origin"), "the page may read why")
	status, header = ask(on, http.MethodPost, "/message/send", "Origin", "https://evil.example.org", "Authorization", "Bearer one")
	require.Equal(t, http.StatusForbidden, status)
	require.Empty(t, header.Get("Access-Control-Allow-Origin"))

	all := setup(t, options{partitions: 1, config: func(c *Config) { c.Access.CORSOrigins = []string{"*"} }})
	_, header = ask(all, http.MethodOptions, "/message/send", preflight...)
	require.Equal(t, "*", header.Get("Access-Control-Allow-Origin"))
	require.Empty(t, header.Get("Vary"))
	all.sequence()
	status, _ = ask(all, http.MethodPost, "/message/send", "Origin", page, "Sec-Fetch-Site", "cross-site")
	require.Equal(t, http.StatusOK, status)
}
