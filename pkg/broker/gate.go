package broker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

const (
	// gateLineBytesMax is the longest line of the protocol; the server has the same limit.
	gateLineBytesMax = server.MAX_CONTROL_LINE_SIZE
	// gatePayloadBytesMax is the largest payload of a reader, whose messages are requests and acknowledgements. A larger one is refused.
	gatePayloadBytesMax = 64 << 10
	// gateWriteTimeout is how long a client may take to read what was sent to it.
	gateWriteTimeout = 10 * time.Second
	// gateAcceptPause is waited after a connection that could not be accepted.
	gateAcceptPause = 100 * time.Millisecond
	// refusedPrefix begins the subjects that the gate puts in place of those it refuses. The server permits no client to use them, and tells the
	// client so.
	refusedPrefix = "_refused."
)

// gate accepts the connections of other processes to the embedded server and carries each to it. What a client says that names the operator's
// key is carried as it is: the server checks that the client has it. What any other client says is read, held against what a reader may do, and written again:
//
//	CONNECT as operator ──────────────────────────────▶ carried to the end
//	anything else ───────────────────── each command ─▶ permitted: the same command, in its canonical form
//	                                                   ▶ refused: a publish or subscription on a subject of refusedPrefix,
//	                                                     which the server answers with a permissions violation
//	                                                   ▶ not understood, too long: the connection is closed
//
// What the server says is carried to the client as it is.
type gate struct {
	listener net.Listener
	dial     func() (net.Conn, error) // a connection to the server in this process
	operator string                   // the public key of who may do everything
	reader   *reader
	max      int64
	log      *slog.Logger

	open    atomic.Int64
	faults  lifecycle.Repeated
	closing atomic.Bool
	running sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// newGate makes a gate that serves once run is called, for at most connectionsMax clients at one time.
func newGate(listener net.Listener, dial func() (net.Conn, error), operator string, connectionsMax int, log *slog.Logger) *gate {
	return &gate{listener: listener, dial: dial, operator: operator, reader: newReader(), max: int64(connectionsMax), log: log, conns: make(map[net.Conn]struct{})}
}

// start begins to accept connections.
func (g *gate) start() { g.running.Go(g.run) } // ends with close

// run accepts connections until close is called.
func (g *gate) run() {
	for {
		client, err := g.listener.Accept()
		switch {
		case g.closing.Load():
			if err == nil {
				_ = client.Close() // nothing has been said yet
			}
			return
		case err != nil: // most often, there are too many open files
			if skipped, due := g.faults.Due("accept"); due {
				g.log.Warn("cannot accept a connection to the embedded NATS; retrying", "error", err, "skipped", skipped)
			}
			<-time.After(gateAcceptPause)
		case g.open.Add(1) > g.max:
			g.open.Add(-1)
			_ = client.SetWriteDeadline(time.Now().Add(time.Second)) // fails only if writing will
			_, _ = io.WriteString(client, "INFO {}\r\n-ERR 'maximum connections exceeded'\r\n")
			_ = client.Close()
			if skipped, due := g.faults.Due("many"); due {
				g.log.Warn("refused a connection to the embedded NATS: too many are open", "connections_max", g.max, "skipped", skipped)
			}
		default:
			g.running.Go(func() { // ends with either connection, and both with close
				defer g.open.Add(-1)
				g.serve(client)
			})
		}
	}
}

// close closes the listener and all connections, and waits for their ends.
func (g *gate) close() {
	g.closing.Store(true)
	_ = g.listener.Close() // run ends either way
	g.mu.Lock()
	for c := range g.conns {
		_ = c.Close() // it may have ended meanwhile
	}
	g.mu.Unlock()
	g.running.Wait()
}

// serve carries one connection.
func (g *gate) serve(client net.Conn) {
	defer client.Close() // it may have ended meanwhile
	backend, err := g.dial()
	if err != nil {
		return // the server is ending
	}
	defer backend.Close() // likewise
	if !g.enter(client, backend) {
		return
	}
	defer g.leave(client, backend)

	var back sync.WaitGroup
	back.Go(func() { // ends with the server's side, which ends with the client's
		_, _ = io.Copy(deadlined{client}, backend) // either side may end it
		_ = client.Close()
	})
	err = g.forward(backend, bufio.NewReaderSize(client, gateLineBytesMax))
	_ = backend.Close()
	back.Wait()
	if errors.Is(err, errProtocol) {
		g.log.Debug("closed a connection to the embedded NATS", "client", client.RemoteAddr().String(), "error", err)
	}
}

// enter notes connections for close, unless it has been called.
func (g *gate) enter(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing.Load() {
		return false
	}
	for _, c := range conns {
		g.conns[c] = struct{}{}
	}
	return true
}

func (g *gate) leave(conns ...net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range conns {
		delete(g.conns, c)
	}
}

// deadlined bounds each write, so that a client that reads nothing is closed.
type deadlined struct{ net.Conn }

func (d deadlined) Write(p []byte) (int, error) {
	if err := d.SetWriteDeadline(time.Now().Add(gateWriteTimeout)); err != nil {
		return 0, err //nolint:wrapcheck // only ends the copy
	}
	return d.Conn.Write(p) //nolint:wrapcheck // likewise
}

// errProtocol is wrapped by errors about what a client without credentials has said.
var errProtocol = errors.New("not understood")

// forward carries what the client says to the server until either ends.
func (g *gate) forward(backend io.Writer, client *bufio.Reader) error {
	out := bufio.NewWriter(backend)
	for first := true; ; first = false {
		line, err := readLine(client)
		if err != nil {
			return err
		}
		op, arguments := cutOp(line)
		switch op {
		case "":
			continue
		case "CONNECT":
			key, err := keyOf(arguments)
			if err != nil || !first {
				return fmt.Errorf("%w: CONNECT", errProtocol)
			}
			_, _ = fmt.Fprintf(out, "CONNECT %s\r\n", arguments) // Flush tells
			if key == g.operator {
				if err := out.Flush(); err != nil {
					return err //nolint:wrapcheck // the server has ended the connection
				}
				_, err := io.Copy(backend, client)
				return err //nolint:wrapcheck // likewise, or the client has
			}
		case "PING", "PONG":
			_, _ = fmt.Fprintf(out, "%s\r\n", op)
		default:
			if err := g.command(out, client, op, strings.Fields(string(arguments))); err != nil {
				return err
			}
		}
		if client.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err //nolint:wrapcheck // the server has ended the connection
			}
		}
	}
}

