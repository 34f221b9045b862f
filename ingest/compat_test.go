package ingest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/compat"
	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/pkg/guard"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// likeWuKongIM turns the mode on.
func likeWuKongIM(more ...func(*Config)) options {
	return options{partitions: 1, config: func(c *Config) {
		c.APICompat = compat.WuKongIM
		for _, change := range more {
			change(c)
		}
	}}
}

// raw sends a request as it is on a connection of its own, and returns the answer.
func (b *bundle) raw(t *testing.T, request string) got {
	t.Helper()
	c := b.dial(t)
	_, err := io.WriteString(c, request)
	require.NoError(t, err)
	return answerOn(t, bufio.NewReader(c))
}

func answerOn(t *testing.T, in *bufio.Reader) got {
	t.Helper()
	res, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	g := got{status: res.StatusCode, header: res.Header, raw: string(text)}
	decoder := json.NewDecoder(strings.NewReader(g.raw))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&g.body), g.raw)
	return g
}

// TestCompatAnswers: one answer is read by callers of the documentation, of v2 and of v3. The plain request comes by the fast path, the other by
// net/http.
func TestCompatAnswers(t *testing.T) {
	t.Parallel()
	b := setup(t, likeWuKongIM())
	b.sequence()
	for _, fields := range []string{"X-Plain: a", "X-Tab: a\tb"} {
		g := b.raw(t, head("/message/send", fmt.Sprintf("Content-Length: %d", len(example)), fields)+example)
		require.Equal(t, http.StatusOK, g.status, g.raw)
		for _, fields := range []any{g.body, g.body["data"]} {
			fields, ok := fields.(map[string]any)
			require.True(t, ok, g.raw)
			require.Equal(t, fields["message_idstr"], fmt.Sprint(fields["message_id"]))
			require.Equal(t, json.Number("1"), fields["message_seq"])
			require.Equal(t, "client_msg_123", fields["client_msg_no"])
		}
		require.Equal(t, json.Number("200"), g.body["status"])
		require.Equal(t, json.Number("1"), g.body["reason"])
		require.Len(t, g.body, 7)

		g = b.raw(t, head("/message/send", "Content-Length: 2", fields)+"{}")
		require.Equal(t, http.StatusBadRequest, g.status)
		require.Equal(t, g.body["msg"], g.body["error"])
		require.Contains(t, g.body["error"], "payload is required")
		require.Equal(t, json.Number("400"), g.body["status"])
	}
}

// TestCompatOff: without the mode the answer has the documentation's three fields and message_idstr, and nothing else of the mode is there.
func TestCompatOff(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	g := b.post(example)
	require.Equal(t, http.StatusOK, g.status, g.raw)
	id := g.body["message_id"]
	require.Equal(t, map[string]any{"message_id": id, "message_idstr": fmt.Sprint(id), "message_seq": json.Number("1"), "client_msg_no": "client_msg_123"}, g.body)
	g = b.post(`{}`)
	require.NotContains(t, g.body, "error")
	require.Equal(t, "unsupported_media_type", b.raw(t, posted("/message/send", "text/plain", example)).code())
	require.Equal(t, "from_uid", b.post(with(`"from_uid":""`)).body["field"])
	require.Equal(t, "from_uid", b.post(with(`"from_uid":" "`)).body["field"])
}

