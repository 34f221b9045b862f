package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

const (
	wukongPage = "../../../docs/reference/wukongim.md"
	// readableWithin bounds how long a message that was answered may not be read yet.
	readableWithin = 30 * time.Second
)

// TestEndToEndWuKongIM makes the calls of programs written for WuKongIM, with and without --api-compat wukongim.
func TestEndToEndWuKongIM(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"wukongim", "off"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			up := newUp(t, "--api-compat="+mode, "--flush-interval=200ms")
			up.Start()
			for _, caller := range wukongCallers() {
				t.Run(caller.name, func(t *testing.T) {
					t.Parallel()
					for _, call := range caller.calls {
						if mode == "off" {
							up.callsPlainly(t, call)
						} else {
							up.callsLikeWuKongIM(t, call)
						}
					}
				})
			}
			t.Run("routes that are not served", func(t *testing.T) {
				t.Parallel()
				for _, route := range routesNotServed(t) {
					status, answer := up.calls(t, wukongCall{route: route, body: "{}"})
					require.Equal(t, http.StatusNotFound, status, route)
					require.Equal(t, "not_found", answer["code"], route)
				}
			})
		})
	}
}

// callsLikeWuKongIM makes a call with the mode on. What it reads may take a moment to be there.
func (h *node) callsLikeWuKongIM(t *testing.T, call wukongCall) {
	t.Helper()
	want := call.status
	if want == 0 {
		want = http.StatusOK
	}
	check := func() error {
		status, answer := h.calls(t, call)
		if status != want {
			return fmt.Errorf("status %d, want %d: %v", status, want, answer)
		}
		for path, value := range call.reads {
			if err := readAt(answer, path, value); err != nil {
				return fmt.Errorf("%w: %v", err, answer)
			}
		}
		return nil
	}
	if strings.Contains(call.route, "messagesync") {
		testkit.WaitFor(t, readableWithin, call.does, func(context.Context) error { return check() })
		return
	}
	require.NoError(t, check(), call.does)
}

// callsPlainly makes a call without the mode. It works, or is refused as the table says; a send is answered with the documentation's three
// fields and message_idstr, and a temporary channel is named.
func (h *node) callsPlainly(t *testing.T, call wukongCall) {
	t.Helper()
	status, answer := h.calls(t, call)
	if call.plain != "" {
		require.Equal(t, call.plain, answer["code"], "%s: %v", call.does, answer)
		require.NotContains(t, answer, "error", call.does)
		return
	}
	require.Equal(t, http.StatusOK, status, "%s: %v", call.does, answer)
	if path := strings.TrimSuffix(call.route, "/"); path == "/message/send" {
		fields := slices.Sorted(maps.Keys(answer))
		if strings.Contains(call.body, `"subscribers":["`) {
			fields = slices.DeleteFunc(fields, func(name string) bool { return strings.HasPrefix(name, "channel_") })
		}
		require.Equal(t, []string{"client_msg_no", "message_id", "message_idstr", "message_seq"}, fields, call.does)
	}
}

// calls makes a call. The elements of an answer that is an array have their places as names.
func (h *node) calls(t *testing.T, call wukongCall) (status int, answer map[string]any) {
	t.Helper()
	method, path, found := strings.Cut(call.route, " ")
	if !found {
		method, path = http.MethodPost, call.route
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+h.api+path, strings.NewReader(call.body))
	require.NoError(t, err)
	switch call.contentType {
	case "":
		req.Header.Set("Content-Type", "application/json")
	case noContentType:
	default:
		req.Header.Set("Content-Type", call.contentType)
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err, call.does)
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	var value any
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&value), "%s: %s", call.does, text)
	switch value := value.(type) {
	case map[string]any:
		return res.StatusCode, value
	case []any:
		answer = make(map[string]any)
		for i, element := range value {
			answer[strconv.Itoa(i)] = element
		}
	}
	return res.StatusCode, answer
}

// readAt compares what is at a path of an answer, such as messages.0.from_uid, with what a caller expects there.
func readAt(answer any, path string, want any) error {
	value, found := answer, true
	for name := range strings.SplitSeq(path, ".") {
		switch at := value.(type) {
		case map[string]any:
			value, found = at[name]
		case []any:
			i, err := strconv.Atoi(name)
			if found = err == nil && i < len(at); found {
				value = at[i]
			}
		default:
			found = false
		}
		if !found {
			value = nil
		}
	}
	var ok bool
	switch want {
	case nothing:
		ok = !found
	case something:
		ok = found && value != "" && value != json.Number("0")
	default:
		ok = found && fmt.Sprint(value) == fmt.Sprint(want)
	}
	if !ok {
		return fmt.Errorf("%s is %v, want %v", path, value, want)
	}
	return nil
}

// routesNotServed returns the routes that the documentation says are not served.
func routesNotServed(t *testing.T) (routes []string) {
	t.Helper()
	text, err := os.ReadFile(wukongPage)
	require.NoError(t, err)
	_, section, found := strings.Cut(string(text), "\n## Routes that are not served\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	route := regexp.MustCompile("`(/[a-zA-Z_./]+)`")
	for line := range strings.Lines(section) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, match := range route.FindAllStringSubmatch(cells[1], -1) {
				routes = append(routes, match[1])
			}
		}
	}
	require.Greater(t, len(routes), 20)
	return routes
}
