package broker

import (
	"bytes"
	"net"

	"github.com/nats-io/nats.go"
)

// WithoutHeaders makes a connection to which the server delivers messages without their headers, as NATS does for clients
// of before there were headers. It goes last among the options.
//
// Decoding headers takes the client as long as all else that it does for a message, for a reader of logs that looks at none
// of them. The client has no option for it: it says that it understands headers where the server says that it has
// them. So the server's first line is changed on the way. Where it cannot be, since it comes encrypted from the first byte
// on or over a websocket, headers come as ever; nothing may rely on their absence. Such a connection cannot publish headers.
//
// The server's word on a request, such as its status, is in headers too. What comes in its place is an empty message
// without a reply subject.
func WithoutHeaders() nats.Option {
	return func(o *nats.Options) error {
		if o.InProcessServer != nil {
			o.InProcessServer = headerlessProvider{o.InProcessServer}
			return nil
		}
		var dialer nats.CustomDialer = &net.Dialer{Timeout: o.Timeout}
		if o.CustomDialer != nil {
			dialer = o.CustomDialer
		}
		o.CustomDialer = headerlessDialer{dialer}
		return nil
	}
}

type headerlessProvider struct{ nats.InProcessConnProvider }

func (p headerlessProvider) InProcessConn() (net.Conn, error) {
	conn, err := p.InProcessConnProvider.InProcessConn()
	if err != nil {
		return nil, err //nolint:wrapcheck // the client says what it was doing
	}
	return &headerlessConn{Conn: conn}, nil
}

type headerlessDialer struct{ nats.CustomDialer }

func (d headerlessDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := d.CustomDialer.Dial(network, address)
	if err != nil {
		return nil, err //nolint:wrapcheck // the client says what it was doing
	}
	return &headerlessConn{Conn: conn}, nil
}

// headerlessConn takes the headers out of what the server says it has, in its first line.
type headerlessConn struct {
	net.Conn
	past bool // the first line has been read
}

func (c *headerlessConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.past {
		line, _, whole := bytes.Cut(p[:n], []byte("\n"))
		c.past = whole
		has := []byte(`"headers":true`)
		if at := bytes.Index(line, has); at >= 0 {
			copy(line[at:], `"headers":null`) // as long as it was
		}
	}
	return n, err
}
