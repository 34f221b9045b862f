// Package message holds what every part of Sendhouse agrees on about one
// message: its wire format, the canonical name of its channel, how that name
// is written into a subject, and how its ID is built.
//
// A [Send] is a validated request as it stands in the write-ahead log. A
// [Message] is a send that has been given an ID and a sequence number. The
// fields of Message are those of Send, with the same numbers, followed by the
// identity; so the encoding of a message is the encoding of its send with a few
// bytes appended (see [AppendMessage]), and no stage encodes a payload twice.
//
// The .proto file is public: services in any language read the streams with it.
package message
