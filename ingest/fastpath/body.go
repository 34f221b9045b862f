package fastpath

import (
	"errors"
	"io"
)

// body is the Content-Length bytes that follow the head.
type body struct {
	c      *conn
	left   int64
	failed bool
}

// Read first returns what has already been read, then reads from the connection.
func (b *body) Read(p []byte) (n int, err error) {
	c := b.c
	switch {
	case b.left == 0:
		return 0, io.EOF
	case int64(len(p)) > b.left:
		p = p[:b.left]
	}
	if len(c.in) > 0 {
		n = copy(p, c.in)
		c.in = c.in[n:]
	} else {
		if until := c.arrived.Add(c.s.rest.ReadTimeout); !c.readUntil.Equal(until) {
			c.setReadDeadline(until)
		}
		n, err = c.Conn.Read(p)
	}
	b.left -= int64(n)
	switch {
	case b.left == 0:
		c.ctx.bodyRead(len(c.in) > 0)
		return n, io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	b.failed = err != nil
	return n, err
}

// Close does nothing: skip reads the rest after the handler returns.
func (*body) Close() error { return nil }

// skip reads what the handler left unread, up to a limit, and reports whether the next request follows.
func (b *body) skip() bool {
	if b.failed || b.left > unreadBytesMax {
		return false
	}
	if b.left > 0 {
		_, _ = io.Copy(io.Discard, b) // errors are recorded in failed
	}
	return !b.failed
}
