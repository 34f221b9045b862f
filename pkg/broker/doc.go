// Package broker is the way to NATS: it connects, starts the embedded server
// if none is given, and brings the streams and buckets of a deployment to
// what is wanted.
//
// A connection that was made once is kept: the client reconnects for ever, with
// jitter, and nothing is buffered meanwhile, so that a caller learns at once
// that its publish did not leave. A server that cannot be reached at start is an
// error.
package broker
