package api

import (
	"net/http"
	"strings"
)

// Scope is what a token allows, or a route needs; a bit each.
type Scope uint8

// The scopes.
const (
	// ScopeSend is for sending messages.
	ScopeSend Scope = 1 << iota
	// ScopeManage is for changing channels and users.
	ScopeManage
	// ScopeRead is for looking at channels, users and messages.
	ScopeRead
)

// ParseScope reads the name of a scope, as it stands in the file of tokens.
func ParseScope(name string) (scope Scope, ok bool) {
	switch name {
	case "send":
		return ScopeSend, true
	case "manage":
		return ScopeManage, true
	case "read":
		return ScopeRead, true
	default:
		return 0, false
	}
}

// String is the scopes' names, separated by commas.
func (s Scope) String() string {
	var names []string
	for _, name := range []string{"send", "manage", "read"} {
		if one, _ := ParseScope(name); s&one != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// Route is a way into the API that somebody else than the listener's owner answers.
type Route struct {
	Method string
	// Path is one that no other route has; it holds no pattern.
	Path string
	// Needs is what a token must allow, where tokens are in use: any one of these scopes.
	Needs Scope
	// Serve answers. It is called from many goroutines, with requests that may. What it reads and how long it takes it bounds itself;
	// it returns when the request's context ends.
	Serve http.HandlerFunc
}
