package client_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client"
)

// The clients in other languages are tested against the same file.
func TestRules(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/rules.json")
	require.NoError(t, err)
	var rules []struct {
		Status      int    `json:"status"`
		Code        string `json:"code"`
		Retryable   bool   `json:"retryable"`
		Refused     bool   `json:"refused"`
		MaybeStored bool   `json:"maybe_stored"`
	}
	require.NoError(t, json.Unmarshal(text, &rules))
	require.NotEmpty(t, rules)
	for _, r := range rules {
		e := &client.Error{Status: r.Status, Code: r.Code}
		require.Equal(t, r.Retryable, e.Retryable(), "%d %s", r.Status, r.Code)
		require.Equal(t, r.Refused, e.Refused(), "%d %s", r.Status, r.Code)
		require.Equal(t, r.MaybeStored, e.MaybeStored(), "%d %s", r.Status, r.Code)
	}
}
