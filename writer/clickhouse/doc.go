// Package clickhouse is the writer's access to ClickHouse: it creates the table of messages and updates it
// ([Client.Migrate]), checks that a table has what the writer needs ([Client.Check]), turns encoded messages into columns
// ([Block]), and inserts blocks exactly once ([Client.Insert]).
//
// # Exactly once
//
// One call of Insert is one INSERT statement with one block and one deduplication token. A table created by this package
// remembers the tokens of its latest inserts, so inserting the same block again under the same token adds nothing. This
// holds as long as
//
//   - the block stays below the size at which the server would split it ([BlockRowsMax], [BlockBytesMax]), and
//   - fewer inserts than the table's non_replicated_deduplication_window lie between the two, and
//   - the server has not lost power between the two: it does not sync its log of tokens. After an insert with an unknown
//     outcome the writer first queries its rows.
//
// If a row is nevertheless stored twice, ReplacingMergeTree, ordered by channel and message_seq, makes it one: when its
// parts are merged, or at once with FINAL.
//
// The rows of an insert that returns without an error are on disk, and stay there: the table syncs inserts and merges.
//
// # Errors
//
// Every error of a call to the server is an [*Error] with a [Class] that determines what the caller can do. One function
// derives the class, from the exception code or from the driver's error.
//
// # Tables
//
// The table requires ClickHouse 23.3 or later.
//
// Views show each message once and hide expired ones, whatever the state of the merges. On a cluster ([Layout]) the table
// is Distributed over replicated tables, sharded by channel.
//
// # Connections
//
// A [Client] may have several servers, which must know each other's tokens: replicas, or servers of one cluster. It
// connects to the first server that answers, and for a while tries one that did not answer last.
package clickhouse
