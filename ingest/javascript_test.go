package ingest

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// script runs JavaScript with Node.js and returns what it prints.
func script(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "send.mjs")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	out, err := exec.CommandContext(t.Context(), testkit.Program(t, "node", "nodejs"), file).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.TrimSpace(string(out))
}

// TestJavaScriptExample runs the example of the page, against a service: the message arrives in Chinese, and its ID is whole.
func TestJavaScriptExample(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/howto/javascript.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```js\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	require.Len(t, blocks, 1)
	const usual = `"http://localhost:5001"`
	require.Contains(t, blocks[0][1], usual)

	b := setup(t, options{partitions: 1, config: func(c *Config) { c.PayloadRules = "enforce" }})
	sequencers := b.sequence()
	example := strings.Replace(blocks[0][1], usual, quoted(b.url), 1)
	id := script(t, example)
	sequencers[0].mu.Lock()
	stored := sequencers[0].batches[0].sends[0]
	sequencers[0].mu.Unlock()
	require.JSONEq(t, `{"type":1,"content":"你好，世界"}`, string(stored.GetPayload()))
	require.Equal(t, "key-1", stored.GetClientMsgNo())
	answer := b.exchange(t, http.MethodPost, "/message/send", "application/json",
		`{"client_msg_no":"key-1","from_uid":"user123","channel_id":"group123","channel_type":2,"header":{"red_dot":1},"payload":"`+script(t, example+"\nconsole.log(toPayload({ type: 1, content: \"你好，世界\" }));")[len(id)+1:]+`"}`)
	var said struct {
		ID string `json:"message_idstr"`
	}
	require.NoError(t, json.Unmarshal(answer.raw, &said))
	require.Equal(t, said.ID, id, "sent again, it is the same message: %s", answer.raw)

	// A message comes back as it was, and a refusal is an error that says why.
	require.JSONEq(t, `{"type":1,"content":"é😀\u0000"}`, script(t, definitions(t, example)+`console.log(JSON.stringify(fromPayload(toPayload({ type: 1, content: "é😀\u0000" }))));`))
	require.Equal(t, "400 invalid_request: channel_id must not hold white space", script(t, definitions(t, example)+
		`await send("key-2", "user123", "a group", {}).catch((e) => console.log(e.message));`))
}

// definitions is the example up to the call.
func definitions(t *testing.T, example string) string {
	t.Helper()
	before, _, found := strings.Cut(example, "const id = ")
	require.True(t, found)
	return before
}

// TestJavaScriptTraps: what the page warns of is so.
func TestJavaScriptTraps(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1})
	b.sequence()
	require.Equal(t, "InvalidCharacterError", script(t, `try { btoa("你好"); } catch (e) { console.log(e.name); }`))
	require.Equal(t, "6Q==", script(t, `console.log(btoa("é"));`))
	said := script(t, `
		for (let n = 0, off = 0; n < 64; n++) {
			const answer = await fetch("`+b.url+`/message/send", { method: "POST", headers: { "Content-Type": "application/json" },
				body: JSON.stringify({ from_uid: "u", channel_id: "g", channel_type: 2, payload: "aGk=" }) });
			const said = await answer.json();
			if (String(said.message_id) !== said.message_idstr) off++;
			if (n === 63) console.log(off > 0);
		}
		const untyped = await fetch("`+b.url+`/message/send", { method: "POST", body: "{}" });
		console.log(untyped.status, (await untyped.json()).code);`)
	require.Equal(t, "true\n415 unsupported_media_type", said)
}
