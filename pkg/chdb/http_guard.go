package chdb

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"time"

	"github.com/sendhouse/sendhouse/pkg/guard"
)

// guard lets in who may come in: someone who knows the password, if there is one, a reader on this machine, and never a page of another
// site in a browser on this machine, which may not even make it read. A page may give its own name this machine's address: of clients
// that show no password, the name in Host is checked too.
func (e *Engine) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The last answer on this connection has left its deadline set.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		if identityOf(r) == owner { // The connection says so.
			next.ServeHTTP(w, r)
			return
		}
		who := e.identify(r)
		keeper := e.anyHost
		if who == reader || e.config.Password == "" {
			keeper = e.knownHosts
		}
		if err := keeper.CheckSameOrigin(r); err != nil {
			newResponder(w, e, "").fail(&Exception{Code: codeAuthenticationFail, Message: err.Error() + " (AUTHENTICATION_FAILED)"})
			return
		}
		if who == unknown {
			newResponder(w, e, "").fail(&Exception{Code: codeAuthenticationFail, Message: e.config.User +
				": Authentication failed: password is incorrect, or there is no user with such name. (AUTHENTICATION_FAILED)"})
			return
		}
		next.ServeHTTP(w, withIdentity(r, who))
	})
}

// guards are for clients that show no password, and for those that do.
func (c Config) guards() (knownHosts, anyHost *guard.Guard, err error) {
	knownHosts, err = guard.New(guard.Config{Hosts: c.Hosts})
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // names the setting
	}
	anyHost, err = guard.New(guard.Config{AnyHost: true})
	return knownHosts, anyHost, err //nolint:wrapcheck // likewise
}

// identify finds out who asks, from the user and password in any of the ways that ClickHouse takes them. A client on this machine that
// brings no password, and no name but the default one, is a reader, if there may be any.
func (e *Engine) identify(r *http.Request) identity {
	if e.config.Password == "" {
		return owner
	}
	user, password := r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key")
	if user == "" && password == "" {
		if name, secret, ok := r.BasicAuth(); ok {
			user, password = name, secret
		} else {
			parameters := r.URL.Query()
			user, password = parameters.Get("user"), parameters.Get("password")
		}
	}
	if user == "" {
		user = "default"
	}
	if same(user, e.config.User)&same(password, e.config.Password) == 1 {
		return owner
	}
	if e.readable && user == "default" && password == "" && toLoopback(r) {
		return reader
	}
	return unknown
}

// toLoopback reports whether the connection is to an address that only this machine can reach.
func toLoopback(r *http.Request) bool {
	address, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && address.IP.IsLoopback()
}

// same compares in a time that does not depend on where the two differ, or on their lengths.
func same(a, b string) int {
	hashA, hashB := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(hashA[:], hashB[:])
}
