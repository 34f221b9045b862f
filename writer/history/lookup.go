package history

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-faster/jx"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// lookupsMax is the number of messages that a request may name.
const lookupsMax = 1000

// wanted names messages of a channel. Each list is without repetitions.
type wanted struct {
	seqs         []uint64
	ids          []int64
	clientMsgNos []string
}

// lookup finds messages of a channel: those of w.seqs first, then those of w.ids, then the latest with each of w.clientMsgNos, each list in its
// order and each message once. The page's more field reports that not all that were found fit on the page.
func (s *Service) lookup(ctx context.Context, channel clickhouse.Channel, w *wanted) (page, error) {
	var p page
	have := make(map[uint64]bool)
	for _, list := range []struct {
		find  func(each func(*clickhouse.Row) error) error
		place func(row *clickhouse.Row) int // in the list
	}{
		{
			func(each func(*clickhouse.Row) error) error { return s.table.BySeq(ctx, channel, w.seqs, each) },
			func(row *clickhouse.Row) int { return slices.Index(w.seqs, row.MessageSeq) },
		},
		{
			func(each func(*clickhouse.Row) error) error { return s.table.ByID(ctx, channel, w.ids, each) },
			func(row *clickhouse.Row) int { return slices.Index(w.ids, row.MessageID) },
		},
		{
			func(each func(*clickhouse.Row) error) error {
				return s.table.ByClientMsgNo(ctx, channel, w.clientMsgNos, each)
			},
			func(row *clickhouse.Row) int { return slices.Index(w.clientMsgNos, row.ClientMsgNo) },
		},
	} {
		before := len(p.rows)
		err := list.find(func(row *clickhouse.Row) error {
			if have[row.MessageSeq] {
				return nil
			}
			have[row.MessageSeq] = true
			return p.take(row, lookupsMax, int(s.cfg.HistoryPageBytesMax))
		})
		slices.SortFunc(p.rows[before:], func(a, b clickhouse.Row) int { return cmp.Compare(list.place(&a), list.place(&b)) })
		switch {
		case errors.Is(err, errFull):
			p.more = true
			return p, nil
		case err != nil:
			return page{}, err //nolint:wrapcheck // a clickhouse.Error says it all
		}
	}
	return p, nil
}

// messages serves POST /messages.
func (s *Service) messages(w http.ResponseWriter, r *http.Request) (answer, *api.Problem) {
	of, want, problem := readLookup(w, r)
	if problem != nil {
		return nil, problem
	}
	p, problem := reading(s, r, func(ctx context.Context) (page, error) { return s.lookup(ctx, of.channel, want) })
	if problem != nil {
		return nil, problem
	}
	return appendPage(make([]byte, 0, p.bytes+512), &syncRequest{named: of}, p), nil
}

// message serves POST /message.
func (s *Service) message(w http.ResponseWriter, r *http.Request) (answer, *api.Problem) {
	of, want, problem := readLookupOfOne(w, r)
	if problem != nil {
		return nil, problem
	}
	return s.one(r, &of, func(ctx context.Context) (page, error) { return s.lookup(ctx, of.channel, want) })
}

// byKey serves GET /message/byclientmsgno.
func (s *Service) byKey(_ http.ResponseWriter, r *http.Request) (answer, *api.Problem) {
	values := r.URL.Query()
	var bad issues
	utf8Only(&bad, values, "login_uid", "channel_id", "client_msg_no")
	of := channelOf(values, &bad)
	key := values.Get("client_msg_no")
	bad.add("client_msg_no", keyRule(key))
	if problem := bad.problem(); problem != nil {
		return nil, problem
	}
	return s.one(r, &of, func(ctx context.Context) (page, error) {
		return s.lookup(ctx, of.channel, &wanted{clientMsgNos: []string{key}})
	})
}

