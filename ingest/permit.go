package ingest

import (
	"net/http"
	"strings"

	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// permit asks the permissions about a send that is whole otherwise. Nothing has been
// written yet.
func (s *Service) permit(req *request) problem {
	return problem{outcome: outcomeOf(s.permissions.Decide(asked(req)))}
}

// asked is what the permissions are asked about a send. Its strings alias the request. A
// command has the policy of its channel.
func asked(req *request) permission.Send {
	send := &req.send
	name := send.ChannelId
	if send.SyncOnce {
		name = strings.TrimSuffix(name, message.CommandSuffix)
	}
	channelType := message.ChannelType(send.ChannelType)
	if channelType == message.ChannelPerson {
		name = otherSide(send.FromUid, name)
	}
	return permission.Send{
		From: send.FromUid, Type: channelType, Name: name,
		ReceiversNamed: req.fields.channelID == "" && len(send.Subscribers) > 0,
	}
}

// otherSide is the uid at the other side of a canonical person channel, which the sender is
// one side of.
func otherSide(from, channel string) string {
	left, right, _ := strings.Cut(channel, "@")
	if left == from {
		return right
	}
	return left
}

func outcomeOf(v permission.Verdict) outcome {
	switch v {
	case permission.Allowed:
		return outcomeAccepted
	case permission.SenderBanned:
		return outcomeSenderBanned
	case permission.ChannelBanned:
		return outcomeChannelBanned
	case permission.Disbanded:
		return outcomeDisbanded
	case permission.Denylisted:
		return outcomeDenylisted
	case permission.NotSubscribed:
		return outcomeNotSubscribed
	case permission.NotAllowlisted:
		return outcomeNotAllowlisted
	case permission.Undefined:
		return outcomeUndefined
	default:
		return outcomePermissionsAway
	}
}

// permissionSpec is spec for what the permissions decide.
func (o outcome) permissionSpec() spec {
	refusal := func(v permission.Verdict, code, msg string) spec {
		return spec{status: http.StatusForbidden, code: code, reason: v.Reason(), msg: msg}
	}
	switch o {
	case outcomeSenderBanned:
		return refusal(permission.SenderBanned, "sender_banned", "the sender is banned from sending")
	case outcomeChannelBanned:
		return refusal(permission.ChannelBanned, "channel_banned", "the channel is banned")
	case outcomeDisbanded:
		return refusal(permission.Disbanded, "channel_disbanded", "the channel is disbanded")
	case outcomeDenylisted:
		return refusal(permission.Denylisted, "denylisted", "the sender is on the channel's denylist")
	case outcomeNotSubscribed:
		return refusal(permission.NotSubscribed, "not_subscribed", "the sender is no subscriber of the channel")
	case outcomeNotAllowlisted:
		return refusal(permission.NotAllowlisted, "not_allowlisted", "the sender is not on the channel's allowlist")
	case outcomeUndefined:
		return refusal(permission.Undefined, "no_such_channel", "nobody has defined the channel")
	case outcomePermissionsUnknown:
		return spec{status: http.StatusServiceUnavailable, code: "change_unknown", reason: reasonSystemError, retryAfter: 1,
			msg: "the change may be in force or not; making it again is safe"}
	default:
		return spec{status: http.StatusServiceUnavailable, code: "permissions_unavailable", reason: reasonSystemError, retryAfter: 1,
			msg: "the permissions cannot be read now; nothing was written"}
	}
}
