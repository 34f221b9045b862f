// Package history serves what has been sent: POST /channel/messagesync and /channel/messagesyncbatch return the messages of
// channels, /messages, /message, /message/byclientmsgno, /channel/last_message and /channel/max_message_seq single ones, and
// GET /message/status the state of one send. It reads ClickHouse, and the tail of the message log for messages
// that are not there yet. It writes nothing.
//
// main mounts the routes into the listener of ingest, which handles admission and authorisation: see [Service.Routes] and
// docs/adr/0003.
//
// # Guarantees
//
// A page has each message once, in the order of message_seq, no expired message, and every message that was answered before
// the request. A status is stored, accepted or unknown. It is never unknown and complete for a send that got 200 and has not
// expired. A read that cannot have all of it gets 503; it never returns less.
//
// A read asks for the end of the write-ahead log, waits until the tail in memory has what became of its last record, takes
// what it needs of the tail, and asks ClickHouse then: a message that a writer inserts in the meantime is seen on either side.
// See read.go for how routes read, recent/doc.go for the tail, and docs/adr/0019.
//
// Two exceptions: a message that ClickHouse refuses is seen until the writer makes it a dead letter, and a replica of
// ClickHouse that lags may not show a row yet.
//
// # Limits
//
// These are limited: concurrent requests (--history-requests-max), their duration (--history-timeout), the size of a page
// (--history-page-bytes-max), the rows per query (nextRowsMax), the memory of the tails (--history-tail-bytes-max), and the
// records read from the write-ahead log (walRecordsMax). A request that finds no slot gets 503.
//
// A request releases its slot when its reply is complete, so slow readers do not block others. The replies being written
// may together be as large as a full page per slot, and the time for each grows with its size (answerTimeout,
// readBytesPerSecond). A reply that exceeds the total gets 503, which rarely affects small ones.
//
// A read spends at most a third of its time on the tail and a third of the rest on the write-ahead log, so that a hanging
// NATS leaves some for ClickHouse.
//
// # When a neighbour fails
//
//   - ClickHouse is unreachable, slow or refuses: what the tail answers completely is answered, such as the newest messages of a
//     busy channel or the status of a recent send; other reads get 503.
//   - ClickHouse lags by more than the tail holds, or messages are missing from the message log: pages without a gap in
//     message_seq are complete and returned, others get 503.
//   - No sequencer serves a partition: its reads wait, and then look for unfolded sends in the write-ahead log. Channels
//     without one are read as usual; the newest messages of the others get 503.
//   - NATS is unreachable: pages with a bound that ClickHouse returns without a gap are served, and the status of a stored send;
//     other reads get 503.
package history
