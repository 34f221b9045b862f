// Package tail shows messages of the message log, past ones and those to come, in order: of one
// channel by its message_seq, of all channels by message_id.
//
// Over several partitions, the past is merged by message_id. Messages to come are shown as they
// arrive: between partitions there is no order that a reader could wait for.
//
// Messages with no_persist come on plain subjects, at most once, and are shown as they come. They have neither
// a message_seq nor a place in the message log: both are 0.
//
// One channel is read through a filter on its subject. The broker finds a channel's next message by
// an index of each block of the stream, so a channel of many messages is read about as fast as the
// whole log, and one with few messages in a large log costs a look at each block in between.
package tail
