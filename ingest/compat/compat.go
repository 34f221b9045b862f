package compat

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// The values of the setting.
const (
	Off      = "off"
	WuKongIM = "wukongim"
)

// Check reports a value that the setting does not have.
func Check(mode string) error {
	if mode != Off && mode != WuKongIM {
		return fmt.Errorf("api-compat %q: must be off or wukongim", mode)
	}
	return nil
}

// Headers returns the names of the headers that pages of the configured origins may send in addition to the API's own. They are those that
// WuKongIM v2 lets pages send, without the ones that browsers set themselves.
func Headers() []string {
	return []string{"token", "X-CSRF-Token", "Cache-Control", "X-Requested-With", "appid", "noncestr", "sign", "timestamp"}
}

// The routes that are more than passed on. A path may end in a slash.
const (
	pathSend = "/message/send"
	pathBulk = "/message/sendbulk" // not WuKongIM's; its Content-Type tells lines from an array
)

// Handler serves WuKongIM's callers with next.
func Handler(next http.Handler) http.Handler {
	return &handler{next: next, contentType: []string{"application/json"}}
}

type handler struct {
	next        http.Handler
	contentType []string // shared by all requests, which only read it
	answers     sync.Pool
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	if path != pathBulk && r.Method == http.MethodPost {
		r.Header["Content-Type"] = h.contentType
	}
	if given := r.Header["Token"]; len(given) == 1 && given[0] != "" {
		r.Header["Authorization"] = []string{"Bearer " + given[0]}
	}
	a, ok := h.answers.Get().(*answer)
	if !ok {
		a = new(answer)
	}
	a.ResponseWriter, a.isSend = w, path == pathSend
	h.next.ServeHTTP(a, r)
	a.end()
	h.answers.Put(a) // after a panic it is left to the garbage collector
}
