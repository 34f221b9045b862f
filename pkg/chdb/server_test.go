package chdb_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/chdb"
)

func TestServerRefusesTakenPortAndOpenNetwork(t *testing.T) {
	t.Parallel()
	_, err := chdb.NewServer(chdb.ServerConfig{Addr: shared.server.Addr()}, shared.engine)
	require.ErrorContains(t, err, "address already in use")
	_, err = chdb.NewServer(chdb.ServerConfig{Addr: "0.0.0.0:0"}, shared.engine)
	require.ErrorIs(t, err, chdb.ErrOpenToAll)
	_, err = chdb.NewServer(chdb.ServerConfig{Addr: "127.0.0.1:0", ConnectionsMax: -1}, shared.engine)
	require.ErrorContains(t, err, "must not be negative")
}

// A connection that a client has opened in advance does not hold up the shutdown, which else would take five seconds.
func TestServerShutsDownPastUnusedConnections(t *testing.T) {
	t.Parallel()
	server, err := chdb.NewServer(chdb.ServerConfig{Addr: "127.0.0.1:0", ShutdownTimeout: 3 * time.Second}, shared.engine)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	unused, err := net.Dial("tcp", server.Addr())
	require.NoError(t, err)
	defer func() { _ = unused.Close() }()
	require.NoError(t, connect(t, server.Addr(), "default").Ping(t.Context()))
	stop()
	require.NoError(t, <-ended)
	_, err = unused.Read(make([]byte, 1))
	require.Error(t, err)
	require.NoError(t, server.Close())
}

func TestServerBoundsConnections(t *testing.T) {
	t.Parallel()
	server, err := chdb.NewServer(chdb.ServerConfig{Addr: "127.0.0.1:0", ConnectionsMax: 1}, shared.engine)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	first, err := net.Dial("tcp", server.Addr())
	require.NoError(t, err)
	_, err = first.Write([]byte("GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	require.NoError(t, err)
	_, err = first.Read(make([]byte, 1))
	require.NoError(t, err)

	second, err := net.Dial("tcp", server.Addr()) // Waits in the system's queue until the first goes.
	require.NoError(t, err)
	_, err = second.Write([]byte("GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	require.NoError(t, err)
	require.NoError(t, second.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = second.Read(make([]byte, 1))
	require.ErrorContains(t, err, "i/o timeout")
	require.NoError(t, first.Close())
	require.NoError(t, second.SetReadDeadline(time.Time{}))
	_, err = second.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, second.Close())
	stop()
	require.NoError(t, <-ended)
}
