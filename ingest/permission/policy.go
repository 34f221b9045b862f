package permission

import (
	"fmt"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// Channel names what a policy is about. A person's policy has type 1 and the uid.
type Channel struct {
	Type message.ChannelType
	Name string
}

// systemAccounts is where the system accounts are kept: the subscribers of a channel that no
// client can name.
const (
	systemType message.ChannelType = 0
	systemName                     = "systemuids"
)

// SystemAccounts names the list of system accounts, to be changed like any other.
func SystemAccounts() Channel { return Channel{Type: systemType, Name: systemName} }

// Flags are what a policy says with one bit each.
type Flags uint8

// The flags.
const (
	// FlagDefined: somebody has defined the channel.
	FlagDefined Flags = 1 << iota
	// FlagLarge: kept and given back, without a meaning here.
	FlagLarge
	// FlagBanned: nobody may send; of a person: neither send nor be sent to.
	FlagBanned
	// FlagDisbanded: nobody may send, system accounts included.
	FlagDisbanded
	// FlagSendBanned: nobody may send; of a person: not send.
	FlagSendBanned
	// FlagStrangers: a person is sent to by those who are not on the allowlist, too.
	FlagStrangers

	// damaged: what is stored cannot be read. It is never stored itself.
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

// String is the list's name in errors and in storage.
func (l List) String() string { return [lists]string{"subscribers", "denylist", "allowlist"}[l] }

// Policy is what is known of one channel. It is never changed: a change makes a new one. A nil
// policy is that of a channel of which nothing is known.
type Policy struct {
	flags    Flags
	revision uint64 // of the key
	lists    [lists]*Set
}

// Has says whether a flag is set.
func (p *Policy) Has(f Flags) bool { return p != nil && p.flags&f != 0 }

// List is one of the lists; nil if it is empty.
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
	// IfDefined makes the edit one that does nothing where the channel is not defined.
	IfDefined bool
	// Lower and Raise are flags to take away and, after that, to set.
	Lower, Raise Flags
	Lists        [lists]ListEdit
}

// ListEdit is a change of one list: emptied if Clear, then without Remove and with Add. The
// uids have been checked: 1 to 256 bytes of UTF-8.
type ListEdit struct {
	Clear       bool
	Add, Remove []string
}

// edit makes the policy behind an edit. It is the same one where nothing changes.
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
