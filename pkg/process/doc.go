// Package process is what each process of Sendhouse has, whatever its roles: the
// admin listener with its front page, metrics and traces; embedded servers;
// connections to NATS; and the order in which all of it ends, which is the reverse
// of the one in which it began.
package process
