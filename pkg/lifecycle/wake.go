package lifecycle

// Wake tells one goroutine that there is something to do. Signals that come before it receives from the channel count as
// one, so it looks at everything that there is to do after each.
type Wake chan struct{}

// NewWake makes one without a signal.
func NewWake() Wake { return make(Wake, 1) }

// Signal never blocks.
func (w Wake) Signal() {
	select {
	case w <- struct{}{}:
	default: // one is pending
	}
}
