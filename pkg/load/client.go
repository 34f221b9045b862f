package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A generator on the machine that it measures takes from the server what it uses itself. This
// client does what HTTP/1.1 asks of one that posts over a connection of its own, one request at a
// time, and no more: no pool, no goroutines, no maps of headers. docs/performance.md compares.

const (
	// deadlineStep is how far a deadline may be off: it is set that seldom.
	deadlineStep = time.Second
	// headerLinesMax and answerBytesMax bound what is taken for an answer.
	headerLinesMax = 64
	answerBytesMax = 64 << 20
	readBufferSize = 4 << 10
)

var errBadAnswer = errors.New("not an HTTP/1.1 answer")

// endpoint is where a client sends to.
type endpoint struct {
	addr   string // host:port
	secure bool
	host   string // for TLS
	head   []byte // of each request, up to the value of Content-Length
}

func newEndpoint(target, path, contentType, token string) (*endpoint, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	e := &endpoint{host: u.Hostname(), secure: u.Scheme == "https"}
	port := u.Port()
	if port == "" {
		port = map[bool]string{false: "80", true: "443"}[e.secure]
	}
	e.addr = net.JoinHostPort(e.host, port)
	var head strings.Builder
	fmt.Fprintf(&head, "POST %s%s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\n", strings.TrimSuffix(u.EscapedPath(), "/"), path, u.Host, contentType)
	if token != "" {
		fmt.Fprintf(&head, "Authorization: Bearer %s\r\n", token)
	}
	head.WriteString("Content-Length: ")
	e.head = []byte(head.String())
	return e, nil
}

// client posts over one connection at a time. It is not safe for concurrent use.
type client struct {
	endpoint *endpoint
	timeout  time.Duration
	conn     net.Conn
	reader   *bufio.Reader
	deadline time.Time // that the connection has
	request  []byte
	body     []byte
	used     bool // the connection has carried an answer
	dials    uint64
}

// response is an answer; its body is good until the next call.
type response struct {
	status     int
	replayed   bool // Idempotent-Replayed: true
	retryAfter time.Duration
	body       []byte
}

func newClient(e *endpoint, timeout time.Duration) *client {
	return &client{endpoint: e, timeout: timeout, reader: bufio.NewReaderSize(nil, readBufferSize)}
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close() // nothing that counts is under way
		c.conn = nil
	}
}

// post sends a body and waits for the answer, at most about the timeout. After an error nothing is
// known about what became of the request.
func (c *client) post(ctx context.Context, body []byte) (response, error) {
	c.request = append(c.request[:0], c.endpoint.head...)
	c.request = strconv.AppendInt(c.request, int64(len(body)), 10)
	c.request = append(c.request, "\r\n\r\n"...)
	c.request = append(c.request, body...)
	r, err := c.once(ctx)
	if err != nil && c.used && errors.Is(err, errUnanswered) {
		// A server may close a connection that has been idle while the request is on its way.
		c.close()
		r, err = c.once(ctx)
	}
	if err != nil {
		c.close()
	}
	return r, err
}

// errUnanswered says that the connection ended before the first byte of an answer.
var errUnanswered = errors.New("the connection was closed")

