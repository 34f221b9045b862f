package permission

import (
	"fmt"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// Channel names what a policy applies to. A person's policy has type 1 and the uid.
type Channel struct {
	Type message.ChannelType
	Name string
}

// Rule returns the rule that the channel's name breaks, or ""; see [message.ChannelIDRule]. A person is named by the uid,
// which can be any that may send.
func (c Channel) Rule() string {
	if c.Type == message.ChannelPerson {
		return message.UIDRule(c.Name, 0)
	}
	return message.ChannelIDRule(c.Name, c.Type)
}

// systemAccounts is where the system accounts are stored: the subscribers of a channel that no client can name.
const (
	systemType message.ChannelType = 0
	systemName                     = "systemuids"
)

// SystemAccounts returns the channel that holds the system accounts. Its list is changed like any other.
func SystemAccounts() Channel { return Channel{Type: systemType, Name: systemName} }

// Flags are the boolean properties of a policy.
type Flags uint8

// The flags.
const (
	// FlagDefined: the channel is defined.
	FlagDefined Flags = 1 << iota
	// FlagLarge: stored and returned, without effect.
	FlagLarge
	// FlagBanned: no one may send; a person can neither send nor be sent to.
	FlagBanned
	// FlagDisbanded: no one may send, system accounts included.
	FlagDisbanded
	// FlagSendBanned: no one may send; a person cannot send.
	FlagSendBanned
	// FlagStrangers: uids that are not on the person's allowlist may send to the person too.
	FlagStrangers

	// damaged: the stored policy cannot be read. This flag itself is never stored.
	damaged
)

// List is one of a policy's lists of uids.
type List uint8

// The lists.
const (
	Subscribers List = iota
	Denylist
	Allowlist
	lists // the number of them
)

// String returns the list's name in errors and in storage.
func (l List) String() string { return [lists]string{"subscribers", "denylist", "allowlist"}[l] }

// Policy is the policy of one channel. It is immutable: a change makes a new one. A nil policy is that of a channel that
// is not defined and has no lists.
type Policy struct {
	flags    Flags
	revision uint64 // of the key
	lists    [lists]*Set
}

// Has reports whether a flag is set.
func (p *Policy) Has(f Flags) bool { return p != nil && p.flags&f != 0 }

// List returns one of the lists; nil if it is empty.
func (p *Policy) List(l List) *Set {
	if p == nil {
		return nil
	}
	return p.lists[l]
}

// isEmpty reports whether a policy is the same as none.
func (p *Policy) isEmpty() bool { return p == nil || p.flags == 0 && p.members() == 0 }

func (p *Policy) members() (n int) {
	for l := range lists {
		n += p.List(l).Len()
	}
	return n
}

// Edit is a change of one channel's policy.
type Edit struct {
	// IfDefined makes the edit a no-op if the channel is not defined.
	IfDefined bool
	// Lower are flags to clear; Raise are flags to set afterwards.
	Lower, Raise Flags
	Lists        [lists]ListEdit
}

// ListEdit is a change of one list: first Clear, then Remove, then Add. The uids have been checked: 1 to 256 bytes of
// UTF-8.
type ListEdit struct {
	Clear       bool
	Add, Remove []string
}

// edit returns the policy after an edit, or p itself if nothing changes.
func (p *Policy) edit(e Edit) (*Policy, error) {
	if e.IfDefined && !p.Has(FlagDefined) && !p.Has(damaged) {
		return p, nil
	}
	next := &Policy{}
	if p != nil {
		*next = *p
	}
	next.flags = next.flags&^e.Lower | e.Raise
	changed := p == nil && next.flags != 0 || p != nil && next.flags != p.flags
	for l := range lists {
		set, err := next.lists[l].edit(e.Lists[l])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l, err)
		}
		changed = changed || set != next.lists[l]
		next.lists[l] = set
	}
	if !changed {
		return p, nil
	}
	if next.flags&damaged != 0 {
		next.flags &^= damaged
		for l := range lists {
			if next.lists[l].isDamaged() {
				return nil, fmt.Errorf("%s: %w", l, ErrDamaged)
			}
		}
	}
	return next, nil
}