// TestCompatSender: an absent sender is the system account, for a single send and the items of a bulk.
func TestCompatSender(t *testing.T) {
	t.Parallel()
	b := setup(t, likeWuKongIM())
	sequencers := b.sequence()
	const rest = `"channel_id":"g1","channel_type":2,"payload":"aGk="`
	var want []string
	for _, row := range []struct{ fields, from string }{
		{"", permission.SystemUID},
		{`"from_uid":"",`, permission.SystemUID},
		{`"from_uid":null,`, permission.SystemUID},
		{`"from_uid":" \t",`, permission.SystemUID},
		{`"sender_uid":"",`, permission.SystemUID},
		{`"from_uid":"","sender_uid":"v3",`, "v3"},
		{`"from_uid":"u","sender_uid":"v3",`, "u"},
		{`"from_uid":"\u0075",`, "u"},
	} {
		body := "{" + row.fields + rest + "}"
		g := b.post(body)
		require.Equal(t, http.StatusOK, g.status, "%s: %s", body, g.raw)
		g = b.raw(t, posted("/message/sendbulk", "application/x-ndjson", body))
		require.Equal(t, json.Number("200"), g.body["status"], "%s: %s", body, g.raw)
		want = append(want, row.from, row.from)
	}
	var from []string
	sequencers[0].mu.Lock()
	defer sequencers[0].mu.Unlock()
	for _, batch := range sequencers[0].batches {
		for _, send := range batch.sends {
			from = append(from, send.GetFromUid())
		}
	}
	require.Equal(t, want, from)
	for _, wrong := range []string{`"from_uid":7`, `"from_uid":{}`, `"sender_uid":[]`, `"from_uid":" u"`} {
		require.NotEqual(t, http.StatusOK, b.post("{"+wrong+","+rest+"}").status, wrong)
	}
	g := b.call("/message/sendbatch", `{"subscribers":["a"],"payload":"aGk="}`)
	require.Equal(t, "from_uid", g.body["field"], "WuKongIM requires it there")
}

// TestCompatPerson: the system account writes to a person, by the person's uid.
func TestCompatPerson(t *testing.T) {
	t.Parallel()
	b := setup(t, likeWuKongIM())
	sequencers := b.sequence()
	require.Equal(t, http.StatusOK, b.post(`{"from_uid":"","channel_id":"bob","channel_type":1,"payload":"aGk="}`).status)
	name, err := message.CanonicalChannel(permission.SystemUID, "bob", message.ChannelPerson, false)
	require.NoError(t, err)
	sequencers[0].mu.Lock()
	defer sequencers[0].mu.Unlock()
	require.Equal(t, name, sequencers[0].batches[0].sends[0].GetChannelId())
}

// TestCompatPermissions: the mode leaves the lists to the callers, unless the setting says otherwise.
func TestCompatPermissions(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		compat, permissions string
		enforced            bool
	}{
		{compat.Off, "", true},
		{compat.Off, permission.ChannelOnly, false},
		{compat.WuKongIM, "", false},
		{compat.WuKongIM, permission.Enforce, true},
	} {
		t.Run(row.compat+" "+row.permissions, func(t *testing.T) {
			t.Parallel()
			b := setup(t, options{partitions: 1, config: func(c *Config) {
				c.APICompat, c.Permission.Permissions = row.compat, row.permissions
			}})
			b.sequence()
			refused := "accepted"
			b.manage("/channel", `{"channel_id":"g","channel_type":2,"subscribers":["a"]}`)
			b.manage("/channel/blacklist_add", `{"channel_id":"g","channel_type":2,"uids":["denied"]}`)
			if row.enforced {
				refused = "not_subscribed 3"
			}
			require.Equal(t, refused, b.sends("u", "g", 2, ""))
			if row.enforced {
				refused = "denylisted 4"
			}
			require.Equal(t, refused, b.sends("denied", "g", 2, ""))
			b.manage("/channel/info", `{"channel_id":"g","channel_type":2,"ban":1}`)
			require.Equal(t, "channel_banned 19", b.sends("a", "g", 2, ""))
			require.Equal(t, "accepted", b.sends(permission.SystemUID, "g", 2, ""))
			b.manage("/channel/delete", `{"channel_id":"g","channel_type":2}`)
			require.Equal(t, "channel_disbanded 24", b.sends(permission.SystemUID, "g", 2, ""))
		})
	}
}

