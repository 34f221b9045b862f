package ingest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"github.com/go-chi/chi/v5"

	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/pkg/api"
)

// manageRoutes lays out WuKongIM's routes for channels and system accounts: what each takes,
// and what it changes.
func (s *Service) manageRoutes(r chi.Router) {
	const flags = permission.FlagLarge | permission.FlagBanned | permission.FlagDisbanded | permission.FlagSendBanned | permission.FlagStrangers
	change := func(path string, takes accepts, edit func(m managed) permission.Edit) {
		r.Post(path, s.counted("manage", api.ScopeManage, s.manage(takes, edit)))
	}
	change("/channel", accepts{uids: fieldSubscribers, uidsMayLack: true, flags: true, reset: true}, func(m managed) permission.Edit {
		e := permission.Edit{Lower: flags, Raise: m.flags}
		e.Lists[permission.Subscribers] = permission.ListEdit{Clear: m.reset, Add: m.uids}
		return e
	})
	change("/channel/info", accepts{uids: fieldsCount, flags: true}, func(m managed) permission.Edit {
		return permission.Edit{Lower: flags, Raise: m.flags}
	})
	change("/channel/delete", accepts{uids: fieldsCount, noPerson: true, removes: true}, func(managed) permission.Edit {
		return permission.Edit{IfDefined: true, Raise: permission.FlagDisbanded}
	})
	change("/channel/subscriber_add", accepts{uids: fieldSubscribers, reset: true, groupUnsaid: true, noPerson: true}, func(m managed) permission.Edit {
		e := permission.Edit{Raise: permission.FlagDefined}
		e.Lists[permission.Subscribers] = permission.ListEdit{Clear: m.reset, Add: m.uids}
		return e
	})
	change("/channel/subscriber_remove", accepts{uids: fieldSubscribers, groupUnsaid: true, noPerson: true, removes: true}, remove(permission.Subscribers))
	change("/channel/subscriber_remove_all", accepts{uids: fieldsCount, noPerson: true, removes: true}, removeAll(permission.Subscribers))
	for name, list := range map[string]permission.List{"blacklist": permission.Denylist, "whitelist": permission.Allowlist} {
		change("/channel/"+name+"_add", accepts{uids: fieldUIDs}, add(list))
		change("/channel/"+name+"_set", accepts{uids: fieldUIDs, uidsMayLack: true}, set(list))
		change("/channel/"+name+"_remove", accepts{uids: fieldUIDs, removes: true, removesFrom: list}, remove(list))
		change("/channel/"+name+"_remove_all", accepts{uids: fieldsCount, removes: true}, removeAll(list))
	}
	change("/user/systemuids_add", accepts{noChannel: true, uids: fieldUIDs, uidsMayLack: true}, add(permission.Subscribers))
	change("/user/systemuids_remove", accepts{noChannel: true, uids: fieldUIDs, uidsMayLack: true, removes: true}, remove(permission.Subscribers))
	r.Get("/channel/whitelist", s.counted("manage", api.ScopeRead, s.allowlist))
	r.Get("/user/systemuids", s.counted("manage", api.ScopeRead, s.systemUIDs))
}

func add(l permission.List) func(managed) permission.Edit {
	return editOf(l, func(m managed) permission.ListEdit { return permission.ListEdit{Add: m.uids} })
}

func set(l permission.List) func(managed) permission.Edit {
	return editOf(l, func(m managed) permission.ListEdit { return permission.ListEdit{Clear: true, Add: m.uids} })
}

func remove(l permission.List) func(managed) permission.Edit {
	return editOf(l, func(m managed) permission.ListEdit { return permission.ListEdit{Remove: m.uids} })
}

func removeAll(l permission.List) func(managed) permission.Edit {
	return editOf(l, func(managed) permission.ListEdit { return permission.ListEdit{Clear: true} })
}

func editOf(l permission.List, edit func(managed) permission.ListEdit) func(managed) permission.Edit {
	return func(m managed) (e permission.Edit) {
		e.Lists[l] = edit(m)
		return e
	}
}

// manage is a route that changes permissions. It answers 200 when the change is stored and
// in force in this process.
func (s *Service) manage(takes accepts, edit func(managed) permission.Edit) endpoint {
	return func(w http.ResponseWriter, r *http.Request, _ time.Time, _ uint64) problem {
		req := s.requests.get()
		defer s.requests.put(req) // until then it counts in the budget, for the copies of its uids
		p := s.receive(w, r, req)
		var m managed
		if p.ok() {
			m, p = req.decodeManaged(takes)
		}
		if p.ok() && takes.removes {
			p = s.checkStored(req, m, takes)
		}
		if p.ok() {
			ch := m.channel
			if takes.noChannel {
				ch = permission.SystemAccounts()
			}
			s.extend(w) // a large list may take longer than a client's time to send
			p = s.problemOfChange(s.permissions.Change(r.Context(), ch, edit(m)), takes)
		}
		if !p.ok() {
			p.write(w)
			return p
		}
		w.Header()["Content-Type"] = s.contentType
		_, _ = w.Write([]byte(`{"status":200}`)) // a caller that has gone asks again
		return p
	}
}

