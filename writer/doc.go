// Package writer is the role that inserts the message log into ClickHouse: every message once, in order,
// whichever of its neighbours fails.
//
// # Contract
//
// Ordering: the messages of a partition are inserted in the order of their partition_seq, one batch after another. The
// partition_seq numbers all messages of a partition. A record of the log holds the messages of one group commit, and a
// batch may begin and end within a record. Batches of different partitions are inserted concurrently.
//
// Delivery: a message of the log is in the table exactly once, or is a dead letter, or is recorded as lost; it is never
// dropped silently. The position of a partition, a record in the bucket [topology.WriterBucket], holds what is
// done and what is being inserted, and changes only by compare-and-set:
//
//  1. A batch gets its limits: a contiguous range of partition_seq.
//  2. The range is recorded, with a digest of its messages and a deduplication token.
//  3. The rows are inserted as one block under the token.
//  4. The position moves past the range. If the next batch is being gathered already, its step 2 does this in the
//     same write.
//
// A writer that dies before step 2 has inserted nothing. One that dies later leaves a recorded range: its successor
// reads exactly that range again, verifies the digest, asks the table which of the messages it has, and inserts the
// others. It inserts all under the recorded token, which also covers an insert that is still running, or some under a
// token of their own. The comment above runner describes the protocol. As the last line of defence, the table is a
// ReplacingMergeTree by channel and message_seq.
//
// Rows that ClickHouse loses later are found by counting, and inserted again from the message log; see restorer.
//
// Several writers share the partitions by leases (pkg/lease); one writer at a time holds a partition. When a writer
// leaves, the others take its partitions at once; when it dies, within the time to live of its lease. The lease
// balances load; it is not needed for safety. Two writers of one partition do no harm: the compare-and-set refuses the
// one that is overtaken, and its running insert carries the token of a range that the other one inserts too.
//
// # When a neighbour fails
//
//   - ClickHouse is unreachable, hangs, or has too many parts or no disk space: the writer retries the batch forever,
//     with a pause that grows to 5 s. Meanwhile the next batch grows to its limit, and then the reader waits: the
//     memory of all batches together is bounded. Ingest keeps acknowledging sends.
//   - ClickHouse lacks the memory for a batch, or the batch spans too many months for one block: the batch is cut, and
//     each part has its own range and token.
//   - ClickHouse refuses the writer's rights or columns: as above, and the state is "paused".
//   - ClickHouse cannot be reached at the start, or its table cannot be created or is not as required: the writer takes
//     no partition, is not ready, reports why, and retries forever with the same pauses.
//   - ClickHouse refuses the content of a row: the batch is cut repeatedly, each piece with its own range and token,
//     until the row is alone; that record becomes a dead letter.
//   - An entry of a record is not a message: it becomes a dead letter too.
//   - NATS is unreachable: the writer retries positions and dead letters forever, and reads the partition from its
//     recorded position when NATS is back.
//   - A consumer delivers nothing although the stream has more: it is recreated.
//
// # When the message log has changed
//
// The log is derived from the write-ahead log, so a partition_seq always identifies the same message. The following
// reactions rely on this, and verify it:
//
//   - Its tail was lost (on one server it is written without fsync), so that it ends before the position: the writer
//     waits until the sequencer has derived the tail again.
//   - It was recreated: the writer compares the message at the position with its digest. If they match, it continues
//     at its position. If not, it pauses the partition, inserts nothing and never moves the position back; a person
//     must find the cause.
//   - Messages disappeared before they were read (retention): the range is counted, logged, recorded in the
//     position and in a dead letter, and the writer continues after it. If the log is empty, it does so when the next
//     message arrives.
//   - A record is not a batch of messages, so another program wrote it: the partition is paused.
//
// The writer is ready once it has reached ClickHouse and joined the other writers, and while all partitions that it
// holds are running; [Service.Check] reports which are not, and why.
package writer
