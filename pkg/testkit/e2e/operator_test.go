package e2e

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/broker"
)

// dataDirs are the data folders of the embedded servers of this run, by their address: host:port.
var dataDirs sync.Map

// dataDirOf is the data folder of the embedded server at a URL or address; none if the server there is no embedded one.
func dataDirOf(url string) string {
	dir, _ := dataDirs.Load(strings.TrimPrefix(url, "nats://"))
	text, _ := dir.(string)
	return text
}

// connectNATS connects as the operator of the server at a URL, which for an embedded one needs the key in its data folder.
func connectNATS(t *testing.T, url string, options ...nats.Option) *nats.Conn {
	t.Helper()
	if dir := dataDirOf(url); dir != "" {
		key, err := nats.NkeyOptionFromSeed(broker.OperatorFile(dir))
		require.NoError(t, err)
		options = append(options, key)
	}
	nc, err := nats.Connect(url, options...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// asOperator adds to the arguments of a command the data folder of the embedded server that it asks.
func asOperator(args []string) []string {
	for _, arg := range args {
		if url, is := strings.CutPrefix(arg, "--nats-url="); is && dataDirOf(url) != "" && !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--data-dir=") }) {
			return append(slices.Clone(args), "--data-dir="+dataDirOf(url))
		}
	}
	return args
}

// otherAddr is an address of this machine that is not of the loopback: a client that connects to it comes from it.
func otherAddr(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, addr := range addrs {
		if network, is := addr.(*net.IPNet); is && network.IP.To4() != nil && !network.IP.IsLoopback() {
			return network.IP.String()
		}
	}
	t.Skip("the machine has no address but those of its loopback")
	return ""
}