func (s *Service) problemOfChange(err error, takes accepts) problem {
	switch {
	case err == nil:
		return problem{}
	case errors.Is(err, permission.ErrTooMany) && takes.uids != fieldsCount:
		return problem{outcome: outcomeInvalidRequest, field: takes.uids.String(), msg: takes.uids.String() + " cannot be taken: " + err.Error()}
	case errors.Is(err, permission.ErrUnknown):
		s.log.Warn("a change of permissions did not come to its end", "error", err)
		return problem{outcome: outcomePermissionsUnknown}
	case errors.Is(err, permission.ErrDamaged):
		s.log.Error("permissions could not be changed", "error", err)
		return problem{outcome: outcomePermissionsAway, msg: "what is stored of the channel's permissions is damaged; nothing was changed. " +
			"Replacing the whole list (reset, or the _set route) mends it"}
	default:
		s.log.Warn("permissions could not be changed", "error", err)
		return problem{outcome: outcomePermissionsAway, msg: "the permissions cannot be changed now; nothing was changed"}
	}
}

// appendMember appends an entry of a list as WuKongIM shows it. Its id has no meaning here.
func appendMember(dst []byte, uid string) []byte {
	return append(api.AppendString(append(dst, `{"id":0,"uid":`...), uid), '}')
}

// allowlist is GET /channel/whitelist.
func (s *Service) allowlist(w http.ResponseWriter, r *http.Request, _ time.Time, _ uint64) problem {
	req := s.requests.get()
	defer s.requests.put(req)
	query := r.URL.Query()
	f := &req.fields
	f.channelID = query.Get("channel_id")
	if text := query.Get("channel_type"); text != "" {
		f.given.add(fieldChannelType)
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			n = -1
		}
		f.channelType = n
	}
	ch := req.managedChannel(accepts{})
	if p := req.problem(); !p.ok() {
		p.write(w)
		return p
	}
	return s.list(w, ch, permission.Allowlist, appendMember)
}

// systemUIDs is GET /user/systemuids.
func (s *Service) systemUIDs(w http.ResponseWriter, _ *http.Request, _ time.Time, _ uint64) problem {
	return s.list(w, permission.SystemAccounts(), permission.Subscribers, api.AppendString)
}

// list answers with a list, sorted. What it takes beside what the store holds anyway counts in the budget until the answer
// is written; the answer itself may be many times that, and goes out in pieces.
func (s *Service) list(w http.ResponseWriter, ch permission.Channel, l permission.List, element func(dst []byte, uid string) []byte) problem {
	policy, err := s.permissions.Policy(ch)
	if err != nil {
		p := problem{outcome: outcomePermissionsAway}
		p.write(w)
		return p
	}
	count := policy.List(l).Len()
	cost := int64(count)*int64(unsafe.Sizeof("")) + 2*answerWriteBytes
	if !s.requests.budget.take(cost) {
		p := problem{outcome: outcomeOverloaded, msg: fmt.Sprintf("the list has %d uids: no memory to show it at this time", count)}
		p.write(w)
		return p
	}
	defer s.requests.budget.giveBack(cost)
	uids := slices.AppendSeq(make([]string, 0, count), policy.List(l).All())
	slices.Sort(uids)
	w.Header()["Content-Type"] = s.contentType
	w.Header().Set("Cache-Control", "no-store")
	s.writeList(w, uids, element)
	return problem{}
}

// writeList writes an array, in pieces.
func (s *Service) writeList(w http.ResponseWriter, uids []string, element func(dst []byte, uid string) []byte) {
	body := s.replies.get()
	defer s.replies.put(body)
	out := append(*body, '[')
	for i, uid := range uids {
		if i > 0 {
			out = append(out, ',')
		}
		out = element(out, uid)
		if len(out) >= answerWriteBytes {
			if _, err := w.Write(out); err != nil {
				return // a caller that has gone asks again
			}
			out = out[:0]
		}
	}
	out = append(out, "]\n"...)
	_, _ = w.Write(out)
	*body = out
}

// endpoint answers a request that has been admitted, and returns what became of it.
type endpoint func(w http.ResponseWriter, r *http.Request, start time.Time, nth uint64) problem
