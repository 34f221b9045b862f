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
	// bodyBytesMax limits the body of a request; two names of 513 bytes and some numbers need far less. It also keeps the statement of a lookup below
	// the size that ClickHouse parses, 256 KiB, even if each byte is escaped.
	bodyBytesMax = 64 << 10

	// The limits of a page, in messages, are those of WuKongIM v3.
	limitDefault = 100
	limitMax     = 10_000
)

// named is a channel and its ID as the reader knows it.
type named struct {
	channel clickhouse.Channel
	shown   string
}

// The pull modes.
const (
	pullOlder = 0
	pullNewer = 1
)

// syncRequest is a parsed request for messages.
type syncRequest struct {
	named
	start, end uint64
	limit      int
	pullMode   int64
}

// channelBody holds the fields that name a channel in a body; absent and null fields are zero.
type channelBody struct {
	loginUID, channelID string
	channelType         int64
	typeGiven           bool
}

// field reads a field if it is one of these.
func (f *channelBody) field(d *jx.Decoder, bad *issues, key []byte) (read bool, err error) {
	switch string(key) {
	case "login_uid":
		return true, text(d, bad, "login_uid", &f.loginUID)
	case "channel_id":
		return true, text(d, bad, "channel_id", &f.channelID)
	case "channel_type":
		f.typeGiven = d.Next() != jx.Null
		return true, integer(d, bad, "channel_type", &f.channelType)
	default:
		return false, nil
	}
}

// named validates the channel. If anyone is set, login_uid may be absent unless it is a side of the channel's name.
func (f *channelBody) named(bad *issues, anyone bool) named {
	name, command := strings.CutSuffix(f.channelID, message.CommandSuffix)
	channel, shown := canonical(bad, channelFields{
		uidField: "login_uid", uid: f.loginUID, uidOptional: anyone, id: name, typeGiven: f.typeGiven, channelType: f.channelType, command: command,
	})
	return named{channel: channel, shown: shown}
}

// syncFields holds the fields of the body; absent and null fields are zero.
type syncFields struct {
	channelBody
	limit, pullMode int64
	start, end      uint64
}

// readSyncRequest reads and validates the body of a request.
func readSyncRequest(w http.ResponseWriter, r *http.Request) (syncRequest, *api.Problem) {
	var f syncFields
	var bad issues
	if problem := readObject(w, r, bodyBytesMax, func(d *jx.Decoder, key []byte) error { return f.field(d, &bad, key) }); problem != nil {
		return syncRequest{}, problem
	}
	q := f.request(&bad)
	return q, bad.problem()
}

// readObject reads the body of a request, a JSON object, and calls field for each of its fields.
func readObject(w http.ResponseWriter, r *http.Request, bytesMax int64, field func(d *jx.Decoder, key []byte) error) *api.Problem {
	if rule := api.MediaTypeRule(r.Header); rule != "" {
		return mediaType(rule)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bytesMax))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return tooLarge(bytesMax)
	case err != nil:
		return bodyUnread()
	case len(body) == 0:
		return invalidJSON("the body is empty; it must be a JSON object")
	case !utf8.Valid(body):
		return invalidJSON("the body is not valid UTF-8")
	}
	d := jx.DecodeBytes(body)
	if err = d.ObjBytes(field); err == nil && !errors.Is(d.Skip(), io.EOF) {
		err = errors.New("something follows it")
	}
	if err != nil {
		return invalidJSON("the body is not a valid JSON object: " + err.Error())
	}
	return nil
}

// field reads a field and records it if it is invalid. It returns an error if it is no JSON.
func (f *syncFields) field(d *jx.Decoder, bad *issues, key []byte) error {
	if read, err := f.channelBody.field(d, bad, key); read {
		return err
	}
	switch string(key) {
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
func (f *syncFields) request(bad *issues) syncRequest {
	q := syncRequest{start: f.start, end: f.end, pullMode: f.pullMode, limit: limitDefault}
	if f.limit > 0 {
		q.limit = int(min(f.limit, limitMax))
	}
	if f.pullMode != pullOlder && f.pullMode != pullNewer {
		bad.add("pull_mode", "must be 0 (older) or 1 (newer)")
	}
	q.named = f.named(bad, false)
	return q
}

// channelFields identifies a channel from the viewpoint of a user.
type channelFields struct {
	uidField    string // the field that contained uid
	uid         string
	uidOptional bool // it may be absent unless it is a side of a person channel that id does not name whole
	id          string
	typeGiven   bool
	channelType int64
	command     bool // select the channel's command channel
}

// canonical validates the fields and returns the channel. shown is its ID as uid knows it: for a person channel, the other side; without a uid, the
// name that was given.
func canonical(bad *issues, f channelFields) (channel clickhouse.Channel, shown string) {
	before := len(bad.names)
	channelType := message.ChannelType(0)
	if f.channelType > 0 && f.channelType <= math.MaxUint8 {
		channelType = message.ChannelType(f.channelType)
	}
	if whole := channelType != message.ChannelPerson || strings.Contains(f.id, "@"); f.uid != "" || !whole || !f.uidOptional {
		bad.add(f.uidField, message.UIDRule(f.uid, channelType))
	}
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
	side := f.uid
	if side == "" {
		side, _, _ = strings.Cut(f.id, "@") // the channel is the same, seen from either side
	}
	id, err := message.CanonicalChannel(side, f.id, channelType, f.command)
	if err != nil {
		bad.add("channel_id", "names a person channel that "+f.uidField+" is no side of")
		return clickhouse.Channel{}, ""
	}
	shown = f.id
	if left, right, composed := strings.Cut(shown, "@"); composed && channelType == message.ChannelPerson && f.uid != "" {
		if shown = left; left == f.uid {
			shown = right
		}
	}
	if f.command {
		shown += message.CommandSuffix
	}
	return clickhouse.Channel{ID: id, Type: channelType}, shown
}
