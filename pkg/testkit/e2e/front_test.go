package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// screenshotVariable makes the picture in the README again: FRONT_PAGE_SCREENSHOT=$PWD/docs/front-page.png make test PKG=./pkg/testkit/e2e RUN=TestEndToEndFrontPage
const screenshotVariable = "FRONT_PAGE_SCREENSHOT"

// TestEndToEndFrontPage looks at the front page in a real browser: it shows the rates of what is sent, and what is sent from it, by
// keyboard alone, arrives in the table.
func TestEndToEndFrontPage(t *testing.T) {
	t.Parallel()
	up := newUp(t)
	up.Start()
	b := newBrowser(t, chromedp.WindowSize(1400, 900))
	b.do(t, chromedp.Navigate("http://"+up.admin+"/"))
	awaitText(t, b, "#ready", "ready")
	require.Equal(t, "Sendhouse", b.text(t, "h1"))
	awaitText(t, b, "#partitions", "embedded")
	awaitText(t, b, "#letters", "There are none.")
	awaitText(t, b, "[data-stage=ingest] .main", "0/s")

	requireNames(t, b)
	sendByKeyboard(t, b, up)
	for n := range 20 {
		post(t, up, fmt.Sprintf(`{"client_msg_no":"rate-%d","from_uid":"u","channel_id":"g","channel_type":2,"payload":"aGk="}`, n))
	}
	for _, stage := range []string{"ingest", "WAL", "sequencer", "MESSAGES", "writer"} {
		testkit.WaitFor(t, arriveTimeout, "the rate of "+stage, func(context.Context) error {
			if rate := b.text(t, "[data-stage="+stage+"] .main"); !strings.HasSuffix(rate, "/s") || rate == "0/s" {
				return errors.New("it is " + rate)
			}
			return nil
		})
	}
	awaitText(t, b, "[data-stage=ClickHouse] .main", "21") // looked at every ten seconds

	back, text := brightness(t, b)
	require.Greater(t, back, text, "light is the default")
	if path := os.Getenv(screenshotVariable); path != "" {
		takePicture(t, b, up, path)
	}
	call(t, b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}})
	back, text = brightness(t, b)
	require.Less(t, back, text, "who prefers dark gets it")

	faults, hosts := b.seen()
	require.Empty(t, faults)
	require.Equal(t, map[string]bool{up.admin: true}, hosts, "it asks no other host")

	require.Equal(t, 0, up.Stop(), "with the page open")
	awaitText(t, b, "#gone", "does not answer")
}

// sendByKeyboard fills in the form and follows the message into the table. What is typed into a field replaces what is there, since reaching it by
// the tabulator selects that.
func sendByKeyboard(t *testing.T, b *browser, up *node) {
	t.Helper()
	const payload = `<b>"grüße"</b>` // shown as it is
	b.press(t, kb.Tab)
	require.Equal(t, "Skip to the form", b.focused(t))
	b.press(t, kb.Enter)
	for _, field := range []struct{ id, typed string }{{"channel", "keyboard"}, {"type", ""}, {"from", "typist"}, {"text", payload}, {"Send", kb.Enter}} {
		b.press(t, kb.Tab)
		require.Equal(t, field.id, b.focused(t))
		b.press(t, field.typed)
	}
	awaitText(t, b, "#steps", "answered after")
	awaitText(t, b, "#steps", "stored after")
	awaitText(t, b, "#row", payload)
	require.Equal(t, "Send", b.focused(t), "the focus stays")
	row := up.query(t, "SELECT channel_id, channel_type, from_uid, message_seq, payload FROM sendhouse.messages FORMAT TSVRaw")
	require.Equal(t, "keyboard\t2\ttypist\t1\t"+payload+"\n", row)
}

