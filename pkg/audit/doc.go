// Package audit is what the parts of an audit report in: each role that checks something says what
// it compared, what differed, and what it could not compare.
package audit
