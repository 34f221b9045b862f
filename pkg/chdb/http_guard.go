package chdb

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"time"

	"github.com/sendhouse/sendhouse/pkg/guard"
)

// guard lets in who may come in: someone who knows the password, if there is one, and never a page of another site in a browser on this
// machine, which may not even make it read.
func (e *Engine) guard(next http.Handler) http.Handler {
	keeper, err := guard.New(e.config.keeper())
	if err != nil {
		panic(err) // validate has refused it
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The last answer on this connection left its deadline behind.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		if err := keeper.CheckSameOrigin(r); err != nil {
			newResponder(w, e, "").fail(&Exception{Code: codeAuthenticationFail, Message: err.Error() + " (AUTHENTICATION_FAILED)"})
			return
		}
		if !e.knows(r) {
			newResponder(w, e, "").fail(&Exception{Code: codeAuthenticationFail, Message: e.config.User +
				": Authentication failed: password is incorrect, or there is no user with such name. (AUTHENTICATION_FAILED)"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// knows says whether the request brings the user and password, in any of the ways that ClickHouse takes them.
func (e *Engine) knows(r *http.Request) bool {
	if e.config.Password == "" {
		return true
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
	return same(user, e.config.User)&same(password, e.config.Password) == 1
}

// same compares in a time that does not depend on where the two differ, or on their lengths.
func same(a, b string) int {
	hashA, hashB := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(hashA[:], hashB[:])
}
