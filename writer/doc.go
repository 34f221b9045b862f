// Package writer is the role that takes the message log into ClickHouse: every message once, in order,
// whatever the neighbours do.
//
// # Contract
//
// Ordering: the messages of a partition are inserted in the order of their places, one batch
// after another. A message's place is its partition_seq, its number among all messages of the partition; a record of the log holds
// those of a group commit, and a batch may begin and end within one. Batches of different partitions are inserted side by side.
//
// Delivery: a message of the log is in the table exactly once, or is a dead letter, or is named as lost; it
// is never dropped in silence. The position of a partition, a record in the bucket [topology.WriterBucket],
// says what is done and what is being inserted, and is only ever changed by compare-and-set:
//
//  1. A batch gets its limits: a range of places without a gap.
//  2. The range is recorded, with a digest of its messages and a deduplication token.
//  3. The rows are inserted as one block under the token.
//  4. The position moves behind the range; in the same write as step 2 of the next batch, where that one
//     is being gathered already.
//
// A writer that dies at any point leaves either no range, and then nothing of it was inserted, or a range,
// and then its successor reads exactly that range again, proves by the digest that the messages are the
// same, asks the table which of them it has, and inserts the others: all under the same token, which covers an insert that is still
// under way, or some under one of their own. The comment above runner has the protocol. Behind it
// stands a ReplacingMergeTree by channel and message_seq.
//
// Rows that ClickHouse loses later are noticed by counting, and inserted again from the message log; see restorer.
//
// Several writers share the partitions by leases (pkg/lease), each partition with one of them at a time. When
// one leaves, the others take its partitions at once; when one dies, within the time to live of its lease. The
// lease gives balance, not safety. Two writers of one partition do no harm: the one whose record was overtaken
// is refused, and an insert it had under way carries the token of a range that the other has inserted or will.
//
// # When a neighbour fails
//
//   - ClickHouse is away, hangs, or has too many parts or no disk: the batch is tried again for ever, with
//     a pause that grows to 5 s. Meanwhile the next batch grows to its limit, and then the reader waits: the
//     memory of all batches together is bounded. Sends are answered all the while.
//   - ClickHouse has not the memory for a batch, or the batch is of too many months for one block: it is cut, and
//     each part has a range and a token of its own.
//   - ClickHouse refuses our rights or our columns: as above, and the state is "paused".
//   - At the start ClickHouse cannot be reached, or its table cannot be made or is not as it must be: the writer takes no
//     partition, is not ready, says why, and tries again for ever, with the same pauses.
//   - ClickHouse refuses the content of a row: the batch is cut in two, again and again, each piece with a
//     range and a token of its own, until the row is alone; that one becomes a dead letter, whole.
//   - What stands in a record and is no message becomes a dead letter too.
//   - NATS is away: positions and dead letters are tried again for ever, and the partition is read anew from its recorded
//     position when NATS is back.
//   - A consumer that delivers nothing though there is something is made anew.
//
// # When the message log is not as it was
//
// The log is derived from the write-ahead log, so a place always means the same message. On this rest
// the answers, and they are checked, not believed:
//
//   - Its tail was lost (it is written without fsync on one server) and ends before the position: the writer
//     waits until the sequencer has derived it again.
//   - It was made anew: the message at the position is compared with its digest. If it is the same, the
//     writer goes on where it was. If not, the partition is paused, and a person must look; nothing is
//     inserted, and the position is never set back.
//   - Messages were gone before they were read (retention): the range is counted, logged, named in the
//     position and in a dead letter, and the writer goes on behind it. Where the log has nothing left, that is when
//     the next message comes.
//   - A record is no batch of messages: somebody else wrote it. The partition is paused.
//
// The writer is not ready until it has first reached ClickHouse and joined the other writers, and while any
// partition that it holds is not running; [Service.Check] says which and why.
package writer
