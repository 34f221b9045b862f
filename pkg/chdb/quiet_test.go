package chdb

import (
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A panic is that of the caller, who may recover it, and the thread does what comes next.
func TestQuietThreads(t *testing.T) {
	t.Parallel()
	q := startQuiet(2, slog.New(slog.DiscardHandler))
	require.PanicsWithValue(t, "this", func() { q.do(func() { panic("this") }) })
	require.PanicsWithValue(t, "that", func() { q.do(func() { panic("that") }) })
	var together, all sync.WaitGroup
	together.Add(2)
	for range 2 {
		all.Go(func() {
			q.do(func() {
				together.Done()
				together.Wait() // both run, or neither ends
			})
		})
	}
	all.Wait()
	q.stop()
}
