package ingest

import (
	"slices"
	"strings"

	"github.com/go-faster/jx"

	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// managed is the body of a management route, decoded and checked.
type managed struct {
	channel permission.Channel
	uids    []string // each once
	reset   bool
	flags   permission.Flags // of a channel that is defined
}

// accepts says what a management route takes beside the channel.
type accepts struct {
	noChannel   bool  // it is not about a channel
	uids        field // the name of its uids; fieldsCount: it has none
	uidsMayLack bool
	flags       bool // large, ban, disband, send_ban, allow_stranger
	reset       bool
	groupUnsaid bool // an absent channel_type means a group
	noPerson    bool // a person's channel has no such thing
	// Of a route that only removes: the list. Names that break the rules are taken if they are stored: somebody has written them there by
	// other ways, and they have to be removable.
	removes     bool
	removesFrom permission.List
}

// The flags of a body, in the order of their fields.
const (
	manageTempSubscriber = iota
	manageReset
	manageLarge
	manageBan
	manageDisband
	manageSendBan
	manageAllowStranger
	manageFlags // the number of them
)

// decodeManaged reads r.body as the body of a management route. As for a send, one error names
// every bad field, and fields that the route does not know are passed over.
func (r *request) decodeManaged(takes accepts) (m managed, p problem) {
	var flags [manageFlags]int64
	if p := r.decodeWith(func(d *jx.Decoder) error { return r.managedObject(d, takes, &flags) }); !p.ok() {
		return m, p
	}
	if !takes.noChannel {
		m.channel = r.managedChannel(takes)
	}
	if takes.uids != fieldsCount {
		m.uids = r.managedUIDs(takes, m.channel)
	}
	for i, v := range flags {
		if v != 0 && v != 1 {
			r.bad(fieldTempSubscriber+field(i), isFlag)
		}
	}
	if flags[manageTempSubscriber] == 1 {
		r.bad(fieldTempSubscriber, "is not supported; send to a set of receivers with subscribers and header.sync_once=1")
	}
	m.reset = flags[manageReset] == 1
	m.flags = managedFlags(flags)
	return m, r.problem()
}

func managedFlags(given [manageFlags]int64) permission.Flags {
	flags := permission.FlagDefined
	for i, flag := range [manageFlags]permission.Flags{
		manageLarge: permission.FlagLarge, manageBan: permission.FlagBanned, manageDisband: permission.FlagDisbanded,
		manageSendBan: permission.FlagSendBanned, manageAllowStranger: permission.FlagStrangers,
	} {
		if given[i] == 1 {
			flags |= flag
		}
	}
	return flags
}

// managedObject reads the body's object.
func (r *request) managedObject(d *jx.Decoder, takes accepts, flags *[manageFlags]int64) error {
	f := &r.fields
	it, err := d.ObjIter()
	if err != nil {
		return err
	}
	for it.Next() {
		name := managedField(string(it.Key()), takes)
		switch {
		case name == fieldChannelID:
			err = r.string(d, name, &f.channelID)
		case name == fieldChannelType:
			err = r.integer(d, name, &f.channelType)
		case name == fieldsCount:
			err = skip(d, 2)
		case name == takes.uids:
			err = r.uids(d, name)
		default:
			err = r.integer(d, name, &flags[name-fieldTempSubscriber])
		}
		if err != nil {
			return err
		}
	}
	return it.Err()
}

// managedField is the field of a key; fieldsCount where the route does not know it.
func managedField(key string, takes accepts) field {
	for _, name := range []field{fieldChannelID, fieldChannelType} {
		if key == name.String() && !takes.noChannel {
			return name
		}
	}
	if takes.uids != fieldsCount && key == takes.uids.String() {
		return takes.uids
	}
	for name := fieldTempSubscriber; name <= fieldAllowStranger; name++ {
		known := takes.flags
		switch name {
		case fieldTempSubscriber:
			known = takes.groupUnsaid
		case fieldReset:
			known = takes.reset
		default:
		}
		if key == name.String() && known {
			return name
		}
	}
	return fieldsCount
}

// managedChannel checks the channel as for a send. A person is named by the uid alone.
func (r *request) managedChannel(takes accepts) permission.Channel {
	f := &r.fields
	channelType := r.channelType()
	if f.channelType == 0 && takes.groupUnsaid && !r.isBad(fieldChannelType) {
		channelType = message.ChannelGroup
	}
	switch {
	case channelType == message.ChannelPerson && takes.noPerson:
		r.bad(fieldChannelType, "must not be 1: a person has no subscribers, and is not deleted")
	case channelType.Valid():
	case f.given.has(fieldChannelType):
		r.bad(fieldChannelType, "must be an integer from 1 to 12")
	default:
		r.bad(fieldChannelType, isRequired)
	}
	ch := permission.Channel{Type: channelType, Name: strings.Clone(f.channelID)}
	if !takes.removes || ch.Name == "" {
		r.badIf(fieldChannelID, ch.Rule())
	}
	return ch
}

// checkStored refuses names that break the rules and are not stored, on a route that removes.
func (s *Service) checkStored(r *request, m managed, takes accepts) problem {
	var policy *permission.Policy
	var err error
	ch := m.channel
	if takes.noChannel {
		ch = permission.SystemAccounts()
	}
	if policy, err = s.permissions.Policy(ch); err != nil {
		return problem{outcome: outcomePermissionsAway}
	}
	if policy == nil && !takes.noChannel {
		r.badIf(fieldChannelID, ch.Rule())
	}
	for _, uid := range m.uids {
		if !policy.List(takes.removesFrom).Has(uid) {
			r.checkUID(takes.uids, uid)
		}
	}
	return r.problem()
}

// managedUIDs checks the uids: empty ones left out, each once.
func (r *request) managedUIDs(takes accepts, ch permission.Channel) []string {
	uids := make([]string, 0, len(r.fields.subscribers))
	for _, uid := range r.fields.subscribers {
		if uid == "" {
			continue
		}
		if !takes.removes {
			r.checkUID(takes.uids, uid)
		}
		uids = append(uids, strings.Clone(uid))
	}
	switch {
	case len(uids) == 0 && !takes.uidsMayLack:
		r.bad(takes.uids, isRequired)
	case len(uids) > 0 && takes.uids == fieldSubscribers && ch.Type == message.ChannelPerson:
		r.bad(takes.uids, "must not be given where the channel is a person's")
	}
	slices.Sort(uids)
	return slices.Compact(uids)
}