// TestPermissionSettings: what the lists decide is not set where they do not count.
func TestPermissionSettings(t *testing.T) {
	t.Parallel()
	for says, change := range map[string]func(*Config){
		`ingest-permissions "all": must be enforce or channel`: func(c *Config) { c.Permission.Permissions = "all" },
		`api-compat "v2": must be off or wukongim`:             func(c *Config) { c.APICompat = "v2" },
		"ingest-undefined-channels refuse: needs --ingest-permissions=enforce": func(c *Config) {
			c.APICompat, c.Permission.UndefinedChannels = compat.WuKongIM, "refuse"
		},
		"ingest-person-allowlists: needs --ingest-permissions=enforce": func(c *Config) {
			c.Permission.Permissions, c.Permission.PersonAllowlists = permission.ChannelOnly, true
		},
	} {
		cfg := defaultConfig(t)
		change(&cfg)
		require.ErrorContains(t, cfg.Check(guard.Hosts{}), says)
	}
	cfg := defaultConfig(t)
	cfg.APICompat, cfg.Permission.Permissions, cfg.Permission.UndefinedChannels, cfg.Permission.PersonAllowlists = compat.WuKongIM, permission.Enforce, "refuse", true
	require.NoError(t, cfg.Check(guard.Hosts{}))
}

// TestCompatContentType: no Content-Type is looked at, by the fast path and by net/http, on the same connection.
func TestCompatContentType(t *testing.T) {
	t.Parallel()
	b := setup(t, likeWuKongIM())
	b.sequence()
	c := b.dial(t)
	in := bufio.NewReader(c)
	for _, field := range []string{
		"X: no Content-Type", "Content-Type: application/x-www-form-urlencoded", "Content-Type: text/plain;charset=UTF-8", "Content-Type: application/json; charset=gbk",
		"Content-Type: multipart/form-data; boundary=x", "Content-Type: a\r\nContent-Type: b", "Content-Type:", "Content-Type: text/plain\r\nX-Tab: a\tb", "Content-Type: text/html",
	} {
		for _, path := range []string{"/message/send", "/channel"} {
			_, err := io.WriteString(c, head(path, field, fmt.Sprintf("Content-Length: %d", len(example)))+example)
			require.NoError(t, err)
			g := answerOn(t, in)
			require.Equal(t, http.StatusOK, g.status, "%s %s: %s", path, field, g.raw)
		}
	}
	g := b.raw(t, head("/message/send", "Content-Encoding: gzip", fmt.Sprintf("Content-Length: %d", len(example)))+example)
	require.Equal(t, "unsupported_media_type", g.code(), "a compressed body is none")
}

// TestCompatPages: whatever its Content-Type, no request of a page of another origin changes anything; what a page would have to ask a browser's
// permission for is of no importance.
func TestCompatPages(t *testing.T) {
	t.Parallel()
	const named = "https://chat.example.org"
	b := setup(t, options{partitions: 1})
	for name, config := range map[string]func(*Config){
		"open":  func(*Config) {},
		"token": func(c *Config) { c.Access.APITokensFile = tokenFile(t, tokenLine("send,manage,read", "one")) },
	} {
		s := b.guarded(guard.Hosts{}, func(c *Config) {
			c.APICompat, c.Access.CORSOrigins = compat.WuKongIM, []string{named}
			config(c)
		})
		ask := func(method, path, contentType string, fields ...string) string {
			r := httptest.NewRequestWithContext(t.Context(), method, "http://localhost:5001"+path, strings.NewReader("{}"))
			r.Header.Set("Token", "one")
			if contentType != "" {
				r.Header.Set("Content-Type", contentType)
			}
			for i := 0; i < len(fields); i += 2 {
				r.Header.Set(fields[i], fields[i+1])
			}
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, r)
			return fmt.Sprint(w.Code, " ", w.Body)
		}
		for _, contentType := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json"} {
			eachRoute(t, s, func(method, path string) {
				if method != http.MethodPost {
					return
				}
				for _, page := range [][]string{
					{"Origin", "http://evil.example"}, {"Origin", "null"}, {"Origin", "http://localhost:5002"}, {"Origin", "http://localhost"},
					{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Sec-Fetch-Site", "cross-site", "Origin", "http://localhost:5001"},
					{"Sec-Fetch-Site", "cross-site", "Origin", "http://evil.example", "X-Forwarded-Host", "evil.example"},
				} {
					require.Contains(t, ask(method, path, contentType, page...), `"code":"cross_origin"`, "%s: %s %s %s", name, path, contentType, page)
				}
				for _, page := range [][]string{nil, {"Origin", "http://localhost:5001"}, {"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "cross-site", "Origin", named}} {
					require.NotContains(t, ask(method, path, contentType, page...), `"code":"cross_origin"`, "%s: %s %s %s", name, path, contentType, page)
				}
			})
		}
	}
}

