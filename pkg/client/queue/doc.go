// Package queue keeps sends on disk until Sendhouse has them. What Enqueue has taken survives a crash of the process and of the machine,
// and is sent in order, channel by channel, until it is answered.
//
//	q, err := queue.Open(queue.Config{Dir: "/var/lib/app/sends", Client: c})
//	defer q.Close() // its error is also Run's
//	go q.Run(ctx)
//	handles, err := q.Enqueue(ctx, send, another)
//
// # What is promised
//
//   - Sends that Enqueue took are on disk (fsync), all of one call or none. A send leaves the queue when the server has answered it, or for the
//     dead letters; each way OnSent or OnDead is called, and its [Handle] has the outcome. Nothing is dropped.
//   - The sends of a channel are stored in the order of Enqueue. Channels do not wait for each other. One request has the next sends of many
//     channels, and several of one channel if the server can keep their order ([client.Window]).
//   - A send is tried under one client_msg_no, by which the server knows it, so a crash at any point repeats nothing, with the limit that
//     follows.
//
// # Stored twice
//
// The server knows a client_msg_no for a limited time, which depends on its settings and on how much it is sent. A try whose answer was lost, a
// network or a process that is away for longer, and another try: if the first had been stored, the message would be there twice.
// So the disk has, before a try begins, when it began. The server says how far back it remembers, and within that time the send is simply sent
// again. After that the server is asked for its status first ([Ask]): one that is stored is done, one that is not is sent. If the server
// cannot tell, it becomes a dead letter for [Uncertain], for the application to decide. A send of which no try can have been stored (the server
// was not reached, or said that nothing was written) may wait as long as it likes.
//
// All this rests on the machine's clock. One that is set back, and a machine that is suspended, are noticed while the process runs; after a
// restart the times on disk are the least that the clock shows.
//
// # When something fails
//
//   - The server is away, overloaded or refuses the token: all channels wait; one send probes, with growing pauses, each time of another channel.
//   - Something breaks every request that has a certain send: it is found by halves, and then only its channel waits.
//   - One partition does not answer: its channels wait, each with its own pauses.
//   - The server refuses a send (malformed, too large, no permission): it becomes a dead letter, and the channel continues with the next. What
//     no server would take is refused by Enqueue.
//   - Config.BytesMax is reached: Enqueue fails with a *[FullError]. Dead letters count; remove those that are not needed.
//   - The disk is full, or fails: Enqueue fails, and the log says so once. Nothing is sent that could not be noted before; what was
//     answered already is noted later, and not sent again, unless the process dies before that: then it is as after any crash. Sends continue
//     when the disk takes changes again.
//   - A file is damaged: Open keeps all that can be read, writes it to new files, renames the damaged ones to NAME.damaged-DATE, and makes a
//     dead letter for [Damaged] of each region that cannot be read. Sends that may have been tried according to what is lost are doubtful. A
//     damaged end of the newest file looks like a write that a crash cut off, and is not reported.
//   - The folder or a file is deleted while the queue is open: Run ends with [ErrGone], and every call fails with it.
//   - Another process has the folder: Open fails with [ErrLocked].
//
// The files are a journal (pkg/client/internal/journal). They are never larger than twice Config.BytesMax, and shrink when sends leave.
// Memory has about 30 bytes for each send that waits, and 200 for each channel; the sends themselves stay on disk until they are sent.
package queue
