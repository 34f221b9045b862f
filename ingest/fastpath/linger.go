package fastpath

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// A client that is refused while it sends a large body reads the response only after it has sent everything, as most HTTP
// clients do. Closing a connection with unread bytes resets it, and the client sees the reset instead of the response. So
// the rest of the body is read and discarded, within these limits.
const (
	// LingerTimeout bounds the whole linger: enough for 10 MB at 1 MB/s.
	LingerTimeout = 10 * time.Second
	// LingerSilenceMax bounds how long a client may send nothing meanwhile.
	LingerSilenceMax = 2 * time.Second
	// LingerBytesMax bounds how much is discarded.
	LingerBytesMax = 64 << 20
	// LingerConnectionsMax bounds the lingering connections. Further ones are closed at once.
	LingerConnectionsMax = 256

	// The limits of [Linger], whose clients have already received a complete response.
	briefTimeout  = 500 * time.Millisecond
	briefBytesMax = 256 << 10
)

// Lingerer discards what refused clients still send, for a limited number of connections at a time. Make it with
// [NewLingerer]; it is safe for concurrent use.
type Lingerer struct {
	slots  chan struct{} // a token for each connection
	hurry  atomic.Bool
	limits limits
}

type limits struct {
	timeout, silence time.Duration
	bytes            int64
}

// NewLingerer returns a Lingerer with the limits above.
func NewLingerer() *Lingerer {
	return &Lingerer{slots: make(chan struct{}, LingerConnectionsMax), limits: limits{LingerTimeout, LingerSilenceMax, LingerBytesMax}}
}

// Hurry limits lingering to half a second after a connection's next byte, because the server is stopping.
func (l *Lingerer) Hurry() { l.hurry.Store(true) }

// Linger closes the writing side of a connection and discards what the client sends until the client closes its own side,
// or a limit is reached. The caller then closes the connection.
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

// Linger closes the writing side of a connection, discards a little of what the client is still sending, and allows the
// client a little time to read the response. It takes at most half a second, plus the time of the connection's own
// CloseWrite. The caller then closes the connection.
func Linger(c net.Conn) {
	if CloseWrite(c) != nil {
		return
	}
	timer := time.NewTimer(briefTimeout)
	defer timer.Stop()
	if !discard(c, limits{briefTimeout, briefTimeout, briefBytesMax}, new(atomic.Bool)) {
		<-timer.C // the client sends more than the limit
	}
}

// discard reads a connection to its end, and reports false if it reached the limit of bytes.
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
	_ = l.SetReadDeadline(until) // fails only if reading will
	return l.Conn.Read(b)
}

// CloseWrite closes the writing side of a connection, if its type supports that; otherwise it returns
// errors.ErrUnsupported.
func CloseWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
