package testkit

import "sync"

// tail is a writer that keeps the last bytes written to it.
type tail struct {
	max int

	mu   sync.Mutex
	kept []byte
}

func newTail(bytesMax int) *tail { return &tail{max: bytesMax} }

// Write never fails.
func (o *tail) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = append(o.kept, p...)
	// Cut only when twice the size is reached, so that not every line is a copy of all.
	if len(o.kept) > 2*o.max {
		cut := len(o.kept) - o.max
		o.kept = append(o.kept[:0], o.kept[cut:]...)
	}
	return len(p), nil
}

// String gives what is kept.
func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	kept := o.kept
	if len(kept) > o.max {
		kept = kept[len(kept)-o.max:]
	}
	return string(kept)
}
