package permission

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/sendhouse/sendhouse/pkg/broker"
)

// recordVersion is the version of both records. A reader that does not know the version treats the channel as damaged and
// admits no sender.
const recordVersion = 1

// channelRecord is a channel's record in the bucket, in JSON so that `nats kv get` shows it. Records and pages end with a
// checksum (broker.WithChecksum), since a flipped bit can turn one into another valid list or flag. Records from earlier
// versions have none.
type channelRecord struct {
	Version       int         `json:"v"`
	Defined       bool        `json:"defined,omitempty"`
	Large         bool        `json:"large,omitempty"`
	Ban           bool        `json:"ban,omitempty"`
	Disband       bool        `json:"disband,omitempty"`
	SendBan       bool        `json:"send_ban,omitempty"`
	AllowStranger bool        `json:"allow_stranger,omitempty"`
	Subscribers   *listRecord `json:"subscribers,omitempty"`
	Denylist      *listRecord `json:"denylist,omitempty"`
	Allowlist     *listRecord `json:"allowlist,omitempty"`
}

// listRecord is a list: its uids, or pointers to its pages.
type listRecord struct {
	Count int          `json:"count"`
	UIDs  []string     `json:"uids,omitempty"`
	Pages []pageRecord `json:"pages,omitempty"`
}

// pageRecord points to a page: the uids whose hash has an upper half of From or more.
type pageRecord struct {
	From uint32 `json:"from"`
	ID   string `json:"id"`
}

// uidsRecord is the value of a page's key.
type uidsRecord struct {
	Version int      `json:"v"`
	UIDs    []string `json:"uids"`
}

func (r *channelRecord) flags() (f Flags) {
	for flag, set := range map[Flags]bool{
		FlagDefined: r.Defined, FlagLarge: r.Large, FlagBanned: r.Ban, FlagDisbanded: r.Disband,
		FlagSendBanned: r.SendBan, FlagStrangers: r.AllowStranger,
	} {
		if set {
			f |= flag
		}
	}
	return f
}

// record encodes the policy. Every page that it points to must have an id.
func (p *Policy) record() ([]byte, error) {
	return encode(channelRecord{
		Version: recordVersion,
		Defined: p.Has(FlagDefined), Large: p.Has(FlagLarge), Ban: p.Has(FlagBanned), Disband: p.Has(FlagDisbanded),
		SendBan: p.Has(FlagSendBanned), AllowStranger: p.Has(FlagStrangers),
		Subscribers: p.lists[Subscribers].record(), Denylist: p.lists[Denylist].record(), Allowlist: p.lists[Allowlist].record(),
	})
}

func (s *Set) record() *listRecord {
	if s == nil {
		return nil
	}
	r := &listRecord{Count: s.count}
	if s.inline() {
		r.UIDs = slices.Collect(s.All())
		return r
	}
	for _, l := range s.leaves {
		r.Pages = append(r.Pages, pageRecord{From: l.from, ID: pageID(l.id)})
	}
	return r
}

func (p *page) record() ([]byte, error) {
	return encode(uidsRecord{Version: recordVersion, UIDs: slices.Collect(p.all())})
}

func encode(record any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // uids may hold such characters
	if err := e.Encode(record); err != nil {
		return nil, fmt.Errorf("encode a channel's record: %w", err)
	}
	return broker.WithChecksum(bytes.TrimRight(b.Bytes(), "\n")), nil
}

// readPolicy is the inverse of record. find returns a page by its id. If anything cannot be read, the policy is marked as
// damaged, and the error is the reason.
func readPolicy(data []byte, revision uint64, find func(id uint64) *page) (*Policy, error) {
	var r channelRecord
	err := broker.UnmarshalChecked(data, &r)
	if err == nil && r.Version != recordVersion {
		err = fmt.Errorf("unknown version %d", r.Version)
	}
	p := &Policy{revision: revision}
	if err != nil {
		unread := &Set{leaves: []leaf{{}}}
		p.flags, p.lists = damaged, [lists]*Set{unread, unread, unread}
		return p, err
	}
	p.flags = r.flags()
	for l, list := range []*listRecord{Subscribers: r.Subscribers, Denylist: r.Denylist, Allowlist: r.Allowlist} {
		if list == nil || list.Count == 0 {
			continue
		}
		set, wrong := list.set(find)
		if wrong != nil {
			p.flags |= damaged
			err = fmt.Errorf("%s: %w", List(l), wrong)
		}
		p.lists[l] = set
	}
	return p, err
}

func (r *listRecord) set(find func(id uint64) *page) (*Set, error) {
	s := &Set{count: r.Count}
	if len(r.Pages) == 0 {
		if len(r.UIDs) != r.Count {
			return &Set{leaves: []leaf{{}}}, fmt.Errorf("%d uids instead of %d", len(r.UIDs), r.Count)
		}
		if !slices.ContainsFunc(r.UIDs, badUID) {
			s.leaves = []leaf{{page: newPage(r.UIDs)}}
			return s, nil
		}
		return &Set{leaves: []leaf{{}}}, errBadUID
	}
	var err error
	for i, page := range r.Pages {
		l := leaf{from: page.From}
		id, wrong := strconv.ParseUint(page.ID, 16, 64)
		if l.id = id; wrong == nil {
			l.page = find(id)
		}
		switch {
		case wrong != nil:
			err = fmt.Errorf("page id %q: %w", page.ID, wrong)
		case l.page == nil:
			err = fmt.Errorf("page %s is missing", page.ID)
		case i == 0 && l.from != 0 || i > 0 && l.from <= s.leaves[i-1].from:
			err = fmt.Errorf("page %s is out of order", page.ID)
			l.page = nil
		}
		s.leaves = append(s.leaves, l)
	}
	return s, err
}

var errBadUID = errors.New("a uid is not 1 to 256 bytes")

// uidBytesMax is the longest uid; a page stores the length in one byte.
const uidBytesMax = 256

func badUID(uid string) bool { return uid == "" || len(uid) > uidBytesMax }

func readPage(data []byte) (*page, error) {
	var r uidsRecord
	if err := broker.UnmarshalChecked(data, &r); err != nil {
		return nil, err
	}
	switch {
	case r.Version != recordVersion:
		return nil, fmt.Errorf("unknown version %d", r.Version)
	case slices.ContainsFunc(r.UIDs, badUID):
		return nil, errBadUID
	}
	return newPage(r.UIDs), nil
}
