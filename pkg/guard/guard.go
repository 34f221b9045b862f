package guard

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
)

// Hosts is the setting that all listeners share. Embed it in the command line.
type Hosts struct {
	AllowedHosts []string `name:"allowed-hosts" help:"Names, separated by commas, that requests may have in their Host header besides addresses, localhost, this machine's name and names without a dot; * means all. Asked of listeners that need no credentials." placeholder:"NAME"`
}

// Reasons to refuse a request.
var (
	// ErrHost is wrapped by errors about the name of the host.
	ErrHost = errors.New("unknown host")
	// ErrCrossOrigin is returned for a request of a page of another origin.
	ErrCrossOrigin = errors.New("cross-origin request")
)

// all among names or origins means all of them.
const all = "*"

// Config describes one listener.
type Config struct {
	Hosts
	// AnyHost turns the check of the host off. A caller of such a listener shows something that no page has: a token, a password, or a
	// certificate of the server that is valid for the name.
	AnyHost bool
	// Origins may send requests across origins: a scheme and a host, as in https://chat.example.org, or *.
	Origins []string
}

// Guard decides for one listener which requests may come from a page. It is safe for concurrent use.
type Guard struct {
	anyHost   bool
	anyOrigin bool
	names     []string               // in lower case
	asked     atomic.Pointer[string] // the first Host header that was known, which nearly all callers have
	origins   *http.CrossOriginProtection
}

// New checks cfg and reports everything that is wrong with it.
func New(cfg Config) (*Guard, error) {
	g := &Guard{anyHost: cfg.AnyHost, anyOrigin: slices.Contains(cfg.Origins, all), origins: http.NewCrossOriginProtection()}
	var errs []error
	for _, name := range cfg.AllowedHosts {
		switch host := hostOf(name); {
		case name == all:
			g.anyHost = true
		case host == "" || !strings.EqualFold(host, name) || strings.ContainsAny(name, "/:*[]@ "):
			errs = append(errs, fmt.Errorf("allowed-hosts: %q is not a name: want * or names without scheme, port and path, as in chat.example.org", name))
		default:
			g.names = append(g.names, host)
		}
	}
	if name, err := os.Hostname(); err == nil { // a machine without a name has none to be asked for
		g.names = append(g.names, hostOf(name))
	}
	for _, origin := range cfg.Origins {
		if origin == all {
			continue
		}
		if err := g.origins.AddTrustedOrigin(origin); err != nil {
			errs = append(errs, fmt.Errorf("origin %q: %w", origin, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return g, nil
}

// Check returns why a request must not be answered, or nil: its host is not one of the listener's, or it may change something and comes
// from a page of another origin. The error is for the caller to read and says what to do; it wraps ErrHost or ErrCrossOrigin.
func (g *Guard) Check(r *http.Request) error {
	if !g.knows(r.Host) {
		return fmt.Errorf("%w %q: use an address, localhost or a name without a dot, or add the name to --allowed-hosts", ErrHost, r.Host)
	}
	if len(r.Header["Sec-Fetch-Site"]) == 0 && len(r.Header["Origin"]) == 0 {
		return nil // no page: what the protection would find, at a third of the cost
	}
	if g.anyOrigin || g.origins.Check(r) == nil {
		return nil
	}
	return fmt.Errorf("%w from %q: pages of other sites may not send requests here", ErrCrossOrigin, r.Header.Get("Origin"))
}

// CheckSameOrigin is Check for what pages of other origins may not even make a browser read, whatever the method.
func (g *Guard) CheckSameOrigin(r *http.Request) error {
	asPost := *r
	asPost.Method = http.MethodPost // the protection takes GET for harmless
	return g.Check(&asPost)
}

// Protect answers 403 to the requests that check, a method of a Guard, refuses.
func Protect(check func(*http.Request) error, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := check(r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// knows reports whether a Host header names this listener. What no page can make its own is an address, a name below localhost, and a name
// without a dot, which no registry gives away. HTTP/1.0 needs no host, and browsers do not speak it.
func (g *Guard) knows(header string) bool {
	if g.anyHost || header == "" {
		return true
	}
	if first := g.asked.Load(); first != nil && *first == header {
		return true
	}
	if !g.isNamed(header) {
		return false
	}
	if g.asked.Load() == nil {
		g.remember(header)
	}
	return true
}

// remember keeps the first header that was known. The header is a part of the request's head, hence the copy.
func (g *Guard) remember(header string) {
	own := strings.Clone(header)
	g.asked.CompareAndSwap(nil, &own)
}

// isNamed is knows for a header that has not been seen before.
func (g *Guard) isNamed(header string) bool {
	host := hostOf(header)
	if !strings.ContainsAny(host, ".:") || strings.HasSuffix(host, ".localhost") {
		return true
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return !addr.IsUnspecified() // browsers reach this machine by 0.0.0.0, and send less with it
	}
	return slices.Contains(g.names, host)
}

// hostOf is the host of host:port or of a host alone, in lower case, without brackets and the dot at the end.
func hostOf(address string) string {
	host := address
	if strings.HasSuffix(host, "]") || !strings.Contains(host, ":") {
		host = strings.Trim(host, "[]")
	} else if before, _, err := net.SplitHostPort(host); err == nil {
		host = before
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// IsLoopback reports whether only this machine reaches an address, host:port. A name other than localhost may be anything, and so may no
// name at all.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}
