// Package manage has WuKongIM's routes that show and change permissions: channels, their lists, and system accounts.
//
// A change is answered 200 when it is stored and in force in this process; see package permission for when others apply
// it. Bodies are decoded and checked by package request, so one error names every bad field. Large lists are charged to
// the budget of memory that all requests share.
package manage

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"unsafe"

	"github.com/sendhouse/sendhouse/ingest/memory"
	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/ingest/request"
	"github.com/sendhouse/sendhouse/pkg/api"
)

// writeBytes is the size of each write of a response that may be long.
const writeBytes = 32 << 10

// Manager serves the routes that change permissions.
type Manager struct {
	Permissions *permission.Store
	Requests    *request.Pool
	Replies     *memory.Buffers
	Extend      func(w http.ResponseWriter) // extends the deadlines of a request
	Log         *slog.Logger
}

// Route is one route. Serve answers a request and returns its outcome.
type Route struct {
	Method, Path string
	Needs        api.Scope
	Serve        func(w http.ResponseWriter, r *http.Request) outcome.Problem
}

// Routes returns WuKongIM's routes for channels and system accounts, each with the fields that it takes and the edit that
// it makes.
func (m *Manager) Routes() (routes []Route) {
	const flags = permission.FlagLarge | permission.FlagBanned | permission.FlagDisbanded | permission.FlagSendBanned | permission.FlagStrangers
	change := func(path string, takes request.Accepts, edit func(m request.Managed) permission.Edit) {
		routes = append(routes, Route{http.MethodPost, path, api.ScopeManage, m.change(takes, edit)})
	}
	change("/channel", request.Accepts{Uids: request.FieldSubscribers, UidsMayLack: true, Flags: true, Reset: true}, func(m request.Managed) permission.Edit {
		e := permission.Edit{Lower: flags, Raise: m.Flags}
		e.Lists[permission.Subscribers] = permission.ListEdit{Clear: m.Reset, Add: m.Uids}
		return e
	})
	change("/channel/info", request.Accepts{Uids: request.FieldsCount, Flags: true}, func(m request.Managed) permission.Edit {
		return permission.Edit{Lower: flags, Raise: m.Flags}
	})
	change("/channel/delete", request.Accepts{Uids: request.FieldsCount, NoPerson: true, Removes: true}, func(request.Managed) permission.Edit {
		return permission.Edit{IfDefined: true, Raise: permission.FlagDisbanded}
	})
	change("/channel/subscriber_add", request.Accepts{Uids: request.FieldSubscribers, Reset: true, GroupUnsaid: true, NoPerson: true}, func(m request.Managed) permission.Edit {
		e := permission.Edit{Raise: permission.FlagDefined}
		e.Lists[permission.Subscribers] = permission.ListEdit{Clear: m.Reset, Add: m.Uids}
		return e
	})
	change("/channel/subscriber_remove", request.Accepts{Uids: request.FieldSubscribers, GroupUnsaid: true, NoPerson: true, Removes: true}, remove(permission.Subscribers))
	change("/channel/subscriber_remove_all", request.Accepts{Uids: request.FieldsCount, NoPerson: true, Removes: true}, removeAll(permission.Subscribers))
	for name, list := range map[string]permission.List{"blacklist": permission.Denylist, "whitelist": permission.Allowlist} {
		change("/channel/"+name+"_add", request.Accepts{Uids: request.FieldUIDs}, add(list))
		change("/channel/"+name+"_set", request.Accepts{Uids: request.FieldUIDs, UidsMayLack: true}, set(list))
		change("/channel/"+name+"_remove", request.Accepts{Uids: request.FieldUIDs, Removes: true, RemovesFrom: list}, remove(list))
		change("/channel/"+name+"_remove_all", request.Accepts{Uids: request.FieldsCount, Removes: true}, removeAll(list))
	}
	// In WuKongIM v2 the routes with _cache change a node's memory alone: the node that stores a change calls them on the others. Here a stored
	// change reaches every process by itself, and none has system accounts of its own, so they store it too.
	for _, suffix := range []string{"", "_to_cache"} {
		change("/user/systemuids_add"+suffix, request.Accepts{NoChannel: true, Uids: request.FieldUIDs, UidsMayLack: true}, add(permission.Subscribers))
	}
	for _, suffix := range []string{"", "_from_cache"} {
		change("/user/systemuids_remove"+suffix, request.Accepts{NoChannel: true, Uids: request.FieldUIDs, UidsMayLack: true, Removes: true}, remove(permission.Subscribers))
	}
	return append(routes,
		Route{http.MethodGet, "/channel/whitelist", api.ScopeRead, m.allowlist},
		Route{http.MethodGet, "/user/systemuids", api.ScopeRead, m.systemUIDs})
}

func add(l permission.List) func(request.Managed) permission.Edit {
	return editOf(l, func(m request.Managed) permission.ListEdit { return permission.ListEdit{Add: m.Uids} })
}

func set(l permission.List) func(request.Managed) permission.Edit {
	return editOf(l, func(m request.Managed) permission.ListEdit { return permission.ListEdit{Clear: true, Add: m.Uids} })
}

func remove(l permission.List) func(request.Managed) permission.Edit {
	return editOf(l, func(m request.Managed) permission.ListEdit { return permission.ListEdit{Remove: m.Uids} })
}

func removeAll(l permission.List) func(request.Managed) permission.Edit {
	return editOf(l, func(request.Managed) permission.ListEdit { return permission.ListEdit{Clear: true} })
}