// TestCompatToken: the header token is a bearer token, and pages of the named origins may send it.
func TestCompatToken(t *testing.T) {
	t.Parallel()
	const page = "https://chat.example.org"
	tokens := tokenFile(t, tokenLine("send,manage,read", "manager"))
	withTokens := func(c *Config) { c.Access.APITokensFile, c.Access.CORSOrigins = tokens, []string{page} }
	b := setup(t, likeWuKongIM(withTokens))
	b.sequence()
	length := fmt.Sprintf("Content-Length: %d", len(example))
	for _, row := range []struct {
		fields []string
		status int
	}{
		{[]string{"token: manager"}, http.StatusOK},
		{[]string{"TOKEN: manager", "X-Tab: a\tb"}, http.StatusOK},
		{[]string{"token: manager", "Authorization: Bearer of-another-system"}, http.StatusOK},
		{[]string{"token:", "Authorization: Bearer manager"}, http.StatusOK},
		{[]string{"Authorization: Bearer manager"}, http.StatusOK},
		{[]string{"token: other"}, http.StatusUnauthorized},
		{[]string{"token: other", "Authorization: Bearer manager"}, http.StatusUnauthorized},
		{[]string{"token: manager", "token: manager"}, http.StatusUnauthorized},
		{nil, http.StatusUnauthorized},
	} {
		g := b.raw(t, head("/message/send", append(row.fields, length)...)+example)
		require.Equal(t, row.status, g.status, "%s: %s", row.fields, g.raw)
	}
	preflight := func(b *bundle) http.Header {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, b.url+"/message/send", http.NoBody)
		require.NoError(t, err)
		req.Header.Set("Origin", page)
		req.Header.Set("Access-Control-Request-Method", "POST")
		res, err := b.client.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusNoContent, res.StatusCode)
		return res.Header
	}
	require.Contains(t, preflight(b).Get("Access-Control-Allow-Headers"), "token")
	off := setup(t, options{partitions: 1, config: withTokens})
	require.NotContains(t, preflight(off).Get("Access-Control-Allow-Headers"), "token")
	require.Equal(t, http.StatusUnauthorized, off.raw(t, head("/message/send", "token: manager", length)+example).status)
}

// TestCompatErrors: every error of the handler has error beside msg, those of the layers before the routes too.
func TestCompatErrors(t *testing.T) {
	t.Parallel()
	b := setup(t, likeWuKongIM())
	for _, request := range []string{
		head("/nowhere", "Content-Length: 0"),
		"GET /message/send HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /channel HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{}",
		head("/channel", "Origin: http://evil.example", "Content-Length: 2") + "{}",
		head("/message/send", "Content-Length: 1") + "[",
		head("/message/sendbulk", "Content-Type: text/plain", "Content-Length: 2") + "{}",
	} {
		g := b.raw(t, request)
		require.GreaterOrEqual(t, g.status, 400, request)
		require.NotEmpty(t, g.body["msg"])
		require.Equal(t, g.body["msg"], g.body["error"], request)
		require.Equal(t, json.Number(fmt.Sprint(g.status)), g.body["status"], request)
	}
}
