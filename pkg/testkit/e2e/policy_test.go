package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// TestEndToEndPermissionsKilled replaces the subscribers of a channel, thousands at a time, through one process,
// and kills it again and again on the way. Each list is in force as a whole or not at all, also in the other process, and none that was
// answered is lost.
func TestEndToEndPermissionsKilled(t *testing.T) {
	t.Parallel()
	nats := testkit.StartNATS(t, testkit.NATSOptions{})
	sequencer := newRole(t, "sequencer", append([]string{"--nats-url=" + nats.URL}, small...)...)
	first, second := newRole(t, "ingest", "--nats-url="+nats.URL), newRole(t, "ingest", "--nats-url="+nats.URL)
	for _, role := range []*node{sequencer, first, second} {
		role.Launch()
	}
	for _, role := range []*node{sequencer, first, second} {
		role.WaitReady()
	}
	var list int64 // the last one that was answered, and the first that was not
	for range 5 {
		var answered, tried atomic.Int64
		answered.Store(list)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for n := list + 1; ; n++ {
				tried.Store(n)
				if status, _, err := change(first.api, "/channel", subscribers(n)); err != nil || status != http.StatusOK {
					return // killed
				}
				answered.Store(n)
			}
		}()
		testkit.WaitFor(t, arriveTimeout, "lists to be answered", func(context.Context) error {
			if answered.Load() < list+3 {
				return fmt.Errorf("%d lists so far", answered.Load()-list)
			}
			return nil
		})
		first.Kill9()
		<-ended
		first.Start()
		list = inForce(t, first.api, answered.Load(), tried.Load())
		require.Equal(t, list, inForce(t, second.api, list, list), "both say the same")
	}
}

const listed = 3_000

func subscribers(n int64) string {
	uids := []string{"always"}
	for i := range listed {
		uids = append(uids, fmt.Sprintf("%d-%d", n, i))
	}
	body, err := json.Marshal(map[string]any{"channel_id": "g", "channel_type": 2, "reset": 1, "subscribers": uids})
	if err != nil {
		panic(err)
	}
	return string(body)
}

// inForce is the list that decides at a process: one of two, and no uid of the other.
func inForce(t *testing.T, api string, answered, tried int64) int64 {
	t.Helper()
	require.True(t, accepted(t, api, "always"))
	found := int64(-1)
	for n := max(answered-1, 1); n <= tried; n++ {
		whole := accepted(t, api, fmt.Sprintf("%d-0", n))
		for i := range 20 {
			require.Equal(t, whole, accepted(t, api, fmt.Sprintf("%d-%d", n, i*listed/20)), "list %d is there in part", n)
		}
		if whole {
			require.Equal(t, int64(-1), found, "two lists are in force")
			found = n
		}
	}
	require.GreaterOrEqual(t, found, answered, "what was answered is lost")
	return found
}

func accepted(t *testing.T, api, from string) bool {
	t.Helper()
	status, answer, err := change(api, "/message/send", fmt.Sprintf(`{"from_uid":%q,"channel_id":"g","channel_type":2,"payload":"aGk="}`, from))
	require.NoError(t, err)
	if status == http.StatusOK {
		return true
	}
	require.Contains(t, answer, `"not_subscribed"`)
	return false
}

// change posts a body to a process.
func change(api, path, body string) (status int, answer string, err error) {
	client := http.Client{Timeout: 4 * askTimeout}
	response, err := client.Post("http://"+api+path, "application/json", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }() // it is only read
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}
