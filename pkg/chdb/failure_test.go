package chdb

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Statements that fail again and again, as the inserts of a client that retries, do not fill the log.
func TestFailuresAreLoggedOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	e := &Engine{log: slog.New(slog.NewTextHandler(&out, nil))}
	for range 100 {
		e.logFailure(t.Context(), call{}, &Exception{Code: 469, Message: "Constraint is violated. (VIOLATED_CONSTRAINT)"})
	}
	e.logFailure(t.Context(), call{}, &Exception{Code: 43, Message: "Illegal type String of argument of function plus. (ILLEGAL_TYPE_OF_ARGUMENT)"})
	e.logFailure(t.Context(), call{}, errors.New("another"))
	require.Equal(t, 2, strings.Count(out.String(), "ClickHouse statement failed"), out.String())
}
