// Package queue keeps sends on disk until Sendhouse has them. What Enqueue has taken survives a crash of the process and of the machine,
// and is sent in order, channel by channel, until it is answered.
//
//	q, err := queue.Open(queue.Config{Dir: "/var/lib/app/sends", Client: c})
//	go q.Run(ctx)
//	err = q.Enqueue(&send)
//
// # What is promised
//
//   - A send that Enqueue took is on disk (fsync). It leaves the queue when the server has answered it, or for the dead letters; each way it
//     is told: OnSent, OnDead. Nothing is dropped.
//   - The sends of a channel go one after another in the order of Enqueue; the next one goes when the one before is answered and that is
//     on disk. Channels do not wait for each other. A channel gets therefore one message in a round trip to the server: this is
//     a queue for what could not be sent, not a way to send fast.
//   - A send is tried under one client_msg_no, by which the server knows it, so a crash at any point repeats nothing, with the limit that
//     follows.
//
// # Stored twice
//
// The server knows a client_msg_no for ten minutes (--dedup-window), and the last million sends of a partition. A try whose answer was lost,
// a network or a process that is away for longer, and another try: if the first had been stored, the message would be there twice.
// The queue therefore keeps, for the one send of each channel that can be under way, since when a try of it may have been stored; on disk,
// so that it is known after a crash too. Within Config.ResendWithin of that time it is sent again. After that the server is asked for
// its status first ([Ask]): one that is stored is done, one that is not is sent. Where the server cannot tell, it becomes a dead letter for
// [Uncertain], for the application to decide. A send of which no
// try can have been stored (the server was not reached, or said that nothing was written) may wait as long as it likes.
// All this rests on the machine's clock: one that is set back while the process is down makes a try look younger than it is. While the
// process runs, a clock that is set and a machine that is suspended are noticed.
//
// # When something fails
//
//   - The server is away, overloaded or refuses the token: all channels wait; one send probes, with growing pauses.
//   - One partition does not answer: its channels wait, each with its own pauses.
//   - The server refuses a send (malformed, too large, no permission): it becomes a dead letter, and the channel goes on with the next.
//   - Config.BytesMax is reached: Enqueue says so. Dead letters count; remove those that nobody needs.
//   - The disk is full, or fails: Enqueue says so, and so does the log, once. Nothing is sent that could not be noted before; what was
//     answered already is noted later, and not sent again, unless the process dies before that: then it is as after any crash. Sends go on
//     by themselves when the disk takes changes again.
//   - The file is damaged as a whole: Run ends with an error.
//   - Another process has the folder: Open says so.
//   - A record is damaged: it becomes a dead letter, as it is.
//
// The store is one bbolt file: a B+ tree whose pages are written anew and never in place, so there is no tail to repair after a crash. Its
// size follows the most that was ever in it, and does not shrink; what is freed is used again.
package queue
