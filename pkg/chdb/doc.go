// Package chdb is the embedded ClickHouse: the real engine, loaded from libchdb without cgo and served on ClickHouse's HTTP interface, so
// that clickhouse-go, curl and Grafana use it as they use a server.
//
// # Contract
//
// Open starts the engine on a data folder. A folder belongs to one process at a time, and a process has one engine at a time; both are
// errors that say so. Close ends what runs and releases the folder; what was acknowledged before a kill -9 is there after the next Open.
//
// Durability is the table's choice, as on a server: fsync_after_insert=1 and fsync_part_directory=1 make an acknowledged insert survive
// the loss of power, and without them it survives the loss of the process.
//
// An insert arrives whole before it begins: its data is written to a private file first, so a client that breaks off in the middle has
// inserted nothing. One block of the Native format stays one block, up to 1,048,449 rows and 268 MB, and so has one deduplication token
// (insert_deduplication_token, on a table with non_replicated_deduplication_window). An insert whose data has arrived runs to its end even
// if its client has gone; only Close and max_execution_time end it. A read ends when its client goes.
//
// # What differs from a server
//
// There are two kinds of clients. With a password set, its owner may do everything but what reaches files and networks, and clients on this
// machine may read one database (Config.ReaderDatabase) without it; see access.go. There is neither ClickHouse's native protocol nor /play,
// which libchdb does not have. There are no sessions (session_id), no external tables (multipart forms), no INTO OUTFILE and FROM INFILE, and no
// input() table function: each is refused with an exception that says so. GET is read-only, as on a server. async_insert is off unless a
// client asks for it. KILL QUERY finds a query by its log_comment, which ends with its query_id; the engine's own query_id is another.
// Without a password anyone who may send SQL may read files with file(), so the listener is for this machine alone then. With one, the function
// file(), which no grant covers, is left to the owner; pkg/engine confines the process as well.
//
// # Neighbours
//
// When the disk is full, inserts fail with ClickHouse's exception and reads continue. When memory runs out, the query that asks for more fails
// with code 241. When too many queries come at once, they wait a moment and then get code 202 with HTTP status 503.
package chdb