func (c *client) once(ctx context.Context) (response, error) {
	if err := c.connect(ctx); err != nil {
		return response{}, err
	}
	if now := time.Now(); c.deadline.Sub(now) < c.timeout {
		c.deadline = now.Add(c.timeout + deadlineStep)
		if err := c.conn.SetDeadline(c.deadline); err != nil {
			return response{}, err
		}
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return response{}, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	r, keep, err := c.read()
	if err != nil {
		return r, err
	}
	c.used = true
	if !keep {
		c.close()
	}
	return r, nil
}

func (c *client) connect(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var err error
	if c.endpoint.secure {
		dialer := tls.Dialer{Config: &tls.Config{ServerName: c.endpoint.host, MinVersion: tls.VersionTLS12}}
		c.conn, err = dialer.DialContext(ctx, "tcp", c.endpoint.addr)
	} else {
		var dialer net.Dialer
		c.conn, err = dialer.DialContext(ctx, "tcp", c.endpoint.addr)
	}
	if err != nil {
		c.conn = nil
		return err
	}
	c.reader.Reset(c.conn)
	c.deadline, c.used = time.Time{}, false
	c.dials++
	return nil
}

// read reads an answer; keep reports whether the connection can be used again.
func (c *client) read() (r response, keep bool, err error) {
	line, err := c.line()
	if err != nil {
		if c.reader.Buffered() == 0 && errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: %w", errUnanswered, err)
		}
		return r, false, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return r, false, fmt.Errorf("%w: %.40q", errBadAnswer, line)
	}
	if r.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return r, false, fmt.Errorf("%w: %.40q", errBadAnswer, line)
	}
	keep = line[7] == '1'
	length, chunked, closing, err := c.header(&r)
	if err != nil {
		return r, false, err
	}
	c.body = c.body[:0]
	switch {
	case chunked:
		err = c.readChunks()
	case length >= 0:
		err = c.readBody(length)
	default:
		return r, false, fmt.Errorf("%w: neither Content-Length nor chunks", errBadAnswer)
	}
	r.body = c.body
	return r, keep && !closing, err
}

// header reads the header's lines. length is -1 if none is given.
func (c *client) header(r *response) (length int, chunked, closing bool, err error) {
	length = -1
	for range headerLinesMax {
		line, err := c.line()
		if err != nil {
			return 0, false, false, err
		}
		if len(line) == 0 {
			return length, chunked, closing, nil
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimSpace(value)
		switch { // by length first: most lines are none of these
		case len(name) == len("Content-Length") && bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 {
				return 0, false, false, fmt.Errorf("%w: Content-Length %q", errBadAnswer, value)
			}
		case len(name) == len("Transfer-Encoding") && bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		case len(name) == len("Connection") && bytes.EqualFold(name, []byte("Connection")):
			closing = bytes.EqualFold(value, []byte("close"))
		case len(name) == len("Retry-After") && bytes.EqualFold(name, []byte("Retry-After")):
			seconds, err := strconv.ParseUint(string(value), 10, 16)
			if err == nil { // else it is a date, and a date needs no haste
				r.retryAfter = time.Duration(seconds) * time.Second
			}
		case len(name) == len("Idempotent-Replayed") && bytes.EqualFold(name, []byte("Idempotent-Replayed")):
			r.replayed = bytes.EqualFold(value, []byte("true"))
		}
	}
	return 0, false, false, fmt.Errorf("%w: more than %d header lines", errBadAnswer, headerLinesMax)
}

// line reads up to the end of a line, and returns the line without it.
func (c *client) line() ([]byte, error) {
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

func (c *client) readChunks() error {
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		text, _, _ := bytes.Cut(line, []byte{';'})
		size, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 16, 31)
		if err != nil {
			return fmt.Errorf("%w: chunk size %q", errBadAnswer, text)
		}
		if size == 0 {
			break
		}
		if err := c.readBody(int(size)); err != nil {
			return err
		}
		if _, err := c.line(); err != nil { // the chunk's own end
			return err
		}
	}
	for range headerLinesMax { // trailers
		if line, err := c.line(); err != nil || len(line) == 0 {
			return err
		}
	}
	return fmt.Errorf("%w: more than %d trailer lines", errBadAnswer, headerLinesMax)
}

// readBody adds n bytes to the body.
func (c *client) readBody(n int) error {
	have := len(c.body)
	if have+n > answerBytesMax {
		return fmt.Errorf("%w: more than %d bytes", errBadAnswer, answerBytesMax)
	}
	if need := have + n; need > cap(c.body) {
		grown := make([]byte, have, max(need, 2*cap(c.body)))
		copy(grown, c.body)
		c.body = grown
	}
	c.body = c.body[:have+n]
	_, err := io.ReadFull(c.reader, c.body[have:])
	return err
}
