// Package sim runs sequencers in a simulated world: one goroutine, simulated
// time, everything drawn from a seed. It drives the real runner and the real
// fold through the runner's exported steps; around them it simulates the
// write-ahead log, the message log, the checkpoint store, the lease, the clocks,
// the network and the clients, and lets all of them fail.
//
// The world is stricter than NATS where that costs nothing: an object may be
// found half written, any port call may end the process or pause it while the
// others continue, and every owner has a wall clock of its own.
//
// What is checked, at every step and again at the end, when all is healed and
// one owner has come to rest:
//   - Each answer equals that of a naive fold of the write-ahead log, from
//     whichever owner, and whenever.
//   - The message log equals what that fold makes byte for byte, the messages of
//     record n at stream sequence n; per channel 1, 2, 3, …; IDs strictly increasing.
//   - Only no_persist sends are published live.
//   - If the power failed at this moment and took all of the message log that is
//     younger than the sync interval, a fresh owner could recover. Where the run
//     itself has damaged the checkpoints it must refuse, and never answer.
//   - An owner fails only for a reason that was given to it.
//
// A failure prints its seed, its last events and the command that replays it.
package sim
