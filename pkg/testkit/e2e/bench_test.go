package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEndToEndBenchSeesWhatIsPlanted verifies a run of sends against views in which the row of one of them is not
// as it was answered.
func TestEndToEndBenchSeesWhatIsPlanted(t *testing.T) {
	t.Parallel()
	up := newUp(t)
	up.Start()
	const rows = "sendhouse.messages"
	// The key of a send ends in its number.
	const planted = "endsWith(client_msg_no, '-7')"
	for name, view := range map[string]string{
		"right":   "SELECT * FROM " + rows,
		"missing": "SELECT * FROM " + rows + " WHERE NOT " + planted,
		"doubled": "SELECT * FROM " + rows + " UNION ALL SELECT * FROM " + rows + " WHERE " + planted,
		"changed": "SELECT * REPLACE (if(" + planted + ", concat(payload, ' '), payload) AS payload) FROM " + rows,
	} {
		up.execute(t, "CREATE DATABASE "+name)
		up.execute(t, "CREATE VIEW "+name+".messages AS "+view)
		status, output := command(t, append([]string{"bench", "--target=http://" + up.api, "--count=500", "--concurrency=16", "--verify", "--verify-patience=3s"},
			up.owner(name)...)...)
		if name == "right" {
			require.Equal(t, 0, status, output)
			require.Contains(t, output, "Rows: 500, each once, as sent and answered.")
			continue
		}
		require.Equal(t, 1, status, "%s: %s", name, output)
		require.Contains(t, output, "Rows: DIFFERENT: 500 wanted", name)
		require.Contains(t, output, "sends with a number of 7 modulo 1024", name)
	}
}
