// Package ingest is the way in: it takes POST /message/send, and many sends in one by
// /message/sendbatch and /message/sendbulk; it checks each, commits it to the write-ahead
// log, and answers with what the sequencer made of it. It keeps no state that outlives a request.
//
// # Delivery
//
// A 200 means that the send is durable in the write-ahead log and has its ID and
// sequence number; it will be in every derived log. A 4xx means that nothing was
// written. A 503 with code outcome_unknown or no_answer means that the send may
// have been written, or has been: the caller sends it again with the same
// client_msg_no, and gets the first answer if it had been. The service itself never
// publishes a send twice.
//
// # Ordering
//
// Sends of one channel go to one partition. A partition has one publish in flight
// from this process; what comes meanwhile gathers, and leaves as the next group
// commit in the order of its coming. So two sends of one process to one channel,
// the second begun after the first was queued, keep that order in the log. Between
// two processes the log alone decides.
//
// # When a neighbour fails
//
//   - NATS is away: sends in flight are answered outcome_unknown at once, queued
//     and new ones wal_unavailable; /readyz says no; the client reconnects for ever.
//   - A partition would not answer a send, as far as is known (ready.go): /readyz names it and
//     says why. Sends to it are tried all the same, unless its sequencer refuses it.
//   - The log refuses (full, no leader, no stream): the batch is answered at once,
//     wal_full, wal_refused or wal_unavailable.
//   - No acknowledgement within AckTimeout: outcome_unknown, and the next batch goes. Until
//     the log says anything again, what comes while one is in flight is refused at once,
//     wal_stalled.
//   - No sequencer answers within AnswerTimeout: no_answer. Nothing else stops; the
//     log holds the sends and the sequencer folds them when it is back.
//   - The bucket of permissions cannot be read: what was seen last stands for a while;
//     then permissions_unavailable, and /readyz says no.
//   - The producers send too much: overloaded, at once, with Retry-After.
//   - A producer goes away while it waits: its send is committed all the same, and
//     nobody else notices.
//   - A client is slow, or sends what is too large or malformed: it is cut off or
//     refused; its memory comes from a budget that all requests share.
//
// # How a request goes through
//
//	listener.go  connections, and no more than so many; tls.go over TLS; serversown.go
//	             net/http's own answers, in our error shape
//	fastpath/    what serves the plain sends of a connection before net/http gets it
//	cors.go      for pages in a browser
//	handler.go   admit, and the steps in their order; routes that others answer are let
//	             through behind the same door
//	token.go     who may; follow.go reads its file, and others, again
//	ratelimit.go how often; forwarded.go whom a request comes from
//	body.go      the bytes, into a pooled buffer
//	decode.go    JSON to fields; json.go and text.go underneath
//	validate.go  fields to a message.Send, or every bad field by name
//	payload_rules.go  what a payload of each message type must be; payload_check.go looks
//	permit.go    may it be sent: permission/ decides; manage.go and manage_body.go are
//	             the routes that change that
//	commit.go    into the partition's gathering batch; batch.go is one group commit,
//	             hold.go holds one back that would be small, ticket.go a request's place in it, publish.go its way out
//	flight.go    the many sends of one request: held back a little so that they leave
//	             together, at most so many at a time, answered in their order; for
//	             sendbatch.go and sendbulk.go, whose items splitter.go takes apart
//	inbox.go     acknowledgements and answers of all batches, one subscription
//	owner.go     what the partitions' sequencers say in their leases
//	ready.go     whether a send would be answered
//	reply.go     the answer's JSON; problem.go all that is not 200
//
//	openapi/     what all routes take and answer, for programs, and the page made of it
package ingest
