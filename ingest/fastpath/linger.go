package fastpath

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// A client that is refused while it sends a large body reads the answer only when it has sent all of it, as most HTTP clients do. To close
// a connection with bytes unread resets it, and the client sees that in place of the answer. So what it still sends is read away, within
// these limits.
const (
	// LingerTimeout bounds the whole: enough for 10 MB at 1 MB/s.
	LingerTimeout = 10 * time.Second
	// LingerSilenceMax is how long a client may say nothing meanwhile.
	LingerSilenceMax = 2 * time.Second
	// LingerBytesMax is how much is read away.
	LingerBytesMax = 64 << 20
	// LingerConnectionsMax is how many connections linger at one time. Further ones are closed without.
	LingerConnectionsMax = 256

	// The same for [Linger], whose clients have been told all that they need to know.
	briefTimeout  = 500 * time.Millisecond
	briefBytesMax = 256 << 10
)

// Lingerer reads away what clients send that have been refused, for so many connections at one time. Make it with [NewLingerer]; it is safe
// for concurrent use.
type Lingerer struct {
	slots  chan struct{} // a token for each connection
	hurry  atomic.Bool
	limits limits
}

type limits struct {
	timeout, silence time.Duration
	bytes            int64
}

// NewLingerer makes one with the limits above.
func NewLingerer() *Lingerer {
	return &Lingerer{slots: make(chan struct{}, LingerConnectionsMax), limits: limits{LingerTimeout, LingerSilenceMax, LingerBytesMax}}
}

// Hurry makes connections linger for half a second after their next byte at most, because the server stops.
func (l *Lingerer) Hurry() { l.hurry.Store(true) }

// Linger ends the writing side of a connection and reads away what the client sends until it has seen that and closes its own side, or a
// limit is reached. The caller closes the connection then.
func (l *Lingerer) Linger(c net.Conn) error {
	if err := CloseWrite(c); err != nil {
		return err
	}
	select {
	case l.slots <- struct{}{}:
	default:
		return nil
	}
	defer func() { <-l.slots }()
	discard(c, l.limits, &l.hurry)
	return nil
}

// Linger ends the writing side of a connection, reads a little of what the client is still sending, and waits a little longer for it to
// read the answer. It takes half a second at most, beside what the connection's own CloseWrite takes; the caller closes the connection then.
func Linger(c net.Conn) {
	if CloseWrite(c) != nil {
		return
	}
	timer := time.NewTimer(briefTimeout)
	defer timer.Stop()
	if !discard(c, limits{briefTimeout, briefTimeout, briefBytesMax}, new(atomic.Bool)) {
		<-timer.C // it says more than it may
	}
}

// discard reads a connection to its end, and reports false if there was more than may be read away.
func discard(c net.Conn, most limits, hurry *atomic.Bool) bool {
	_, err := io.CopyN(io.Discard, &lingering{Conn: c, limits: most, until: time.Now().Add(most.timeout), hurry: hurry}, most.bytes)
	return err != nil
}

// lingering is a connection whose every read has a deadline.
type lingering struct {
	net.Conn
	limits
	until   time.Time
	hurry   *atomic.Bool
	hurried bool
}

func (l *lingering) Read(b []byte) (int, error) {
	now := time.Now()
	if l.hurry.Load() && !l.hurried {
		l.hurried = true
		if brief := now.Add(briefTimeout); brief.Before(l.until) {
			l.until = brief
		}
	}
	until := now.Add(l.silence)
	if until.After(l.until) {
		until = l.until
	}
	_ = l.SetReadDeadline(until) // fails only where reading will
	return l.Conn.Read(b)
}

// CloseWrite says that no more will be said on a connection, if it is of a kind that can; errors.ErrUnsupported otherwise.
func CloseWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
