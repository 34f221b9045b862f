package chdb

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// guard lets in who may come in: someone who knows the password, where there is one, and never a page of another site in a browser on
// this machine.
func (e *Engine) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The last answer on this connection left its deadline behind.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		if identityOf(r) == owner { // The connection says so.
			next.ServeHTTP(w, r)
			return
		}
		who := e.identify(r)
		if reason := e.foreign(r, who); reason != "" {
			newResponder(w, e, "").fail(&Exception{Code: codeAuthenticationFail, Message: reason + " (AUTHENTICATION_FAILED)"})
			return
		}
		if who == nobody {
			newResponder(w, e, "").fail(&Exception{Code: codeAuthenticationFail, Message: e.config.User +
				": Authentication failed: password is incorrect, or there is no user with such name. (AUTHENTICATION_FAILED)"})
			return
		}
		next.ServeHTTP(w, withIdentity(r, who))
	})
}

// foreign says why the request looks like one that a page of another site made a browser send. Without a password only this machine may
// ask, and then the name in Host must be one of this machine too: a page may give its own name this machine's address.
func (e *Engine) foreign(r *http.Request, who identity) string {
	if origin := r.Header.Get("Origin"); origin != "" {
		if parsed, err := url.Parse(origin); err != nil || !strings.EqualFold(parsed.Host, r.Host) {
			return "Requests from pages of other sites are refused."
		}
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return "Requests from pages of other sites are refused."
	}
	if (who == reader || e.config.Password == "") && !localName(r.Host) {
		return "The host " + r.Host + " is not this machine. Use localhost or an address, or set a password."
	}
	return ""
}

// localName says whether the host is an address or a name that always means this machine.
func localName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	return host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(host) != nil
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
	return nobody
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
