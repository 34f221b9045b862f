package history

import (
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
	"github.com/sendhouse/sendhouse/writer/history/recent"
)

// lookupsMax is the number of messages that a request may name.
const lookupsMax = 1000

// lookup finds messages of a channel: those of w.Seqs first, then those of w.IDs, then the latest with each of w.ClientMsgNos, each list in its
// order and each message once. The page's more field reports that not all that were found fit on the page.
//
// What is not found counts as absent only if the logs are certain.
func (s *Service) lookup(ctx, client context.Context, channel clickhouse.Channel, w *recent.Wanted) (page, *api.Problem) {
	l := s.latest(ctx, s.partitions.Of(channel.ID, channel.Type), func(ctx context.Context) (recent.Part, error) { return s.recent.Lookup(ctx, channel, w) },
		func(send *message.Send, _ int64) bool { return isOf(send, channel) })
	f := findings{page: page{bytesMax: int(s.cfg.HistoryPageBytesMax)}, bySeq: make(map[uint64]int), byID: make(map[int64]int), byNo: make(map[string]int)}
	for i := range l.Messages {
		if row, err := clickhouse.RowOf(l.Messages[i].Data); err == nil && f.add(&row) != nil { // the tail has none that is not a row
			return f.inOrder(w), nil
		}
	}
	if missing := f.missing(w); missing != nil {
		switch err := s.stores(ctx, channel, missing, f.add); {
		case errors.Is(err, errFull):
			return f.inOrder(w), nil
		case err != nil:
			return page{}, s.tableProblem(ctx, client, err)
		}
		s.tableWorks()
	}
	if problem := l.problem(client); problem != nil && f.missing(w) != nil {
		return page{}, problem
	}
	return f.inOrder(w), nil
}

// stores finds wanted messages in ClickHouse.
func (s *Service) stores(ctx context.Context, channel clickhouse.Channel, w *recent.Wanted, each func(*clickhouse.Row) error) error {
	if err := s.table.BySeq(ctx, channel, w.Seqs, each); err != nil {
		return err //nolint:wrapcheck // a clickhouse.Error says it all
	}
	if err := s.table.ByID(ctx, channel, w.IDs, each); err != nil {
		return err //nolint:wrapcheck // as above
	}
	return s.table.ByClientMsgNo(ctx, channel, w.ClientMsgNos, each) //nolint:wrapcheck // as above
}

// findings are messages of a channel in the order in which they were found, each once, and their places.
type findings struct {
	page
	bySeq map[uint64]int
	byID  map[int64]int
	byNo  map[string]int // of the latest
}

// add adds a message unless it is there. If the page is full, it notes that and returns an error.
func (f *findings) add(row *clickhouse.Row) error {
	if _, there := f.bySeq[row.MessageSeq]; there {
		return nil
	}
	if err := f.take(row, lookupsMax); err != nil {
		f.more = true
		return err
	}
	place := len(f.rows) - 1
	f.bySeq[row.MessageSeq], f.byID[row.MessageID] = place, place
	if before, there := f.byNo[row.ClientMsgNo]; !there || f.rows[before].MessageSeq < row.MessageSeq {
		f.byNo[row.ClientMsgNo] = place
	}
	return nil
}

// missing returns what of w was not found, nil if nothing.
func (f *findings) missing(w *recent.Wanted) *recent.Wanted {
	m := recent.Wanted{Seqs: lacking(w.Seqs, f.bySeq), IDs: lacking(w.IDs, f.byID), ClientMsgNos: lacking(w.ClientMsgNos, f.byNo)}
	if len(m.Seqs)+len(m.IDs)+len(m.ClientMsgNos) == 0 {
		return nil
	}
	return &m
}

func lacking[T comparable](wanted []T, places map[T]int) (lack []T) {
	for _, one := range wanted {
		if _, there := places[one]; !there {
			lack = append(lack, one)
		}
	}
	return lack
}

// inOrder returns the page in the order of w.
func (f *findings) inOrder(w *recent.Wanted) page {
	p := page{rows: make([]clickhouse.Row, 0, len(f.rows)), more: f.more, bytes: f.bytes}
	put := make([]bool, len(f.rows))
	add := func(place int, found bool) {
		if found && !put[place] {
			put[place] = true
			p.rows = append(p.rows, f.rows[place])
		}
	}
	for _, seq := range w.Seqs {
		place, found := f.bySeq[seq]
		add(place, found)
	}
	for _, id := range w.IDs {
		place, found := f.byID[id]
		add(place, found)
	}
	for _, no := range w.ClientMsgNos {
		place, found := f.byNo[no]
		add(place, found)
	}
	return p
}

// messages serves POST /messages.
func (s *Service) messages(w http.ResponseWriter, r *http.Request) ([]byte, *api.Problem) {
	of, want, problem := readLookup(w, r)
	if problem != nil {
		return nil, problem
	}
	p, problem := reading(s, r, func(ctx, client context.Context) (page, *api.Problem) { return s.lookup(ctx, client, of.channel, want) })
	if problem != nil {
		return nil, problem
	}
	return appendPage(make([]byte, 0, p.bytes+512), &syncRequest{named: of}, p), nil
}

