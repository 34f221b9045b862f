// Package history answers clients that ask for what has been sent: POST /channel/messagesync for the messages of a channel, and
// GET /message/status for what became of one. It reads ClickHouse, and for messages that are not there yet the logs before it. It writes nothing.
//
// The routes are mounted into the listener of ingest, which admits and authorises, by main: see [Service.Routes] and docs/adr/0003.
//
// # What it promises
//
// A page has each message once, in the order of message_seq, none that has expired, and everything that was in ClickHouse when it was asked for. It
// does not have what the writer has not inserted yet: a message is there within seconds of its 200 while ClickHouse is well.
//
// A status is stored, accepted or unknown. It never says unknown, with complete set, of a send that was answered 200 and has not
// expired. The order of looking is what makes that true: first how far the writer is, then ClickHouse, then the message log behind where the
// writer was, then the write-ahead log behind the message log. Whatever moves on meanwhile moves to where has been looked
// already only after it was seen where it came from.
//
// # What bounds it
//
// So many questions at a time (--history-requests-max), each so long (--history-timeout), each page so large (--history-page-bytes-max) and read
// in so many rows at a time (nextRowsMax), and so far into the logs (recordsMax, walRecordsMax). Who finds no place is answered 503.
//
// A question gives its place back when its answer is there: who reads slowly takes none from those who ask. The answers that are being written may
// together be as large as a full page for each place, and each has its time, which grows with its size (answerTimeout, readBytesPerSecond). An
// answer that does not fit is 503; small ones mostly do.
//
// A status divides its time, so that a neighbour that hangs leaves some for the other: a third at most to learn how far the writer is, half of what
// is left then for ClickHouse, and the rest for the logs.
//
// # When a neighbour fails
//
//   - ClickHouse is away, slow or refuses: pages are 503; a status is answered from the logs where the message is in them, and is 503 otherwise.
//   - NATS is away: pages are answered; a status is answered where the message is in ClickHouse, and is 503 otherwise.
package history
