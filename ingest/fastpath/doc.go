// Package fastpath serves the plain requests to one path of an HTTP API with less work than net/http, and leaves all others to it.
//
// net/http starts a goroutine for each request, to see whether the client goes away, sets five deadlines, makes some twenty objects, and
// switches goroutines twice more than the request itself needs. For a send that is a fifth of all the processor time that it costs from the
// socket to its row (docs/performance.md). Nothing of that is needed for the requests that nearly all clients send: one POST
// with a Content-Length behind another.
//
// So a connection begins here. As long as its requests are plain, they are read here, given to the same handler that net/http has, and
// answered here. The first that is not plain, in whatever respect, is not looked at further: the connection goes to net/http, with all
// that has been read of it, and stays there. What is plain is a strict subset of HTTP/1.1 (see head), so that no rule of that protocol is
// decided on in two places: what the fast path takes, net/http reads in the same way, which a fuzz test holds against it, and what is
// malformed, odd or hostile is net/http's. Connections with TLS are net/http's from the start.
//
// What a handler sees is what it would see of net/http, with these differences: it must not keep the request, its header, its context or the
// writer behind its return, since the next request of the connection uses them again; its answer is held in memory until it returns; the
// writer has no other methods than those of http.ResponseWriter, sends no informational status, and takes what stands in the header in the
// end; and the context has none of net/http's values. That a client has gone is noticed by whoever asks the request's context for Done, and
// looked for only from then on.
package fastpath
