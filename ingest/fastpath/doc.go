// Package fastpath serves the plain requests to one path of an HTTP API with less work than net/http, and leaves all others to it.
//
// net/http starts a goroutine for each request to detect a disconnect, sets five deadlines, allocates some twenty objects,
// and causes two more goroutine switches than the request itself needs. For a send that is a fifth of all processor time
// from the socket to its row (docs/performance.md). The requests that nearly all clients send, a sequence of POSTs with a
// Content-Length, need none of it.
//
// So every connection starts here. As long as its requests are plain, this package reads them, calls the same handler as
// net/http, and writes the responses. At the first request that is not plain, the connection is handed to net/http, with
// everything read so far, and stays there. Plain requests are a strict subset of HTTP/1.1 (see head), so no rule of the
// protocol is decided in two places: net/http would read every plain request in the same way, which a fuzz test checks,
// and anything malformed, unusual or hostile is left to net/http. Connections with TLS start in net/http.
//
// A handler sees the same as under net/http, except:
//
//   - It must not use the request, its header, its context or the writer after it returns, since the next request of the
//     connection reuses them.
//   - The response is buffered in memory until the handler returns.
//   - The writer has only the methods of http.ResponseWriter, sends no informational status, and sends the header as it is
//     when the handler returns.
//   - The context has none of net/http's values.
//   - A disconnect is detected only after the handler has called Done on the request's context.
package fastpath