// requireNames fails the test if there is something to be used that a screen reader has no name for.
func requireNames(t *testing.T, b *browser) {
	t.Helper()
	named := map[string]int{}
	for _, n := range call(t, b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		if n.Ignored || n.Role == nil {
			continue
		}
		role := strings.Trim(string(n.Role.Value), `"`)
		switch role {
		case "textbox", "combobox", "button", "link", "navigation", "region", "table":
			require.NotNil(t, n.Name, role)
			require.NotEqual(t, `""`, string(n.Name.Value), role)
			named[role]++
		}
	}
	require.Equal(t, 3, named["textbox"])
	require.Equal(t, 1, named["combobox"])
	require.Equal(t, 1, named["button"])
	require.GreaterOrEqual(t, named["region"], 5)
}

// brightness returns the sums of red, green and blue of the page's background and text.
func brightness(t *testing.T, b *browser) (back, text int) {
	t.Helper()
	sum := func(property string) int {
		return eval[int](t, b, fmt.Sprintf("getComputedStyle(document.body)[%q].match(/\\d+/g).slice(0, 3).reduce((sum, n) => sum + Number(n), 0)", property))
	}
	return sum("backgroundColor"), sum("color")
}

func awaitText(t *testing.T, b *browser, selector, want string) {
	t.Helper()
	testkit.WaitFor(t, arriveTimeout, selector+" to say "+want, func(context.Context) error {
		if text := b.text(t, selector); !strings.Contains(text, want) {
			return fmt.Errorf("it says %q", text)
		}
		return nil
	})
}

// takePicture takes one of the page while some messages a second come in.
func takePicture(t *testing.T, b *browser, up *node, path string) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for n := range 1500 {
		<-ticker.C
		if n/250%2 == 0 || n%3 == 0 {
			post(t, up, fmt.Sprintf(`{"from_uid":"u%d","channel_id":"g%d","channel_type":2,"payload":"aGk="}`, n%7, n%50))
		}
	}
	b.do(t, chromedp.EmulateViewport(1400, 1240))
	eval[bool](t, b, "window.scrollTo(0, 0), document.activeElement.blur(), true")
	picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, picture, 0o644))
}

// TestEndToEndFrontPageApart looks at the pages of processes that have one role each: each shows its own part, and says of the others
// that they are not there. With tokens, the form needs one.
func TestEndToEndFrontPageApart(t *testing.T) {
	t.Parallel()
	nats := testkit.StartNATS(t, testkit.NATSOptions{})
	url := "--nats-url=" + nats.URL
	sequencer := newRole(t, "sequencer", append([]string{url}, small...)...)
	sequencer.Start()
	tokens := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(tokens, fmt.Appendf(nil, "send sha256:%x\n", sha256.Sum256([]byte("open sesame"))), 0o600))
	ingest := newRole(t, "ingest", url, "--api-tokens-file="+tokens)
	ingest.Start()

	b := newBrowser(t)
	b.do(t, chromedp.Navigate("http://"+sequencer.admin+"/"))
	awaitText(t, b, "#ready", "ready")
	awaitText(t, b, "[data-stage=sequencer]", "4 of 4")
	for _, stage := range []string{"ingest", "writer", "ClickHouse"} {
		require.Contains(t, b.text(t, "[data-stage="+stage+"]"), "not in this process")
	}
	awaitText(t, b, "#partitions", "known to processes with the role writer")
	require.Contains(t, b.text(t, "#no-form"), "no API")
	require.False(t, eval[bool](t, b, "document.querySelector('#send').checkVisibility()"))

	b.do(t, chromedp.Navigate("http://"+ingest.admin+"/"))
	awaitText(t, b, "[data-stage=ingest] .main", "/s")
	require.Contains(t, b.text(t, "[data-stage=sequencer]"), "not in this process")
	awaitText(t, b, "#partitions", "known to processes with the role sequencer")
	b.do(t, chromedp.SetValue(chromedp.CSS("#token"), "wrong"), chromedp.Focus(chromedp.CSS("#text")))
	b.press(t, kb.Enter)
	awaitText(t, b, "#steps", "not answered: 401")
	b.do(t, chromedp.SetValue(chromedp.CSS("#token"), "open sesame"), chromedp.Focus(chromedp.CSS("#text")))
	b.press(t, kb.Enter)
	awaitText(t, b, "#steps", "answered after")
	awaitText(t, b, "#steps", "whether it is stored cannot be asked") // there is no ClickHouse that this process could look into
}
