// Package deadletter is the stream of what could not be processed: what a dead letter is, how one is put there by
// the role that could not, and how an operator lists, looks at and removes them.
//
// A letter is a message of the stream topology.DeadLettersStream on deadletters.<role>.<reason>. Its body is what could
// not be processed, whole; the headers say what went wrong, and where it came from. Its ID is its sequence in that
// stream, which is never used again.
package deadletter