// message serves POST /message.
func (s *Service) message(w http.ResponseWriter, r *http.Request) ([]byte, *api.Problem) {
	of, want, problem := readLookupOfOne(w, r)
	if problem != nil {
		return nil, problem
	}
	return s.one(r, &of, func(ctx, client context.Context) (page, *api.Problem) { return s.lookup(ctx, client, of.channel, want) })
}

// byKey serves GET /message/byclientmsgno.
func (s *Service) byKey(_ http.ResponseWriter, r *http.Request) ([]byte, *api.Problem) {
	values := r.URL.Query()
	var bad issues
	utf8Only(&bad, values, "login_uid", "channel_id", "client_msg_no")
	of := channelOf(values, &bad)
	key := values.Get("client_msg_no")
	bad.add("client_msg_no", keyRule(key))
	if problem := bad.problem(); problem != nil {
		return nil, problem
	}
	return s.one(r, &of, func(ctx, client context.Context) (page, *api.Problem) {
		return s.lookup(ctx, client, of.channel, &recent.Wanted{ClientMsgNos: []string{key}})
	})
}

// last serves GET /channel/last_message.
func (s *Service) last(_ http.ResponseWriter, r *http.Request) ([]byte, *api.Problem) {
	of, problem := readChannel(r)
	if problem != nil {
		return nil, problem
	}
	return s.one(r, &of, func(ctx, client context.Context) (page, *api.Problem) {
		return s.rows(ctx, client, of.channel, span{first: 1, last: math.MaxUint64, newestFirst: true}, 1)
	})
}

// maxSeq serves GET /channel/max_message_seq.
func (s *Service) maxSeq(_ http.ResponseWriter, r *http.Request) ([]byte, *api.Problem) {
	of, problem := readChannel(r)
	if problem != nil {
		return nil, problem
	}
	last, problem := reading(s, r, func(ctx, client context.Context) (uint64, *api.Problem) { return s.lastSeq(ctx, client, of.channel) })
	if problem != nil {
		return nil, problem
	}
	return append(strconv.AppendUint([]byte(`{"message_seq":`), last, 10), "}\n"...), nil
}

// lastSeq returns the highest message_seq of a channel, 0 if it has none.
func (s *Service) lastSeq(ctx, client context.Context, channel clickhouse.Channel) (uint64, *api.Problem) {
	if last, problem := s.newestSeq(ctx, client, channel); last > 0 || problem != nil {
		return last, problem
	}
	last, err := s.table.LastSeq(ctx, channel)
	if err != nil {
		return 0, s.tableProblem(ctx, client, err)
	}
	s.tableWorks()
	return last, nil
}

// one replies with the message that find finds.
func (s *Service) one(r *http.Request, of *named, find func(ctx, client context.Context) (page, *api.Problem)) ([]byte, *api.Problem) {
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

// reading reads within a slot and the time of a request, whose own context is client.
func reading[T any](s *Service, r *http.Request, read func(ctx, client context.Context) (T, *api.Problem)) (result T, problem *api.Problem) {
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.HistoryTimeout)
	defer cancel()
	leave, problem := s.admit(ctx)
	if problem != nil {
		return result, problem
	}
	defer leave()
	return read(ctx, r.Context())
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

// receivers returns the uids that the parameter subscribers names, sorted, each once.
func receivers(bad *issues, values url.Values) []string {
	for _, uid := range values["subscribers"] {
		if uid != "" {
			bad.add("subscribers", message.UIDRule(uid, 0))
		}
	}
	return message.Receivers(slices.Clone(values["subscribers"]))
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
	wanted recent.Wanted
	count  int // elements of all lists
}

// readLookup reads the body of POST /messages.
func readLookup(w http.ResponseWriter, r *http.Request) (named, *recent.Wanted, *api.Problem) {
	var f lookupFields
	var bad issues
	if problem := readObject(w, r, bodyBytesMax, func(d *jx.Decoder, key []byte) error {
		if read, err := f.channelBody.field(d, &bad, key); read {
			return err
		}
		switch string(key) {
		case "message_seqs":
			return list(d, &bad, "message_seqs", &f.count, &f.wanted.Seqs, messageSeq)
		case "message_ids":
			return list(d, &bad, "message_ids", &f.count, &f.wanted.IDs, messageID)
		case "client_msg_nos":
			return list(d, &bad, "client_msg_nos", &f.count, &f.wanted.ClientMsgNos, clientMsgNo)
		default:
			return d.Skip()
		}
	}); problem != nil {
		return named{}, nil, problem
	}
	of := f.named(&bad, true)
	return of, &f.wanted, bad.problem()
}

// readLookupOfOne reads the body of POST /message. As in WuKongIM, the ID counts if there is a client_msg_no too.
func readLookupOfOne(w http.ResponseWriter, r *http.Request) (named, *recent.Wanted, *api.Problem) {
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
	var want recent.Wanted
	switch {
	case id != 0:
		want.IDs = []int64{id}
	case key != "":
		bad.add("client_msg_no", keyRule(key))
		want.ClientMsgNos = []string{key}
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
		return 0, "must hold integers, 0 or more", nil //nolint:nilerr // the rule says it
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
		return 0, "must be an integer, 0 or more, or its digits as a string", nil //nolint:nilerr // the rule says it
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
