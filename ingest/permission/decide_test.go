package permission

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// known is a view of one row of the table.
type known struct {
	policies map[Channel]*Policy
	system   map[string]bool
}

func (k known) Policy(ch Channel) *Policy { return k.policies[ch] }
func (k known) System(uid string) bool    { return k.system[uid] }

func policy(t testing.TB, flags Flags, lists map[List][]string) *Policy {
	t.Helper()
	e := Edit{Raise: flags}
	for l, uids := range lists {
		e.Lists[l].Add = uids
	}
	p, err := (*Policy)(nil).edit(e)
	require.NoError(t, err)
	if p == nil {
		p = &Policy{}
	}
	return p
}

// TestDecideOrder follows the contract's order. In each row every later check would also fail, and must not count.
func TestDecideOrder(t *testing.T) {
	t.Parallel()
	const all = FlagDefined | FlagBanned | FlagDisbanded
	group := Channel{Type: message.ChannelGroup, Name: "g"}
	sender := Channel{Type: message.ChannelPerson, Name: "u"}
	deny, others := map[List][]string{Denylist: {"u"}, Allowlist: {"x"}}, map[List][]string{Allowlist: {"x"}}
	member := map[List][]string{Subscribers: {"u"}, Allowlist: {"x"}}

	for _, row := range []struct {
		name   string
		sender Flags
		flags  Flags
		lists  map[List][]string
		system bool
		want   Verdict
		reason int
	}{
		{name: "a system account into a disbanded channel", sender: FlagSendBanned, flags: all, lists: deny, system: true, want: Disbanded, reason: 24},
		{name: "a system account", sender: FlagSendBanned, flags: FlagDefined | FlagBanned | FlagSendBanned, lists: deny, system: true, want: Allowed},
		{name: "sender banned from sending", sender: FlagSendBanned, flags: all, lists: deny, want: SenderBanned, reason: 25},
		{name: "sender banned", sender: FlagBanned, flags: all, lists: deny, want: SenderBanned, reason: 25},
		{name: "all senders of the channel banned", flags: all | FlagSendBanned, lists: deny, want: SenderBanned, reason: 25},
		{name: "channel banned", flags: all, lists: deny, want: ChannelBanned, reason: 19},
		{name: "disbanded", flags: FlagDefined | FlagDisbanded, lists: deny, want: Disbanded, reason: 24},
		{name: "denylisted", flags: FlagDefined, lists: deny, want: Denylisted, reason: 4},
		{name: "no subscriber", flags: FlagDefined, lists: others, want: NotSubscribed, reason: 3},
		{name: "not allowlisted", flags: FlagDefined, lists: member, want: NotAllowlisted, reason: 13},
		{name: "allowlisted", flags: FlagDefined, lists: map[List][]string{Subscribers: {"u"}, Allowlist: {"u"}}, want: Allowed},
		{name: "no allowlist", flags: FlagDefined | FlagLarge, lists: map[List][]string{Subscribers: {"u"}}, want: Allowed},
		{name: "not defined, denylisted", lists: deny, want: Denylisted, reason: 4},
		{name: "not defined, not allowlisted", lists: others, want: NotAllowlisted, reason: 13},
		{name: "not defined", want: Allowed},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			v := known{policies: map[Channel]*Policy{
				group: policy(t, row.flags, row.lists), sender: policy(t, row.sender, nil),
			}, system: map[string]bool{"u": row.system}}
			got := Decide(v, Rules{}, Send{From: "u", Type: group.Type, Name: group.Name})
			require.Equal(t, row.want, got, "%s", got)
			require.Equal(t, row.reason, got.Reason())
		})
	}
}