// command carries one of the commands that have subjects.
func (g *gate) command(out io.Writer, client *bufio.Reader, op string, words []string) error {
	switch {
	case op == "SUB" && (len(words) == 2 || len(words) == 3):
		if !maySubscribe(words[0]) {
			words[0] = refusedPrefix + words[0]
		}
		_, _ = fmt.Fprintf(out, "SUB %s\r\n", strings.Join(words, " "))
		return nil
	case op == "UNSUB" && (len(words) == 1 || len(words) == 2):
		_, _ = fmt.Fprintf(out, "UNSUB %s\r\n", strings.Join(words, " "))
		return nil
	case op == "PUB" && (len(words) == 2 || len(words) == 3):
		return g.publish(out, client, words, "", words[len(words)-1])
	case op == "HPUB" && (len(words) == 3 || len(words) == 4):
		return g.publish(out, client, words[:len(words)-1], words[len(words)-2], words[len(words)-1])
	default:
		return fmt.Errorf("%w: %q with %d words", errProtocol, op, len(words))
	}
}

// publish carries a message, of which all bytes are total and the first are its header. Words are the subject, perhaps the reply, and one number.
func (g *gate) publish(out io.Writer, client *bufio.Reader, words []string, header, total string) error {
	size, err := parseSize(total)
	headerSize, headerErr := parseSize(header)
	if err != nil || headerErr != nil || headerSize > size {
		return fmt.Errorf("%w: the size of a message", errProtocol)
	}
	subject, reply := words[0], ""
	if len(words) == 3 {
		reply = words[1]
	}
	var message []byte
	if size <= gatePayloadBytesMax {
		message = make([]byte, size)
		_, err = io.ReadFull(client, message)
	} else {
		_, err = io.CopyN(io.Discard, client, size)
	}
	if err != nil {
		return err //nolint:wrapcheck // the client has ended the connection
	}
	if end, err := readLine(client); err != nil || len(end) > 0 {
		return fmt.Errorf("%w: a message is longer than it says", errProtocol)
	}
	switch {
	case size > gatePayloadBytesMax, tracesMessages(message, headerSize), !g.reader.mayPublish(subject, reply, message[min(headerSize, int64(len(message))):]):
		_, _ = fmt.Fprintf(out, "PUB %s%s 0\r\n\r\n", refusedPrefix, subject)
	case header != "":
		_, _ = fmt.Fprintf(out, "HPUB %s %s %d %d\r\n%s\r\n", subject, reply, headerSize, size, message)
	default:
		_, _ = fmt.Fprintf(out, "PUB %s %s %d\r\n%s\r\n", subject, reply, size, message)
	}
	return nil
}

// tracesMessages reports whether a message's header asks the server to say on a subject which way the message takes.
func tracesMessages(message []byte, headerSize int64) bool {
	return headerSize > 0 && headerSize <= int64(len(message)) && bytes.Contains(bytes.ToLower(message[:headerSize]), []byte("trace"))
}

// parseSize reads a number of bytes. None is 0.
func parseSize(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || n > PayloadBytesMax {
		return 0, errProtocol
	}
	return int64(n), nil
}

// readLine reads a line without its end.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("%w: a line of more than %d bytes", errProtocol, gateLineBytesMax)
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // the client has ended the connection
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte{'\r'}), nil
}

// cutOp cuts a line into its command, in capitals, and what follows.
func cutOp(line []byte) (op string, arguments []byte) {
	end := bytes.IndexAny(line, " \t")
	if end < 0 {
		end = len(line)
	}
	return strings.ToUpper(string(line[:end])), bytes.TrimSpace(line[end:])
}

// keyOf is the NKey by which a client introduces itself, if it does. It reads the JSON as the server does.
func keyOf(arguments []byte) (string, error) {
	var options server.ClientOpts
	if err := json.Unmarshal(arguments, &options); err != nil {
		return "", err //nolint:wrapcheck // the caller says what it is of
	}
	return options.Nkey, nil
}
