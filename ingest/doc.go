// Package ingest is the role that receives sends over HTTP: POST /message/send, and /message/sendbatch and
// /message/sendbulk for many sends in one request. It checks each send, commits it to the write-ahead log, and answers
// with the sequencer's result. It keeps no state that outlives a request.
//
// # Delivery
//
// A 200 means that the send is durable in the write-ahead log and has its ID and sequence number; it will be in every
// derived log. A 4xx means that nothing was written. A 503 with code outcome_unknown or no_answer means that the send may
// have been written: the caller repeats it with the same client_msg_no, and receives the first result if it was written.
// The service itself never publishes a send twice.
//
// # Ordering
//
// Sends of one channel belong to one partition. This process has at most one publish per partition in flight; later sends
// gather meanwhile, and leave as the next group commit in the order of their arrival. So if one process receives two sends
// to one channel, the second after the first was queued, the log keeps their order. Between two processes only the log
// decides.
//
// # When a neighbour fails
//
//   - NATS is unreachable: sends in flight are answered outcome_unknown at once, queued
//     and new ones wal_unavailable; /readyz answers 503; the client reconnects indefinitely.
//   - A partition is known not to answer sends (groupcommit/readiness.go): /readyz names it and the reason. Sends to it are
//     still tried, unless its sequencer refuses it.
//   - The log refuses a batch (full, no leader, no stream): its sends are answered at once, wal_full, wal_refused or
//     wal_unavailable.
//   - No acknowledgement within AckTimeout: outcome_unknown, and the next batch leaves. Until
//     the log responds again, sends that arrive while one is in flight are refused at once,
//     wal_stalled.
//   - No sequencer answers within AnswerTimeout: no_answer. Nothing else stops; the
//     log holds the sends and the sequencer folds them when it is back.
//   - The bucket of permissions cannot be read: the policies last seen stay in force for StaleMax;
//     then permissions_unavailable, and /readyz answers 503.
//   - The producers send too much: overloaded, at once, with Retry-After.
//   - A client disconnects while it waits: its send is still committed, and no other request is affected.
//   - A client is slow, or sends too much or malformed data: it is disconnected or refused; its memory comes from a budget
//     that all requests share.
//
// # How a request is served
//
//	listener/     connections, up to a limit, over TLS if set; net/http's own answers in the API's error shape
//	fastpath/     serves the plain sends of a connection; net/http serves the rest
//	compat/       if set, the requests and answers of WuKongIM's callers
//	handler.go    the routes, and the steps of a send in their order; routes of other packages pass the same checks
//	access/       who may call: pages in a browser, tokens, rates
//	request/      the body into a pooled buffer, JSON to fields, fields to a message.Send; payload rules
//	permission/   whether the send is allowed; manage/ has the routes that change that
//	groupcommit/  the send into the write-ahead log, with others; acknowledgements and answers; readiness
//	flight.go     the sends of one sendbatch.go or sendbulk.go request: deferred a little so that they
//	              leave together, a bounded number at a time, answered in their order
//	outcome/      every result of a request: status, code, text
//	memory/       the budget of memory that requests share, and pools of buffers
//	openapi/      the description of all routes, for programs, and the page made of it
//
// Packages import only those further down this list; the linter (depguard) enforces it.
package ingest
