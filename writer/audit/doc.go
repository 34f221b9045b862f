// Package audit compares the rows in ClickHouse with the message log that they were made from.
//
// It covers what a partition's writer has recorded as done when the audit starts, so it may run while messages arrive. It
// compares ranges of partition_seqs by their number of rows and a sum of digests over all columns, which ClickHouse
// computes. It compares row by row only in a range that differs, and reads only rows that differ. Its memory use is one
// window of ranges, or one range of digests, regardless of the size of the table.
//
// It does not compare, and reports so, rows whose messages retention has removed from the message log (it verifies that
// none of them is stored twice), and rows that have expired or will within the hour.
package audit
