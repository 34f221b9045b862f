package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// requireReader has a reader, with the permissions that we ship, replay and show what the message logs hold, and show what comes.
func (g *guarded) requireReader(t *testing.T, api string, records []*record) {
	t.Helper()
	as := func(args ...string) []string { return slices.Concat(args, g.flags("reader")) }
	var want []string
	for _, r := range records {
		want = append(want, r.clientMsgNo)
	}
	for _, args := range [][]string{{"replay", "ndjson"}, {"tail", "--format=json"}, {"tail", "--since=1h", "--format=json"}} {
		require.ElementsMatch(t, want, clientMsgNos(t, as(args...)), "%v", args)
	}
	some := records[len(records)/2]
	of := []string{"tail", "--format=json", "--channel=" + some.channel(), fmt.Sprint("--channel-type=", some.channelType)}
	require.Contains(t, clientMsgNos(t, as(append(of, fmt.Sprint("--from-seq=", some.seq))...)), some.clientMsgNo)
	require.Len(t, clientMsgNos(t, as(append(of, "--last=1")...)), 1)

	fleeting, stored := regexp.MustCompile(`"message_seq":0,`), regexp.MustCompile(`"message_seq":[1-9]`)
	for i, c := range []struct {
		flags []string
		want  []*regexp.Regexp
	}{
		{[]string{"--live"}, []*regexp.Regexp{fleeting}},
		{[]string{"--follow"}, []*regexp.Regexp{stored}},
		{[]string{"--follow", "--live", "--from-seq=1"}, []*regexp.Regexp{fleeting, stored}},
	} {
		channel := fmt.Sprint("told-", i)
		p := testkit.StartProcess(t, testkit.ProcessConfig{
			Name: "tail", Path: binary(t), Args: as(append([]string{"tail", "--format=json", "--channel=" + channel}, c.flags...)...),
		})
		sent := 0
		testkit.WaitFor(t, arriveTimeout, "messages as they come", func(ctx context.Context) error {
			// Nothing signals that it listens, so the message is sent again.
			for persist := range 2 {
				body := fmt.Sprintf(`{"header":{"no_persist":%d},"from_uid":"u","channel_id":%q,"channel_type":2,"payload":"aGk="}`, persist, channel)
				if status, err := statusOf(ctx, http.DefaultClient, "http://"+api+"/message/send", body); err != nil || status != http.StatusOK {
					return fmt.Errorf("the send was answered %d: %w", status, err)
				}
			}
			sent++
			for _, want := range c.want {
				if !want.MatchString(p.Output()) {
					return fmt.Errorf("after %d of each kind it has shown no %s", sent, want)
				}
			}
			return nil
		})
		require.Equal(t, 0, p.Stop())
		require.NotContains(t, strings.ToLower(p.Output()), "permissions violation")
	}
}

// clientMsgNos runs a command that writes messages as JSON lines, and returns what the senders called them.
func clientMsgNos(t *testing.T, args []string) (all []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary(t), asOperator(args)...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	require.NoError(t, err, "%v: %s", args, errOut.String())
	require.NotContains(t, strings.ToLower(errOut.String()), "permissions violation")
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var line struct {
			ClientMsgNo string `json:"client_msg_no"`
		}
		require.NoError(t, decoder.Decode(&line))
		all = append(all, line.ClientMsgNo)
	}
	return all
}