func TestDecidePerson(t *testing.T) {
	t.Parallel()
	strict := Rules{PersonAllowlists: true, RefuseUndefined: true}
	for _, row := range []struct {
		name     string
		rules    Rules
		from     string
		receiver *Policy
		system   string
		want     Verdict
	}{
		{name: "a stranger", want: Allowed},
		{name: "persons need not be defined", rules: Rules{RefuseUndefined: true}, want: Allowed},
		{name: "denylisted", receiver: policy(t, 0, map[List][]string{Denylist: {"u"}}), want: Denylisted},
		{name: "denylisted, to a system account", receiver: policy(t, 0, map[List][]string{Denylist: {"u"}}), system: "v", want: Allowed},
		{name: "denylisted, allowlisted", rules: strict, receiver: policy(t, 0, map[List][]string{Denylist: {"u"}, Allowlist: {"u"}}), want: Denylisted},
		{name: "allowlists are off", receiver: policy(t, 0, map[List][]string{Allowlist: {"x"}}), want: Allowed},
		{name: "not allowlisted", rules: strict, receiver: policy(t, 0, map[List][]string{Allowlist: {"x"}}), want: NotAllowlisted},
		{name: "nothing known of the receiver", rules: strict, want: NotAllowlisted},
		{name: "allowlisted", rules: strict, receiver: policy(t, 0, map[List][]string{Allowlist: {"u"}}), want: Allowed},
		{name: "strangers allowed", rules: strict, receiver: policy(t, FlagStrangers, nil), want: Allowed},
		{name: "to a system account", rules: strict, system: "v", want: Allowed},
		{name: "from a system account", rules: strict, system: "u", want: Allowed},
		{name: "from the built-in system account", rules: strict, from: SystemUID, want: Allowed},
		{name: "a banned receiver", receiver: policy(t, FlagBanned, nil), want: ChannelBanned},
		{name: "a send-banned receiver receives", receiver: policy(t, FlagSendBanned, nil), want: Allowed},
		{name: "a disbanded receiver", receiver: policy(t, FlagDisbanded, nil), system: "u", want: Disbanded},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			from := row.from
			if from == "" {
				from = "u"
			}
			v := known{policies: map[Channel]*Policy{{Type: message.ChannelPerson, Name: "v"}: row.receiver}, system: map[string]bool{row.system: true}}
			got := Decide(v, row.rules, Send{From: from, Type: message.ChannelPerson, Name: "v"})
			require.Equal(t, row.want, got, "%s", got)
		})
	}
}

func TestDecideTypes(t *testing.T) {
	t.Parallel()
	members := []message.ChannelType{2, 4, 5, 7, 8, 9, 12, 13, 249, 251, 255}
	open := []message.ChannelType{3, 6, 11}
	decide := func(rules Rules, p *Policy, s Send) Verdict {
		return Decide(known{policies: map[Channel]*Policy{{Type: s.Type, Name: s.Name}: p}}, rules, s)
	}
	for _, kind := range members {
		send := Send{From: "u", Type: kind, Name: "c"}
		require.Equal(t, Undefined, decide(Rules{RefuseUndefined: true}, nil, send), "type %d", kind)
		require.Equal(t, NotSubscribed, decide(Rules{}, policy(t, FlagDefined, nil), send), "type %d", kind)
		send.ReceiversNamed = true
		require.Equal(t, Allowed, decide(Rules{RefuseUndefined: true}, policy(t, FlagDisbanded, nil), send), "type %d", kind)
	}
	for _, kind := range open {
		send := Send{From: "u", Type: kind, Name: "c"}
		require.Equal(t, Allowed, decide(Rules{RefuseUndefined: true}, nil, send), "type %d", kind)
		require.Equal(t, Allowed, decide(Rules{}, policy(t, FlagDefined, map[List][]string{Allowlist: {"x"}}), send), "type %d", kind)
		require.Equal(t, Denylisted, decide(Rules{}, policy(t, FlagDefined, map[List][]string{Denylist: {"u"}}), send), "type %d", kind)
		require.Equal(t, ChannelBanned, decide(Rules{}, policy(t, FlagBanned, nil), send), "type %d", kind)
		require.Equal(t, Disbanded, decide(Rules{}, policy(t, FlagDisbanded, nil), send), "type %d", kind)
	}
}

