package access

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/api"
)

// corsMaxAge is how long a browser may cache the response to a preflight, in seconds.
const corsMaxAge = "600"

// CORS lets pages of the configured origins call the API from a browser. Cookies are not used, so credentials in the sense
// of CORS are never allowed: a page sends its token in a header. methodsOf returns the methods of a path.
func (g *Gate) CORS(methodsOf func(path string) []string, next http.Handler) http.Handler {
	origins := g.origins
	if len(origins) == 0 {
		return next
	}
	everybody := slices.Contains(origins, "*")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if !everybody {
			h.Add("Vary", "Origin")
		}
		origin := r.Header.Get("Origin")
		if origin == "" || !everybody && !slices.Contains(origins, origin) {
			next.ServeHTTP(w, r)
			return
		}
		if everybody {
			origin = "*"
		}
		h.Set("Access-Control-Allow-Origin", origin)
		if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
			h.Set("Access-Control-Expose-Headers", "Idempotent-Replayed, Retry-After, "+api.HeaderRequestID)
			next.ServeHTTP(w, r)
			return
		}
		// A preflight request: the browser sends it before the call, without a token.
		methods := methodsOf(r.URL.Path)
		if len(methods) == 0 {
			next.ServeHTTP(w, r) // no such route
			return
		}
		h.Set("Access-Control-Allow-Methods", strings.Join(methods, ", "))
		h.Set("Access-Control-Allow-Headers", g.corsHeaders)
		h.Set("Access-Control-Max-Age", corsMaxAge)
		w.WriteHeader(http.StatusNoContent)
	})
}

func corsHeaders(more []string) string {
	return strings.Join(append([]string{"Authorization", "Content-Type", api.HeaderRequestID}, more...), ", ")
}

// checkOrigin reports what is wrong with a configured origin.
func checkOrigin(text string) error {
	if text == "*" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != text || strings.ToLower(text) != text {
		return fmt.Errorf("%q is not an origin: want * or a scheme, a host in lower case and optionally a port, as in https://chat.example.org", text)
	}
	return nil
}
