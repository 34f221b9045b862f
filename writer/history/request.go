package history

import (
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-faster/jx"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

const (
	// bodyBytesMax limits the body of a request; two names of 513 bytes and some numbers need far less.
	bodyBytesMax = 64 << 10

	// The limits of a page, in messages, are those of WuKongIM v3.
	limitDefault = 100
	limitMax     = 10_000
)

// The pull modes.
const (
	pullOlder = 0
	pullNewer = 1
)

// syncRequest is a parsed request for messages.
type syncRequest struct {
	channel    clickhouse.Channel
	shown      string // the channel's ID as the reader knows it
	start, end uint64
	limit      int
	pullMode   int64
}

// syncFields holds the fields of the body; absent and null fields are zero.
type syncFields struct {
	loginUID, channelID          string
	channelType, limit, pullMode int64
	start, end                   uint64
	typeGiven                    bool
}

// readSyncRequest reads and validates the body of a request.
func readSyncRequest(w http.ResponseWriter, r *http.Request) (syncRequest, *api.Problem) {
	if rule := api.MediaTypeRule(r.Header); rule != "" {
		return syncRequest{}, mediaType(rule)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return syncRequest{}, tooLarge()
	case err != nil:
		return syncRequest{}, bodyUnread()
	case len(body) == 0:
		return syncRequest{}, invalidJSON("the body is empty; it must be a JSON object")
	case !utf8.Valid(body):
		return syncRequest{}, invalidJSON("the body is not valid UTF-8")
	}
	var f syncFields
	var bad issues
	if err := f.decode(body, &bad); err != nil {
		return syncRequest{}, invalidJSON("the body is not a valid JSON object: " + err.Error())
	}
	return f.request(&bad)
}

// decode reads the fields and records invalid ones. It returns an error if the body is not a JSON object.
func (f *syncFields) decode(body []byte, bad *issues) error {
	d := jx.DecodeBytes(body)
	if err := d.ObjBytes(func(d *jx.Decoder, key []byte) error {
		switch string(key) {
		case "login_uid":
			return text(d, bad, "login_uid", &f.loginUID)
		case "channel_id":
			return text(d, bad, "channel_id", &f.channelID)
		case "channel_type":
			f.typeGiven = d.Next() != jx.Null
			return integer(d, bad, "channel_type", &f.channelType)
		case "start_message_seq":
			return sequence(d, bad, "start_message_seq", &f.start)
		case "end_message_seq":
			return sequence(d, bad, "end_message_seq", &f.end)
		case "limit":
			return integer(d, bad, "limit", &f.limit)
		case "pull_mode":
			return integer(d, bad, "pull_mode", &f.pullMode)
		default:
			return d.Skip()
		}
	}); err != nil {
		return err
	}
	if err := d.Skip(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	return nil
}

func text(d *jx.Decoder, bad *issues, field string, dst *string) error {
	switch d.Next() {
	case jx.String:
		value, err := d.Str()
		*dst = value
		return err
	case jx.Null:
		return d.Null()
	default:
		bad.add(field, "must be a string")
		return d.Skip()
	}
}

func integer(d *jx.Decoder, bad *issues, field string, dst *int64) error {
	raw, given, err := number(d)
	if err != nil || !given {
		return err
	}
	value, wrong := strconv.ParseInt(raw, 10, 64)
	if wrong != nil {
		bad.add(field, "must be an integer")
	}
	*dst = value
	return nil
}

func sequence(d *jx.Decoder, bad *issues, field string, dst *uint64) error {
	raw, given, err := number(d)
	if err != nil || !given {
		return err
	}
	value, wrong := strconv.ParseUint(raw, 10, 64)
	if wrong != nil {
		bad.add(field, "must be an integer, 0 or more")
	}
	*dst = value
	return nil
}

// number returns the text of a value, which the caller parses; null is not a value.
func number(d *jx.Decoder) (raw string, given bool, err error) {
	if d.Next() == jx.Null {
		return "", false, d.Null()
	}
	value, err := d.Raw()
	return strings.TrimSpace(string(value)), true, err
}

// request validates the fields and turns them into a request.
func (f *syncFields) request(bad *issues) (syncRequest, *api.Problem) {
	q := syncRequest{start: f.start, end: f.end, pullMode: f.pullMode, limit: limitDefault}
	if f.limit > 0 {
		q.limit = int(min(f.limit, limitMax))
	}
	if f.pullMode != pullOlder && f.pullMode != pullNewer {
		bad.add("pull_mode", "must be 0 (older) or 1 (newer)")
	}
	name, command := strings.CutSuffix(f.channelID, message.CommandSuffix)
	q.channel, q.shown = canonical(bad, channelFields{
		uidField: "login_uid", uid: f.loginUID, id: name, typeGiven: f.typeGiven, channelType: f.channelType, command: command,
	})
	return q, bad.problem()
}

// channelFields identifies a channel from the viewpoint of a user.
type channelFields struct {
	uidField    string // the field that contained uid
	uid         string
	id          string
	typeGiven   bool
	channelType int64
	command     bool // select the channel's command channel
}

// canonical validates the fields and returns the channel. shown is its ID as uid knows it: for a person channel, the other side.
func canonical(bad *issues, f channelFields) (channel clickhouse.Channel, shown string) {
	before := len(bad.names)
	channelType := message.ChannelType(0)
	if f.channelType > 0 && f.channelType <= math.MaxUint8 {
		channelType = message.ChannelType(f.channelType)
	}
	bad.add(f.uidField, message.UIDRule(f.uid, channelType))
	bad.add("channel_id", message.ChannelIDRule(f.id, channelType))
	switch {
	case channelType.Valid():
	case f.typeGiven:
		bad.add("channel_type", message.ChannelTypeRule)
	default:
		bad.add("channel_type", "is required")
	}
	if len(bad.names) > before {
		return clickhouse.Channel{}, ""
	}
	id, err := message.CanonicalChannel(f.uid, f.id, channelType, f.command)
	if err != nil {
		bad.add("channel_id", "names a person channel that "+f.uidField+" is no side of")
		return clickhouse.Channel{}, ""
	}
	shown = f.id
	if left, right, composed := strings.Cut(shown, "@"); composed && channelType == message.ChannelPerson {
		if shown = left; left == f.uid {
			shown = right
		}
	}
	if f.command {
		shown += message.CommandSuffix
	}
	return clickhouse.Channel{ID: id, Type: channelType}, shown
}
