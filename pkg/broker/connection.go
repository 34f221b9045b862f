package broker

import (
	"errors"
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

// Connection tells how a connection is, at once: the client itself does not answer while it tries to reach a server, seconds at a
// time where a network swallows everything, and that is when health and metrics are asked for.
type Connection struct {
	nc        *nats.Conn
	connected atomic.Bool
}

// Watch follows a connection until it is closed.
func Watch(nc *nats.Conn) *Connection {
	c := &Connection{nc: nc}
	changes := nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.CLOSED)
	c.connected.Store(nc.IsConnected())
	go func() {
		for status := range changes {
			c.connected.Store(status == nats.CONNECTED)
			if status == nats.CLOSED {
				nc.RemoveStatusListener(changes)
			}
		}
	}()
	return c
}

// Connected reports whether the connection is up.
func (c *Connection) Connected() bool { return c.connected.Load() }

// Explain makes the client's error of a publish that had no connection say so: the client speaks of the buffer in which it could have
// kept it, of which it has none. Other errors are returned as they are.
func Explain(err error) error {
	if !errors.Is(err, nats.ErrReconnectBufExceeded) {
		return err
	}
	return explained{err}
}

type explained struct{ error }

func (e explained) Error() string {
	return strings.ReplaceAll(e.error.Error(), nats.ErrReconnectBufExceeded.Error(), "not connected to NATS")
}

func (e explained) Unwrap() error { return e.error }
