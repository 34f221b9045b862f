package listener

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestServersOwnIsNotMistaken: nothing that a handler writes is taken for an answer of net/http's own.
func TestServersOwnIsNotMistaken(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "HTTP/1.1 ", "HTTP/1.1 400", "HTTP/1.1 400 Bad Request\r\nDate: x" + serversOwnHeaders, "HTTP/1.1 200 OK" + serversOwnHeaders, "HTTP/1.1 4xx" + serversOwnHeaders,
		"HTTP/1.1 503 x\r\nX: y" + serversOwnHeaders, "{" + "HTTP/1.1 400 Bad Request" + serversOwnHeaders, "HTTP/1.1 400 Bad Request" + serversOwnHeaders + strings.Repeat("x", serversOwnBytesMax),
	} {
		_, own := serversOwn([]byte(text))
		require.False(t, own, "%q", text)
	}
}

func BenchmarkServersOwn(b *testing.B) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Tue, 24 Nov 2026 10:00:00 GMT\r\nContent-Length: 130\r\n\r\n" + strings.Repeat("x", 130))
	b.ReportAllocs()
	for b.Loop() {
		if _, own := serversOwn(answer); own {
			b.Fatal("mistaken")
		}
	}
}