func TestDecideVisitors(t *testing.T) {
	t.Parallel()
	own, service := Channel{Type: message.ChannelVisitors, Name: "v"}, Channel{Type: message.ChannelCustomerService, Name: "v"}
	with := func(uid string) *Policy { return policy(t, FlagDefined, map[List][]string{Subscribers: {uid}}) }
	decide := func(from string, rules Rules, policies map[Channel]*Policy) Verdict {
		return Decide(known{policies: policies}, rules, Send{From: from, Type: own.Type, Name: own.Name})
	}
	require.Equal(t, Allowed, decide("v", Rules{RefuseUndefined: true}, nil), "the visitor")
	require.Equal(t, Disbanded, decide("v", Rules{}, map[Channel]*Policy{own: policy(t, FlagDisbanded, nil)}), "the visitor")
	require.Equal(t, Undefined, decide("agent", Rules{RefuseUndefined: true}, nil))
	require.Equal(t, Allowed, decide("agent", Rules{}, map[Channel]*Policy{own: with("agent")}), "as in v2")
	require.Equal(t, NotSubscribed, decide("other", Rules{}, map[Channel]*Policy{own: with("agent")}))
	require.Equal(t, Allowed, decide("agent", Rules{}, map[Channel]*Policy{service: with("agent")}), "as in v3")
	require.Equal(t, NotSubscribed, decide("agent", Rules{}, map[Channel]*Policy{service: with("x"), own: with("agent")}))
}

// A damaged policy lets no one send.
func TestDecideDamaged(t *testing.T) {
	t.Parallel()
	broken, err := readPolicy([]byte(`{"v":2}`), 1, nil)
	require.Error(t, err)
	group, sender := Channel{Type: message.ChannelGroup, Name: "g"}, Channel{Type: message.ChannelPerson, Name: "u"}
	for _, ch := range []Channel{group, sender} {
		v := known{policies: map[Channel]*Policy{ch: broken}}
		require.Equal(t, Unavailable, Decide(v, Rules{}, Send{From: "u", Type: group.Type, Name: group.Name}))
	}
	visitors := known{policies: map[Channel]*Policy{{Type: message.ChannelCustomerService, Name: "v"}: broken}}
	require.Equal(t, Unavailable, Decide(visitors, Rules{}, Send{From: "u", Type: message.ChannelVisitors, Name: "v"}))
}

// TestDecideChannelOnly: only the ban and the disband of the channel count, or of the person who receives.
func TestDecideChannelOnly(t *testing.T) {
	t.Parallel()
	const others = FlagDefined | FlagLarge | FlagSendBanned
	lists := map[List][]string{Denylist: {"u"}, Allowlist: {"x"}, Subscribers: {"x"}}
	broken, err := readPolicy([]byte(`{"v":2}`), 1, nil)
	require.Error(t, err)
	for _, kind := range []message.ChannelType{message.ChannelPerson, message.ChannelGroup, message.ChannelCustomerService, message.ChannelInfo, message.ChannelVisitors} {
		for _, row := range []struct {
			name   string
			flags  Flags
			sender Flags
			system bool
			want   Verdict
		}{
			{name: "the lists", want: Allowed},
			{name: "other flags", flags: others, want: Allowed},
			{name: "a sender who is banned", sender: FlagBanned | FlagSendBanned, want: Allowed},
			{name: "banned", flags: others | FlagBanned, want: ChannelBanned},
			{name: "disbanded", flags: others | FlagDisbanded, want: Disbanded},
			{name: "a system account, banned", flags: others | FlagBanned, system: true, want: Allowed},
			{name: "a system account, disbanded", flags: others | FlagBanned | FlagDisbanded, system: true, want: Disbanded},
		} {
			v := known{policies: map[Channel]*Policy{
				{Type: kind, Name: "c"}:                  policy(t, row.flags, lists),
				{Type: message.ChannelPerson, Name: "u"}: policy(t, row.sender, lists),
			}, system: map[string]bool{"u": row.system}}
			got := Decide(v, Rules{ChannelOnly: true}, Send{From: "u", Type: kind, Name: "c"})
			require.Equal(t, row.want, got, "type %d: %s: %s", kind, row.name, got)
		}
		damagedChannel := known{policies: map[Channel]*Policy{{Type: kind, Name: "c"}: broken}}
		require.Equal(t, Unavailable, Decide(damagedChannel, Rules{ChannelOnly: true}, Send{From: "u", Type: kind, Name: "c"}), "whether it is banned is not known")
		damagedSender := known{policies: map[Channel]*Policy{{Type: message.ChannelPerson, Name: "u"}: broken}}
		require.Equal(t, Allowed, Decide(damagedSender, Rules{ChannelOnly: true}, Send{From: "u", Type: kind, Name: "c"}), "the sender does not count")
	}
	unknown := Send{From: "u", Type: message.ChannelGroup, Name: "undefined"}
	require.Equal(t, Allowed, Decide(known{}, Rules{ChannelOnly: true}, unknown))
}
