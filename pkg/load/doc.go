// Package load is an honest load generator for the HTTP API of Sendhouse: it sends at a rate
// that does not follow the server (open loop) or with a number of connections (closed loop), and
// checks every answer it gets.
//
// # What is measured
//
// In an open loop send n is due at start + n/rate, whether or not the sends before it have been
// answered. Its latency counts from then on, so that the time a send waited for a free connection
// is in it: a server that stands still for a second shows a second, not one slow send
// (coordinated omission). The service time, from the write of the request to its answer, is
// reported beside it. In a closed loop each connection sends when it has its answer, and the two
// are one.
//
// A send that is refused for now (429, 503), or not answered, is sent again with the same
// client_msg_no until it is answered or the time to give up is over; its latency ends with the
// last answer.
//
// # What is checked
//
//   - The sequences of each channel are 1, 2, 3, … without a gap or a repeat. Every run has
//     channels of its own.
//   - No message_id is given twice.
//   - A send repeated on purpose gets the answer of the first time, and is marked as repeated.
//   - With [Verify], that ClickHouse holds each answered message once, with what was sent and what
//     was answered.
//
// The memory for it is bounded: 8 bytes for a channel, half a megabyte for each of the partitions
// that IDs are seen of, and what is out of order at the moment.
package load
