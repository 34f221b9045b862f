package testkit_test

import (
	"bufio"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// silence is how long a link that is cut is listened to. Nothing fails if the machine is slow meanwhile.
const silence = 100 * time.Millisecond

// startEcho sends back what it receives, line by line.
func startEcho(t *testing.T) (addr string) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, listener.Close()) })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c) // ends with the connection
				_ = c.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

// caller is a client of a link.
type caller struct {
	t *testing.T
	net.Conn
	lines *bufio.Reader
}

func call(t *testing.T, link *testkit.Link) *caller {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", link.Addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return &caller{t: t, Conn: c, lines: bufio.NewReader(c)}
}

func (c *caller) say(line string) {
	c.t.Helper()
	_, err := c.Write([]byte(line + "\n"))
	require.NoError(c.t, err)
}

func (c *caller) hear(line string) {
	c.t.Helper()
	require.NoError(c.t, c.SetReadDeadline(time.Now().Add(time.Minute)))
	heard, err := c.lines.ReadString('\n')
	require.NoError(c.t, err)
	require.Equal(c.t, line+"\n", heard)
}

// hearNothing wants neither a word nor the end of the connection.
func (c *caller) hearNothing() {
	c.t.Helper()
	require.NoError(c.t, c.SetReadDeadline(time.Now().Add(silence)))
	_, err := c.lines.ReadByte()
	require.ErrorIs(c.t, err, os.ErrDeadlineExceeded)
}

func TestLinkThatIsCutCarriesNothingAndClosesNothing(t *testing.T) {
	t.Parallel()
	link := testkit.StartLink(t, startEcho(t))
	before := call(t, link)
	before.say("one")
	before.hear("one")

	link.Cut()
	before.say("two")
	meanwhile := call(t, link)
	meanwhile.say("three")
	before.hearNothing()
	meanwhile.hearNothing()

	link.Resume()
	before.hear("two")
	meanwhile.hear("three")
}

func TestLinkThatIsResetCarriesNewConnectionsOnly(t *testing.T) {
	t.Parallel()
	link := testkit.StartLink(t, startEcho(t))
	before := call(t, link)
	before.say("one")
	before.hear("one")

	link.Cut()
	before.say("two")
	before.hearNothing()
	link.Reset()
	require.NoError(t, before.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err := before.lines.ReadByte()
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)

	after := call(t, link)
	after.say("three")
	after.hear("three")
}
