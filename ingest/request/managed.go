package request

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-faster/jx"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// Managed is the decoded and checked body of a management route.
type Managed struct {
	Channel permission.Channel
	Uids    []string // without duplicates
	Reset   bool
	Flags   permission.Flags // of a channel that is defined
}

// Accepts describes what a management route takes besides the channel.
type Accepts struct {
	NoChannel   bool  // the route has no channel
	Uids        Field // the name of its uids; fieldsCount: the route has none
	UidsMayLack bool
	Flags       bool // large, ban, disband, send_ban, allow_stranger
	Reset       bool
	GroupUnsaid bool // an absent channel_type means a group
	NoPerson    bool // the route does not apply to a person's channel
	// Removes and RemovesFrom are set for a route that only removes. Names that break the rules are accepted if they are
	// stored: they were written by other means, and must be removable.
	Removes     bool
	RemovesFrom permission.List
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

// DecodeManaged parses and checks r.body as the body of a management route. As for a send, one error names every bad
// field, and unknown fields are ignored.
func (r *Request) DecodeManaged(takes Accepts) (m Managed, p outcome.Problem) {
	var flags [manageFlags]int64
	if p := r.decodeWith(func(d *jx.Decoder) error { return r.managedObject(d, takes, &flags) }); !p.OK() {
		return m, p
	}
	if !takes.NoChannel {
		m.Channel = r.managedChannel(takes)
	}
	if takes.Uids != FieldsCount {
		m.Uids = r.managedUIDs(takes, m.Channel)
	}
	for i, v := range flags {
		if v != 0 && v != 1 {
			r.bad(fieldTempSubscriber+Field(i), isFlag)
		}
	}
	if flags[manageTempSubscriber] == 1 {
		r.bad(fieldTempSubscriber, "is not supported; send to a set of receivers with subscribers and header.sync_once=1")
	}
	m.Reset = flags[manageReset] == 1
	m.Flags = managedFlags(flags)
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

// managedObject parses the body's object.
func (r *Request) managedObject(d *jx.Decoder, takes Accepts, flags *[manageFlags]int64) error {
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
		case name == FieldsCount:
			err = skip(d, 2)
		case name == takes.Uids:
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

// managedField returns the field for a key, or fieldsCount if the route does not have it.
func managedField(key string, takes Accepts) Field {
	for _, name := range []Field{fieldChannelID, fieldChannelType} {
		if key == name.String() && !takes.NoChannel {
			return name
		}
	}
	if takes.Uids != FieldsCount && key == takes.Uids.String() {
		return takes.Uids
	}
	for name := fieldTempSubscriber; name <= fieldAllowStranger; name++ {
		known := takes.Flags
		switch name {
		case fieldTempSubscriber:
			known = takes.GroupUnsaid
		case fieldReset:
			known = takes.Reset
		default:
		}
		if key == name.String() && known {
			return name
		}
	}
	return FieldsCount
}

// managedChannel checks the channel as for a send. A person is named by the uid alone.
func (r *Request) managedChannel(takes Accepts) permission.Channel {
	f := &r.fields
	channelType := r.channelType()
	if f.channelType == 0 && takes.GroupUnsaid && !r.isBad(fieldChannelType) {
		channelType = message.ChannelGroup
	}
	switch {
	case channelType == message.ChannelPerson && takes.NoPerson:
		r.bad(fieldChannelType, "must not be 1: a person has no subscribers, and is not deleted")
	case channelType.Valid():
	case f.given.has(fieldChannelType):
		r.bad(fieldChannelType, message.ChannelTypeRule)
	default:
		r.bad(fieldChannelType, isRequired)
	}
	ch := permission.Channel{Type: channelType, Name: strings.Clone(f.channelID)}
	if !takes.Removes || ch.Name == "" {
		r.badIf(fieldChannelID, ch.Rule())
	}
	return ch
}

// managedUIDs checks the uids; it drops empty ones and duplicates.
func (r *Request) managedUIDs(takes Accepts, ch permission.Channel) []string {
	uids := make([]string, 0, len(r.fields.subscribers))
	for _, uid := range r.fields.subscribers {
		if uid == "" {
			continue
		}
		if !takes.Removes {
			r.checkUID(takes.Uids, uid)
		}
		uids = append(uids, strings.Clone(uid))
	}
	switch {
	case len(uids) == 0 && !takes.UidsMayLack:
		r.bad(takes.Uids, isRequired)
	case len(uids) > 0 && takes.Uids == FieldSubscribers && ch.Type == message.ChannelPerson:
		r.bad(takes.Uids, "must not be given where the channel is a person's")
	}
	slices.Sort(uids)
	return slices.Compact(uids)
}

// ManagedQuery reads the channel named in a query string.
func (r *Request) ManagedQuery(query url.Values) (permission.Channel, outcome.Problem) {
	f := &r.fields
	f.channelID = query.Get("channel_id")
	if text := query.Get("channel_type"); text != "" {
		f.given.add(fieldChannelType)
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			n = -1
		}
		f.channelType = n
	}
	ch := r.managedChannel(Accepts{})
	return ch, r.problem()
}

// CheckStored rejects names that break the rules, unless the policy holds them.
func (r *Request) CheckStored(given Managed, takes Accepts, policy *permission.Policy) outcome.Problem {
	if policy == nil && !takes.NoChannel {
		r.badIf(fieldChannelID, given.Channel.Rule())
	}
	for _, uid := range given.Uids {
		if !policy.List(takes.RemovesFrom).Has(uid) {
			r.checkUID(takes.Uids, uid)
		}
	}
	return r.problem()
}
