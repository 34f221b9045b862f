// Package clickhouse is the writer's way into ClickHouse: it creates the table of messages and keeps it
// up to date ([Client.Migrate]), checks that a table has what is needed ([Client.Check]), turns encoded
// messages into columns ([Block]), and inserts blocks exactly once ([Client.Insert]).
//
// # Exactly once
//
// One call of Insert is one INSERT statement with one block and one deduplication token. A table made
// by this package remembers the tokens of its latest inserts, so the same block inserted again under the
// same token adds nothing. This holds as long as
//
//   - the block stays below the size at which the server would cut it in two ([BlockRowsMax],
//     [BlockBytesMax]), and
//   - fewer inserts than the table's non_replicated_deduplication_window lie between the two, and
//   - the server has not lost power between the two: it does not sync its log of tokens. After an insert of which nothing is known the
//     writer asks for its rows first.
//
// Behind this stands a second net: the table is a ReplacingMergeTree by channel and message_seq, so what
// is nevertheless there twice becomes one row when its parts are merged, or at once with FINAL.
//
// An insert that has returned without an error is on disk, and stays there: the table syncs inserts and what merges make of them.
//
// # Errors
//
// Every error of a call to the server is an [*Error] with a [Class] that says what the caller can do:
// the decision is taken in one place, from the exception code or from what the driver reports.
//
// # Tables
//
// The table is for any ClickHouse since 23.3.
//
// Beside the table stand views that show each message once and no expired one, whatever the merges have done.
// On a cluster ([Layout]) the table is Distributed over replicated ones, sharded by channel.
//
// # Connections
//
// A [Client] may have several servers, which must know each other's tokens: replicas, or servers of one cluster.
// A connection goes to the first that answers; one that does not is asked last for a while.
package clickhouse
