package listener

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHandlersReplyIsNotTheServers: no response of a handler is mistaken for one of net/http's own.
func TestHandlersReplyIsNotTheServers(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "HTTP/1.1 ", "HTTP/1.1 400", "HTTP/1.1 400 Bad Request\r\nDate: x" + serverReplyHeaders, "HTTP/1.1 200 OK" + serverReplyHeaders, "HTTP/1.1 4xx" + serverReplyHeaders,
		"HTTP/1.1 503 x\r\nX: y" + serverReplyHeaders, "{" + "HTTP/1.1 400 Bad Request" + serverReplyHeaders, "HTTP/1.1 400 Bad Request" + serverReplyHeaders + strings.Repeat("x", serverReplyBytesMax),
	} {
		_, own := parseServerReply([]byte(text))
		require.False(t, own, "%q", text)
	}
}

func BenchmarkParseServerReply(b *testing.B) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Tue, 24 Nov 2026 10:00:00 GMT\r\nContent-Length: 130\r\n\r\n" + strings.Repeat("x", 130))
	b.ReportAllocs()
	for b.Loop() {
		if _, own := parseServerReply(answer); own {
			b.Fatal("mistaken")
		}
	}
}
