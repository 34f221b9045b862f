package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// language is one in which pkg/client has a client.
type language struct {
	name, program, debianPackage string
	folder                       string   // below pkg/client
	tests                        []string // arguments that run its tests
	drive                        string   // a program of the tests that sends much
}

func languages() []language {
	return []language{
		{name: "JavaScript", program: "node", debianPackage: "nodejs", folder: "js", tests: []string{"--test", "test/rules.test.mjs", "test/faults.test.mjs", "test/server.test.mjs"}, drive: "test/drive.mjs"},
		{name: "Python", program: "python3", debianPackage: "python3", folder: "python", tests: []string{"-W", "error", "-m", "unittest", "discover", "-s", "tests", "-t", "."}, drive: "tests/drive.py"},
	}
}

// launch starts the language's program in the folder of its client.
func (l language) launch(t *testing.T, env []string, args ...string) *testkit.Process {
	t.Helper()
	folder, err := filepath.Abs(filepath.Join("../../client", l.folder))
	require.NoError(t, err)
	p := testkit.NewProcess(t, testkit.ProcessConfig{
		Name: l.name, Path: testkit.Program(t, l.program, l.debianPackage), Args: args, Dir: folder, OutputBytesMax: 4 << 20,
		Env: append(env, "PYTHONPATH="+folder, "PYTHONDONTWRITEBYTECODE=1"),
	})
	p.Launch()
	return p
}

// TestEndToEndLanguages runs the tests of the clients in other languages: against a whole Sendhouse, and against a server that fails in the
// ways that they name.
func TestEndToEndLanguages(t *testing.T) {
	t.Parallel()
	const secret = "the-token-of-the-tests"
	tokens := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(tokens, fmt.Appendf(nil, "send,read,manage sha256:%x\n", sha256.Sum256([]byte(secret))), 0o600))
	up := newUp(t, "--api-tokens-file="+tokens)
	up.Start()
	f := newFaulty(t)
	for _, l := range languages() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			p := l.launch(t, []string{"SENDHOUSE_URL=http://" + up.api, "SENDHOUSE_TOKEN=" + secret, "SENDHOUSE_FAULTY_URL=" + f.URL}, l.tests...)
			require.Equal(t, 0, p.Wait(5*time.Minute), "%s", p.Output())
		})
	}
}

// What each drive sends, and to how many channels at a time.
const (
	driveChannels = 4
	driveSends    = 60 // to a channel one after another, and as many more in bulks
	driveKills    = 4
)

// TestEndToEndLanguagesThroughKills kills Sendhouse while the clients send. Each send is acknowledged and stored once, and those that follow
// each other keep their order.
func TestEndToEndLanguagesThroughKills(t *testing.T) {
	t.Parallel()
	up := newUp(t)
	up.Start()
	all := languages()
	drives := make([]*testkit.Process, len(all))
	for i, l := range all {
		drives[i] = l.launch(t, []string{
			"SENDHOUSE_URL=http://" + up.api, fmt.Sprintf("DRIVE_CHANNELS=%d", driveChannels), fmt.Sprintf("DRIVE_SENDS=%d", driveSends),
		}, l.drive, l.folder)
	}
	acknowledged := func() (n int) {
		for _, d := range drives {
			n += strings.Count(d.Output(), "\n")
		}
		return n
	}
	each := driveChannels * driveSends * 2
	for kill := 1; kill <= driveKills; kill++ {
		testkit.WaitFor(t, 2*time.Minute, "acknowledged sends", func(context.Context) error {
			if n := acknowledged(); n < kill*each*len(all)/(driveKills+2) {
				return fmt.Errorf("%d are acknowledged", n)
			}
			return nil
		})
		up.Kill9()
		up.Start()
	}
	acks := make(map[string]driven)
	for i, l := range all {
		require.Equal(t, 0, drives[i].Wait(5*time.Minute), "%s: %s", l.name, drives[i].Output())
		for line := range strings.Lines(drives[i].Output()) {
			var one driven
			require.NoError(t, json.Unmarshal([]byte(line), &one), "%s: %s", l.name, line)
			require.NotContains(t, acks, one.ClientMsgNo)
			acks[one.ClientMsgNo] = one
		}
	}
	require.Len(t, acks, len(all)*each)
	tb := embeddedTable(t, up)
	tb.await(t, len(acks))
	rows := tb.rows(t)
	require.Len(t, rows, len(acks), "none is stored twice")
	for _, r := range rows {
		if !strings.Contains(r.channelID, "bulk") { // whose items may overtake each other when some are sent again
			require.Equal(t, fmt.Sprintf("%s-%d", r.channelID, r.seq), r.clientMsgNo)
		}
		require.Equal(t, driven{ClientMsgNo: r.clientMsgNo, ID: fmt.Sprint(r.id), Seq: r.seq}, acks[r.clientMsgNo])
		require.Equal(t, "héllo 群 "+r.clientMsgNo, r.payload)
	}
}

// driven is a line that a drive writes for each send that was acknowledged.
type driven struct {
	ClientMsgNo string `json:"client_msg_no"`
	ID          string `json:"id"`
	Seq         uint64 `json:"seq"`
}
