// Package history serves what has been sent: POST /channel/messagesync and /channel/messagesyncbatch return the messages of
// channels, /messages, /message, /message/byclientmsgno, /channel/last_message and /channel/max_message_seq single ones, and
// GET /message/status the state of one send. It reads ClickHouse, and the logs for messages that are not there yet. It
// writes nothing.
//
// main mounts the routes into the listener of ingest, which handles admission and authorisation: see [Service.Routes] and
// docs/adr/0003.
//
// # Guarantees
//
// A page has each message once, in the order of message_seq, no expired message, and every message that was in ClickHouse
// at the time of the request. It lacks what the writer has not inserted yet: while ClickHouse is healthy, a message appears
// within seconds of its 200.
//
// A status is stored, accepted or unknown. It is never unknown and complete for a send that got 200 and has not expired.
// The order of the reads ensures this: first the writer's position, then ClickHouse, then the message log after that
// position, then the write-ahead log after the end of the message log. A message that advances in the meantime is seen
// either before or after its move.
//
// # Limits
//
// These are limited: concurrent requests (--history-requests-max), their duration (--history-timeout), the size of a page
// (--history-page-bytes-max), the rows per query (nextRowsMax), and the records read from the logs (recordsMax,
// walRecordsMax). A request that finds no slot gets 503.
//
// A request releases its slot when its reply is complete, so slow readers do not block others. The replies being written
// may together be as large as a full page per slot, and the time for each grows with its size (answerTimeout,
// readBytesPerSecond). A reply that exceeds the total gets 503, which rarely affects small ones.
//
// A status divides its time so that a hanging neighbour leaves some for the others: at most a third to read the writer's
// position, half of the rest for ClickHouse, and the remainder for the logs.
//
// # When a neighbour fails
//
//   - ClickHouse is unreachable, slow or refuses: pages get 503; a status is served from the logs if they have the
//     message, and gets 503 otherwise.
//   - NATS is unreachable: pages are served; a status is served if ClickHouse has the message, and gets 503 otherwise.
package history
