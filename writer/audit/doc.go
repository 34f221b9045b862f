// Package audit holds the rows in ClickHouse against the message log that they were made from.
//
// It looks at what a partition's writer has recorded as done when the audit begins, so it may run
// while messages come in. Ranges of partition_seqs are compared by their number of rows and a sum of
// digests over all columns, which ClickHouse makes by itself. Only a range that differs is looked at
// row by row, and only a row that differs is read. Memory is needed for one window of ranges, or one
// range of digests, whatever the size of the table.
//
// Not compared are, and the report says so: rows whose messages retention has taken from the message
// log (of those it checks that none is there twice), and rows that have expired or will within the
// hour.
package audit
