package permission

import (
	"github.com/sendhouse/sendhouse/pkg/message"
)

// SystemUID is WuKongIM's built-in system account. It has the rights of the listed system accounts.
const SystemUID = "____system"

// Verdict is the decision on a send.
type Verdict uint8

// The verdicts. Their reason codes are WuKongIM's; see [Verdict.Reason].
const (
	Allowed Verdict = iota
	SenderBanned
	ChannelBanned
	Disbanded
	Denylisted
	NotSubscribed
	NotAllowlisted
	Undefined
	// Unavailable means that the policies are not known, so no send can be allowed.
	Unavailable
	Verdicts // the number of them
)

// Reason returns WuKongIM's reason code for a refusal; 0 for the other verdicts.
func (v Verdict) Reason() int {
	return [Verdicts]int{
		SenderBanned: 25, ChannelBanned: 19, Disbanded: 24, Denylisted: 4,
		NotSubscribed: 3, NotAllowlisted: 13, Undefined: 5,
	}[v]
}

// String returns the verdict's name in metrics.
func (v Verdict) String() string {
	return [Verdicts]string{
		"allowed", "sender_banned", "channel_banned", "disbanded", "denylisted",
		"not_subscribed", "not_allowlisted", "undefined", "unavailable",
	}[v]
}

// Rules are the settings that affect the verdicts.
type Rules struct {
	// RefuseUndefined refuses sends to group-like channels that are not defined.
	RefuseUndefined bool
	// PersonAllowlists allows sends to a person only from uids on the person's allowlist, unless the person allows strangers.
	PersonAllowlists bool
	// ChannelOnly allows every send to a channel that is neither banned nor disbanded.
	ChannelOnly bool
}

// Send is a send to decide on.
type Send struct {
	From string
	// Type and Name are the channel's, without the command suffix. For a person channel Name is the other side's uid.
	Type message.ChannelType
	Name string
	// ReceiversNamed means that the send names its receivers instead of a channel.
	ReceiversNamed bool
}

// View looks up policies.
type View interface {
	// Policy returns nil if the channel has no policy.
	Policy(Channel) *Policy
	// System reports whether a uid is a system account.
	System(uid string) bool
}

// Decide returns the verdict on a send. It is a pure function of the view, the rules and the send.
//
// The order of checks: a system account may send anywhere but to a disbanded channel; then the sender's ban; the channel's
// state; the denylist; membership; the allowlist. A command falls under the policy of its channel. A send that names its
// receivers instead of a channel is allowed, as in WuKongIM: no policy applies to it. With ChannelOnly the channel's ban and
// disband are all that counts.
func Decide(v View, rules Rules, s Send) Verdict {
	if s.ReceiversNamed {
		return Allowed
	}
	channel := v.Policy(Channel{Type: s.Type, Name: s.Name})
	if channel.Has(damaged) {
		return Unavailable
	}
	if s.From == SystemUID || v.System(s.From) {
		if channel.Has(FlagDisbanded) {
			return Disbanded
		}
		return Allowed
	}
	if !rules.ChannelOnly {
		if verdict := decideSender(v, s, channel); verdict != Allowed {
			return verdict
		}
	}
	switch {
	case channel.Has(FlagBanned):
		return ChannelBanned
	case channel.Has(FlagDisbanded):
		return Disbanded
	case rules.ChannelOnly:
		return Allowed
	}
	switch s.Type {
	case message.ChannelPerson:
		return decidePerson(v, rules, s, channel)
	case message.ChannelVisitors:
		return decideVisitors(v, rules, s, channel)
	default:
		return decideLists(rules, s, channel, groupLike(s.Type))
	}
}

// decideSender checks whether the sender is banned, as a person or together with all others in the channel. A banned
// person can neither send nor receive; a send-banned one cannot send.
func decideSender(v View, s Send, channel *Policy) Verdict {
	person := v.Policy(Channel{Type: message.ChannelPerson, Name: s.From})
	switch {
	case person.Has(damaged):
		return Unavailable
	case person.Has(FlagSendBanned), person.Has(FlagBanned):
		return SenderBanned
	case s.Type != message.ChannelPerson && channel.Has(FlagSendBanned):
		return SenderBanned
	}
	return Allowed
}

func decidePerson(v View, rules Rules, s Send, receiver *Policy) Verdict {
	switch {
	case s.Name == SystemUID || v.System(s.Name):
		return Allowed
	case receiver.List(Denylist).Has(s.From):
		return Denylisted
	case rules.PersonAllowlists && !receiver.Has(FlagStrangers) && !receiver.List(Allowlist).Has(s.From):
		return NotAllowlisted
	}
	return Allowed
}

// decideVisitors decides on a visitors channel, whose name is the visitor's uid. The visitor may send. Who may answer is
// determined by the lists of the customer service channel of that name (WuKongIM v3) or, if there is none, by the
// channel's own (v2).
func decideVisitors(v View, rules Rules, s Send, channel *Policy) Verdict {
	if s.From == s.Name {
		return Allowed
	}
	service := v.Policy(Channel{Type: message.ChannelCustomerService, Name: s.Name})
	if service.Has(damaged) {
		return Unavailable
	}
	if service.Has(FlagDefined) {
		channel = service
	}
	return decideLists(rules, s, channel, true)
}

func decideLists(rules Rules, s Send, channel *Policy, membersOnly bool) Verdict {
	defined := channel.Has(FlagDefined)
	switch {
	case membersOnly && !defined && rules.RefuseUndefined:
		return Undefined
	case channel.List(Denylist).Has(s.From):
		return Denylisted
	case !membersOnly:
		return Allowed
	case defined && !channel.List(Subscribers).Has(s.From):
		return NotSubscribed
	case channel.List(Allowlist).Len() > 0 && !channel.List(Allowlist).Has(s.From):
		return NotAllowlisted
	}
	return Allowed
}

// groupLike reports whether only members may send to channels of a type. Customer service, info and agent channels are
// open to everyone. A type that WuKongIM does not name is a group, as in WuKongIM.
func groupLike(t message.ChannelType) bool {
	switch t {
	case message.ChannelCustomerService, message.ChannelInfo, message.ChannelAgent:
		return false
	default:
		return true
	}
}