// last serves GET /channel/last_message.
func (s *Service) last(_ http.ResponseWriter, r *http.Request) (answer, *api.Problem) {
	of, problem := readChannel(r)
	if problem != nil {
		return nil, problem
	}
	return s.one(r, &of, func(ctx context.Context) (page, error) {
		return s.page(ctx, of.channel, span{first: 1, last: math.MaxUint64, newestFirst: true}, 1)
	})
}

// maxSeq serves GET /channel/max_message_seq.
func (s *Service) maxSeq(_ http.ResponseWriter, r *http.Request) (answer, *api.Problem) {
	of, problem := readChannel(r)
	if problem != nil {
		return nil, problem
	}
	last, problem := reading(s, r, func(ctx context.Context) (uint64, error) { return s.lastSeq(ctx, of.channel) })
	if problem != nil {
		return nil, problem
	}
	return append(strconv.AppendUint([]byte(`{"message_seq":`), last, 10), "}\n"...), nil
}

// lastSeq returns the highest message_seq of a channel, 0 if it has none.
func (s *Service) lastSeq(ctx context.Context, channel clickhouse.Channel) (uint64, error) {
	return s.table.LastSeq(ctx, channel) //nolint:wrapcheck // a clickhouse.Error says it all
}

// one replies with the message that find finds.
func (s *Service) one(r *http.Request, of *named, find func(ctx context.Context) (page, error)) (answer, *api.Problem) {
	p, problem := reading(s, r, find)
	switch {
	case problem != nil:
		return nil, problem
	case len(p.rows) == 0:
		return nil, messageNotFound()
	default:
		return append(appendRow(make([]byte, 0, p.bytes+512), of, &p.rows[0]), '\n'), nil
	}
}

// reading reads within a slot and the time of a request.
func reading[T any](s *Service, r *http.Request, read func(ctx context.Context) (T, error)) (result T, problem *api.Problem) {
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.HistoryTimeout)
	defer cancel()
	leave, problem := s.admit(ctx)
	if problem != nil {
		return result, problem
	}
	defer leave()
	result, err := read(ctx)
	if err != nil {
		problem = unavailable(ctx, r.Context(), err)
		if problem.Status != clientGone().Status {
			s.tableFailed(err)
		}
		return result, problem
	}
	s.tableWorks()
	return result, nil
}

// readChannel reads the channel that a query names.
func readChannel(r *http.Request) (named, *api.Problem) {
	values := r.URL.Query()
	var bad issues
	utf8Only(&bad, values, "login_uid", "channel_id")
	of := channelOf(values, &bad)
	return of, bad.problem()
}

func channelOf(values url.Values, bad *issues) named {
	f := channelBody{loginUID: values.Get("login_uid"), channelID: values.Get("channel_id"), channelType: typeOf(values), typeGiven: values.Get("channel_type") != ""}
	return f.named(bad, true)
}

// typeOf returns the channel_type of a query; 0, which is none, if it is no number.
func typeOf(values url.Values) int64 {
	channelType, err := strconv.ParseInt(values.Get("channel_type"), 10, 64)
	if err != nil {
		return 0
	}
	return channelType
}

// utf8Only refuses parameters that are not valid UTF-8.
func utf8Only(bad *issues, values url.Values, names ...string) {
	for _, name := range names {
		for _, value := range values[name] {
			if !utf8.ValidString(value) {
				bad.add(name, "is not valid UTF-8")
			}
		}
	}
}

// keyRule returns the rule that a client_msg_no to look for breaks.
func keyRule(key string) string {
	if key == "" {
		return "is required"
	}
	return message.LengthRule(key, message.ClientMsgNoBytesMax)
}

// lookupFields holds the fields of a body that names messages.
type lookupFields struct {
	channelBody
	wanted
	named int // elements of all lists
}

