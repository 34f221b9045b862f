package fastpath

import (
	"errors"
	"io"
	"net"
	"time"
)

const (
	lingerTimeout  = 500 * time.Millisecond
	lingerBytesMax = 256 << 10
)

// Linger says that no more will be said on a connection, reads a little of what the client is still sending, and waits a little longer
// for it to read the answer: to close a connection with bytes unread resets it, and the answer may be lost. It takes half a second at most; the
// caller closes the connection then.
func Linger(c net.Conn) {
	if CloseWrite(c) != nil {
		return
	}
	timer := time.NewTimer(lingerTimeout)
	defer timer.Stop()
	_ = c.SetReadDeadline(time.Now().Add(lingerTimeout)) // fails only where reading will
	if _, err := io.CopyN(io.Discard, c, lingerBytesMax); err == nil {
		<-timer.C // it says more than it may
	}
}

// CloseWrite says that no more will be said on a connection, if it is of a kind that can; errors.ErrUnsupported otherwise.
func CloseWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
