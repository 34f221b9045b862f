package client_test

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
)

// What docs/reference/api.md says of each answer to a send, written or not, is what MaybeStored says of it.
func TestMaybeStoredIsAsDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/reference/api.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(text), "| status | code | when | written? |\n|---|---|---|---|\n")
	require.True(t, found, "the table of answers to a send")
	table, _, _ = strings.Cut(table, "\n\n")
	var codes []string
	for row := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|")
		require.Len(t, cells, 4, row)
		statuses := regexp.MustCompile(`\d+`).FindAllString(cells[0], -1)
		written := strings.TrimSpace(cells[3])
		require.Contains(t, []string{"no", "yes", "perhaps"}, written, row)
		for i, code := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
			status, err := strconv.Atoi(statuses[min(i, len(statuses)-1)])
			require.NoError(t, err, row)
			answer := &client.Error{Status: status, Code: code[1]}
			require.Equal(t, written != "no", answer.MaybeStored(), "%d %s", status, code[1])
			codes = append(codes, code[1])
		}
	}
	require.Subset(t, codes, []string{"invalid_json", "too_large", "wal_refused", "permissions_unavailable", "outcome_unknown", "no_answer", "internal"})
}