// readLookup reads the body of POST /messages.
func readLookup(w http.ResponseWriter, r *http.Request) (named, *wanted, *api.Problem) {
	var f lookupFields
	var bad issues
	if problem := readObject(w, r, bodyBytesMax, func(d *jx.Decoder, key []byte) error {
		if read, err := f.channelBody.field(d, &bad, key); read {
			return err
		}
		switch string(key) {
		case "message_seqs":
			return list(d, &bad, "message_seqs", &f.named, &f.seqs, messageSeq)
		case "message_ids":
			return list(d, &bad, "message_ids", &f.named, &f.ids, messageID)
		case "client_msg_nos":
			return list(d, &bad, "client_msg_nos", &f.named, &f.clientMsgNos, clientMsgNo)
		default:
			return d.Skip()
		}
	}); problem != nil {
		return named{}, nil, problem
	}
	of := f.channelBody.named(&bad, true)
	return of, &f.wanted, bad.problem()
}

// readLookupOfOne reads the body of POST /message. As in WuKongIM, the ID counts if there is a client_msg_no too.
func readLookupOfOne(w http.ResponseWriter, r *http.Request) (named, *wanted, *api.Problem) {
	var f channelBody
	var bad issues
	var id int64
	var key string
	if problem := readObject(w, r, bodyBytesMax, func(d *jx.Decoder, name []byte) error {
		if read, err := f.field(d, &bad, name); read {
			return err
		}
		switch string(name) {
		case "message_id":
			value, rule, err := messageID(d)
			id = value
			bad.add("message_id", rule)
			return err
		case "client_msg_no":
			return text(d, &bad, "client_msg_no", &key)
		default:
			return d.Skip()
		}
	}); problem != nil {
		return named{}, nil, problem
	}
	of := f.named(&bad, true)
	var want wanted
	switch {
	case id != 0:
		want.ids = []int64{id}
	case key != "":
		bad.add("client_msg_no", keyRule(key))
		want.clientMsgNos = []string{key}
	default:
		bad.add("message_id", "is required, or client_msg_no")
	}
	return of, &want, bad.problem()
}

// list reads a list of a body; null is an empty one. It keeps each element once, and none that is the zero value: no message has it.
func list[T comparable](d *jx.Decoder, bad *issues, field string, count *int, dst *[]T, element func(d *jx.Decoder) (value T, rule string, err error)) error {
	switch d.Next() {
	case jx.Null:
		return d.Null()
	case jx.Array:
	default:
		bad.add(field, "must be a list")
		return d.Skip()
	}
	var zero T
	seen := map[T]bool{zero: true}
	return d.Arr(func(d *jx.Decoder) error {
		if *count++; *count > lookupsMax {
			bad.add(field, "is too long: a request may name 1,000 messages")
			return d.Skip()
		}
		value, rule, err := element(d)
		if rule != "" {
			bad.add(field, rule)
		}
		if err == nil && !seen[value] {
			seen[value] = true
			*dst = append(*dst, value)
		}
		return err
	})
}

// messageSeq reads a message_seq.
func messageSeq(d *jx.Decoder) (seq uint64, rule string, err error) {
	raw, _, err := number(d)
	if err != nil {
		return 0, "", err
	}
	seq, wrong := strconv.ParseUint(raw, 10, 64)
	if wrong != nil {
		return 0, "must hold integers, 0 or more", nil
	}
	return seq, "", nil
}

// messageID reads a message_id: a number or, since JavaScript would round it, its digits as a string. 0 is none, as clients of typed languages send it.
func messageID(d *jx.Decoder) (id int64, rule string, err error) {
	raw, given, err := number(d)
	if err != nil || !given {
		return 0, "", err
	}
	if n := len(raw); n >= 2 && raw[0] == '"' {
		raw = raw[1 : n-1]
	}
	id, wrong := strconv.ParseInt(raw, 10, 64)
	if wrong != nil || id < 0 {
		return 0, "must be an integer, 0 or more, or its digits as a string", nil
	}
	return id, "", nil
}

// clientMsgNo reads a client_msg_no.
func clientMsgNo(d *jx.Decoder) (key, rule string, err error) {
	if d.Next() != jx.String {
		return "", "must hold strings", d.Skip()
	}
	key, err = d.Str()
	return key, message.LengthRule(key, message.ClientMsgNoBytesMax), err
}