func editOf(l permission.List, edit func(request.Managed) permission.ListEdit) func(request.Managed) permission.Edit {
	return func(m request.Managed) (e permission.Edit) {
		e.Lists[l] = edit(m)
		return e
	}
}

// change returns the handler of a route that changes permissions. It answers 200 when the change is stored and in force in
// this process.
func (m *Manager) change(takes request.Accepts, edit func(request.Managed) permission.Edit) func(w http.ResponseWriter, r *http.Request) outcome.Problem {
	return func(w http.ResponseWriter, r *http.Request) outcome.Problem {
		req := m.Requests.Get()
		defer m.Requests.Put(req) // until then the request stays charged to the budget, for the copies of its uids
		p := m.Requests.Receive(w, r, req)
		var given request.Managed
		if p.OK() {
			given, p = req.DecodeManaged(takes)
		}
		if p.OK() && takes.Removes {
			p = m.checkStored(req, given, takes)
		}
		if p.OK() {
			ch := given.Channel
			if takes.NoChannel {
				ch = permission.SystemAccounts()
			}
			m.Extend(w) // a large list may take longer than the read timeout
			p = m.problemOfChange(m.Permissions.Change(r.Context(), ch, edit(given)), takes)
		}
		if !p.OK() {
			p.Write(w)
			return p
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"status":200}`)) // a disconnected caller repeats the request
		return p
	}
}

func (m *Manager) problemOfChange(err error, takes request.Accepts) outcome.Problem {
	switch {
	case err == nil:
		return outcome.Problem{}
	case errors.Is(err, permission.ErrTooMany) && takes.Uids != request.FieldsCount:
		return outcome.Problem{Outcome: outcome.InvalidRequest, Field: takes.Uids.String(), Msg: takes.Uids.String() + " cannot be taken: " + err.Error()}
	case errors.Is(err, permission.ErrUnknown):
		m.Log.Warn("a change of permissions did not complete", "error", err)
		return outcome.Problem{Outcome: outcome.ChangeUnknown}
	case errors.Is(err, permission.ErrDamaged):
		m.Log.Error("cannot change permissions", "error", err)
		return outcome.Problem{Outcome: outcome.PermissionsUnavailable, Msg: "the channel's stored permissions are damaged; nothing was changed. " +
			"Replacing the whole list (reset, or the _set route) repairs them"}
	default:
		m.Log.Warn("cannot change permissions", "error", err)
		return outcome.Problem{Outcome: outcome.PermissionsUnavailable, Msg: "the permissions cannot be changed now; nothing was changed"}
	}
}

// checkStored refuses names that break the rules, unless they are stored, on a route that only removes.
func (m *Manager) checkStored(req *request.Request, given request.Managed, takes request.Accepts) outcome.Problem {
	ch := given.Channel
	if takes.NoChannel {
		ch = permission.SystemAccounts()
	}
	policy, err := m.Permissions.Policy(ch)
	if err != nil {
		return outcome.Problem{Outcome: outcome.PermissionsUnavailable}
	}
	return req.CheckStored(given, takes, policy)
}

// appendMember appends an entry of a list in WuKongIM's format. Its id has no meaning here.
func appendMember(dst []byte, uid string) []byte {
	return append(api.AppendString(append(dst, `{"id":0,"uid":`...), uid), '}')
}

// allowlist serves GET /channel/whitelist.
func (m *Manager) allowlist(w http.ResponseWriter, r *http.Request) outcome.Problem {
	req := m.Requests.Get()
	defer m.Requests.Put(req)
	ch, p := req.ManagedQuery(r.URL.Query())
	if !p.OK() {
		p.Write(w)
		return p
	}
	return m.list(w, ch, permission.Allowlist, appendMember)
}

// systemUIDs serves GET /user/systemuids.
func (m *Manager) systemUIDs(w http.ResponseWriter, _ *http.Request) outcome.Problem {
	return m.list(w, permission.SystemAccounts(), permission.Subscribers, api.AppendString)
}

// list answers with a sorted list. Its memory, apart from what the store holds anyway, is charged to the budget until the
// response is written; the response itself may be many times as large, and is written in pieces.
func (m *Manager) list(w http.ResponseWriter, ch permission.Channel, l permission.List, element func(dst []byte, uid string) []byte) outcome.Problem {
	policy, err := m.Permissions.Policy(ch)
	if err != nil {
		p := outcome.Problem{Outcome: outcome.PermissionsUnavailable}
		p.Write(w)
		return p
	}
	count := policy.List(l).Len()
	cost := int64(count)*int64(unsafe.Sizeof("")) + 2*writeBytes
	if !m.Requests.Budget.Take(cost) {
		p := outcome.Problem{Outcome: outcome.Overloaded, Msg: fmt.Sprintf("the list has %d uids: not enough memory to return it now", count)}
		p.Write(w)
		return p
	}
	defer m.Requests.Budget.GiveBack(cost)
	uids := slices.AppendSeq(make([]string, 0, count), policy.List(l).All())
	slices.Sort(uids)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	m.writeList(w, uids, element)
	return outcome.Problem{}
}

// writeList writes an array in pieces.
func (m *Manager) writeList(w http.ResponseWriter, uids []string, element func(dst []byte, uid string) []byte) {
	body := m.Replies.Get()
	defer m.Replies.Put(body)
	out := append(*body, '[')
	for i, uid := range uids {
		if i > 0 {
			out = append(out, ',')
		}
		out = element(out, uid)
		if len(out) >= writeBytes {
			if _, err := w.Write(out); err != nil {
				return // a disconnected caller repeats the request
			}
			out = out[:0]
		}
	}
	out = append(out, "]\n"...)
	_, _ = w.Write(out)
	*body = out
}
