package outcome

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/permission"
)

// TestEveryOutcomeIsWhole checks the table of outcomes.
func TestEveryOutcomeIsWhole(t *testing.T) {
	t.Parallel()
	codes := make(map[string]bool)
	for o := range Count {
		s := o.Spec()
		require.NotZero(t, s.Status)
		require.Regexp(t, `^[a-z_]+$`, s.Code)
		require.False(t, codes[s.Code], "%s stands there twice", s.Code)
		codes[s.Code] = true
		require.Equal(t, s.Status == 503 || s.Status == 429, s.RetryAfter > 0, s.Code)
	}
}

// Every verdict has its own outcome, with the verdict's reason.
func TestVerdictsHaveOutcomes(t *testing.T) {
	t.Parallel()
	seen := make(map[Outcome]permission.Verdict)
	for v := range permission.Verdicts {
		o := Of(v)
		require.NotContains(t, seen, o)
		seen[o] = v
		if v != permission.Allowed && v != permission.Unavailable {
			require.Equal(t, http.StatusForbidden, o.Spec().Status)
			require.Equal(t, v.Reason(), o.Spec().Reason)
			require.NotZero(t, v.Reason())
		}
	}
}
