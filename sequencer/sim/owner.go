package sim

import "time"

// owner is an instance of the sequencer: a process that may be killed, paused,
// cut off from the leases, and started again.
type owner struct {
	w  *world
	id int

	killed     bool          // in the middle of a call that has not unwound yet
	paused     bool          // in the middle of a call
	downUntil  time.Duration // not started
	sleepUntil time.Duration // paused between calls
	blindUntil time.Duration // does not see that its lease has ended
	clockOff   time.Duration // of its wall clock
	clockRate  float64       // of its monotonic clock
	process    int           // different each time it is started

	lease *held
	seen  sighting
	part  *partition
	retry time.Duration // when to recover after an error
	acked time.Duration // when the outcome of a chunk last came
}

func (o *owner) asleep() bool { return o.paused || o.w.now < o.sleepUntil }

// now is the owner's wall clock. Like a process's monotonic clock it runs evenly.
func (o *owner) now() time.Time { return start().Add(o.w.now + o.clockOff) }

// act lets the owner do a little of everything that its goroutines would do.
func (o *owner) act() {
	if o.asleep() || o.w.now < o.downUntil {
		return
	}
	defer func() {
		if reason := recover(); reason != nil {
			if c, ours := reason.(crash); !ours || c.o != o {
				panic(reason)
			}
			o.die()
		}
	}()
	switch {
	case o.lease == nil:
		o.acquire()
	case !o.keepLease():
		o.giveUp()
	case o.part != nil:
		o.work()
	case o.w.now >= o.retry:
		o.recover()
	}
	o.w.check.acknowledged(o.w, o)
}

// keepLease renews the lease in time. It says false where the lease is over; an
// owner notices that now and then only.
func (o *owner) keepLease() bool {
	w := o.w
	if w.now < o.blindUntil || w.chance(0.3) {
		return true
	}
	if w.now-o.lease.renewed >= w.plan.leaseTTL/renewalsPerTTL && !o.renew() {
		return false
	}
	return o.clock() < o.lease.deadline
}

// giveUp ends the partition's run because its lease has ended.
func (o *owner) giveUp() {
	o.w.event("owner %d releases the partition", o.id)
	o.end()
	o.lease = nil
}

// end ends the partition's run.
func (o *owner) end() {
	if o.part != nil {
		o.part.logs.closed = true
		o.part = nil
	}
}

// kill ends the process, at once or, while it is in the middle of a call, when it
// would continue from there.
func (o *owner) kill() {
	if o.paused {
		o.killed = true
		return
	}
	o.die()
}

func (o *owner) die() {
	o.end()
	o.lease, o.killed, o.sleepUntil, o.blindUntil, o.retry = nil, false, 0, 0, 0
	o.process, o.seen = o.process+len(o.w.owners), sighting{}
	o.downUntil = o.w.now + o.w.upTo(20*time.Second)
	o.clockOff = 0
	if skew := o.w.plan.clockSkew; skew > 0 {
		o.clockOff = o.w.upTo(2*skew) - skew
	}
}
