// Package client sends messages to Sendhouse over its HTTP API.
//
//	c, err := client.New(client.Config{URL: "http://localhost:5001"})
//	result, err := c.Send(ctx, client.Send{
//		FromUID: "user123", ChannelID: "group123", ChannelType: client.ChannelGroup, Payload: []byte(`{"type":1,"content":"hi"}`),
//	})
//
// # Once, and not twice
//
// A send that gets no answer may have been stored or not. So it is sent again under the same client_msg_no, by which the server knows it:
// it answers with the first one's ID and sequence number, and Result.Replayed says so. If a [Send] has no ClientMsgNo, one is made
// (a UUID of version 7) before the first try; a [SendError] names it, for a caller that wants to try again later.
//
// The server remembers for ten minutes (its --dedup-window), and a million sends of a partition at most. A send that may have been stored
// and is sent again after that is stored twice. So nothing in this package sends it again later than Config.ResendWithin, also where the
// machine was suspended meanwhile: the error says then that it may be stored, and [Client.Status] whether it is.
//
// # Errors
//
// What the server answered is an [Error]: status, code, message, field, reason. [IsRetryable] reports whether a later try can help,
// [IsRefused] that the server will not have this send, and [MaybeStored] that it may be stored all the same.
//
// # Order
//
// Calls of Send that follow each other keep their order within a channel. Calls at the same time have none.
//
// # A queue on disk
//
// Package queue keeps sends that could not be delivered, through crashes, until they are.
package client
