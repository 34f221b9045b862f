package fold

import (
	"fmt"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// ErrRule is returned for a record that a newer version's rule is to fold. Nothing was folded.
var ErrRule = fmt.Errorf("record names a rule for time that this version does not know (it knows %d); run the version that wrote it", message.RuleNewest)

// A forward step of the broker's clock cannot be distinguished from a pause of the senders. So no record moves the window's clock by
// more than a hundredth of the window, and an entry is kept for a tenth longer than the window: ten steps in its time forget
// nothing early, however large they are. After a pause, entries stay until so many more records have come, or the window is full.
const (
	stepsPerWindow = 100
	stepsAbsorbed  = 10
)

// clock is the time of a partition, which only its records move. It holds three times, since no single one can be true to the
// broker's, never go back, and measure an age:
//
//   - broker is the broker's own, as it is: a message's timestamp, from which it expires. It goes back with the broker's clock.
//   - ids makes message_ids. It is at broker's time or, if that has been ahead before, ahead of it; then the counter alone
//     advances, and carries into the next millisecond after 4,096 IDs.
//   - age measures how long the window keeps a send. It advances by what broker does, at most maxStep for one record, and
//     stands while broker steps back.
//
// A record of a time that cannot be right, before 2020 or from 2085 on, moves none of them: it has the time of the record before it.
//
// By message.RuleFrozen all three are one, the latest time so far.
type clock struct {
	rule        int
	ids         message.IDClock
	brokerMilli int64 // Unix; 0 before the first time that may be right, and by message.RuleFrozen
	ageMilli    int64 // of the window; by message.RuleFrozen Unix
}

// maxStep is how far one record moves the window's clock at most.
func (p Params) maxStep() int64 { return max(p.DedupWindow.Milliseconds()/stepsPerWindow, 1) }

// keepMilli is how long the window keeps a send by its clock.
func (c *clock) keepMilli(p Params) int64 {
	if c.rule == message.RuleFrozen {
		return p.DedupWindow.Milliseconds()
	}
	return p.DedupWindow.Milliseconds() + stepsAbsorbed*p.maxStep()
}

// follows reports whether a clock that may be right can show a time.
func follows(unixMilli int64) bool {
	return unixMilli >= message.FollowedMilliMin && unixMilli < message.FollowedMilliMax
}

// adopt makes a rule hold from the next record on. A rule, once it holds, is not left for an older one.
func (c *clock) adopt(rule int) {
	if rule <= c.rule {
		return
	}
	if c.rule == message.RuleFrozen && follows(c.ageMilli) {
		c.brokerMilli = c.ageMilli
	}
	c.rule = rule
}

// record moves the clock to the time of a record.
func (c *clock) record(unixMilli int64, p Params) {
	if c.rule == message.RuleFrozen {
		c.ageMilli = max(c.ageMilli, unixMilli)
		return
	}
	if !follows(unixMilli) {
		return
	}
	if c.brokerMilli != 0 {
		c.ageMilli += min(max(unixMilli-c.brokerMilli, 0), p.maxStep())
	}
	c.brokerMilli = unixMilli
}

// idMilli is the time that the ID clock is shown.
func (c *clock) idMilli() int64 {
	if c.rule == message.RuleFrozen {
		return c.ageMilli
	}
	return c.brokerMilli
}

// next makes the identity of the next message, but for what its record and its channel add.
func (c *clock) next() message.Identity {
	id := message.Identity{ID: c.ids.Next(c.idMilli())}
	if c.brokerMilli != 0 && c.brokerMilli != id.ID.UnixMilli() {
		id.TimestampMilli = uint64(c.brokerMilli)
	}
	return id
}

// remembered is what an entry of the window with this ID, made now, is dated.
func (c *clock) remembered(id message.ID) int64 {
	if c.rule == message.RuleFrozen {
		return id.UnixMilli()
	}
	return c.ageMilli
}
