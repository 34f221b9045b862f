// Package access decides who may call the HTTP API: browser pages by Host and Origin, clients by token and certificate, and how often by
// token and by address.
//
// A request is refused before its body is read. Tokens are kept as hashes only and compared in constant time. The files of tokens and
// certificates are followed: a change is in force within seconds, and a file that cannot be used is logged once while the contents read
// before stay in force. Rates charge the address before the token, so guessing tokens is limited too; a request with many sends is charged
// for the rest once it has been read.
package access

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/guard"
)

// Config has the settings of access.
type Config struct {
	APITokensFile string `name:"api-tokens-file" help:"File of the tokens that the HTTP API accepts, one per line: scopes (send, manage, read; separated by commas), a space, sha256: and the token's SHA-256 in hex. Changes take effect within seconds." placeholder:"PATH"`
	Insecure      bool   `name:"insecure" help:"Allow listening on addresses that others can reach without credentials: for the HTTP API without tokens, and for the embedded NATS."`

	TLSCertFile     string `name:"api-tls-cert-file" help:"Certificate of the HTTP API, with its chain, in PEM; with it the API speaks HTTPS only. Changes of the three files take effect within seconds." placeholder:"PATH"`
	TLSKeyFile      string `name:"api-tls-key-file" help:"Private key of the certificate, in PEM." placeholder:"PATH"`
	TLSClientCAFile string `name:"api-tls-client-ca-file" help:"Certificate authorities, in PEM. If set, every client must present a certificate signed by one of them." placeholder:"PATH"`

	TokenRate      float64  `name:"api-token-rate" help:"Sends per second that each token may make on average; above it they are answered 429. Any other request counts as one. 0 means no limit." default:"0"`
	TokenBurst     int      `name:"api-token-burst" help:"Burst of sends allowed to a token. 0 means as many as in one second." default:"0"`
	AddressRate    float64  `name:"api-address-rate" help:"Sends per second that each client address (of IPv6 each network of 64 bits) may make on average; above it they are answered 429. 0 means no limit." default:"0"`
	AddressBurst   int      `name:"api-address-burst" help:"Burst of sends allowed to a client address. 0 means as many as in one second." default:"0"`
	TrustedProxies []string `name:"api-trusted-proxies" help:"Networks (10.0.0.0/8) and addresses, separated by commas, of proxies whose X-Forwarded-For is trusted. By default none is." placeholder:"NETWORK"`
	CORSOrigins    []string `name:"api-cors-origins" help:"Origins (https://chat.example.org), separated by commas, whose pages may call the HTTP API from a browser; * means all. By default none may." placeholder:"ORIGIN"`
	// CORSHeaders are names of headers that such pages may send in addition to those that the API reads.
	CORSHeaders []string `kong:"-"`
}

const (
	// Rates of callers, per second: from one in 100 seconds to more than can be reached.
	rateMin, rateMax = 0.01, 1e9
)

// Check reports every setting that is out of its range.
func (c Config) Check() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check((c.TLSCertFile == "") == (c.TLSKeyFile == ""), "api-tls-cert-file and api-tls-key-file: give both or none")
	check(c.TLSClientCAFile == "" || c.TLSCertFile != "", "api-tls-client-ca-file: needs api-tls-cert-file and api-tls-key-file")
	checkRate := func(name string, perSecond float64, burst int) {
		check(perSecond == 0 || perSecond >= rateMin && perSecond <= rateMax, "api-%s-rate %v: must be 0 (no limit), or %v to %v", name, perSecond, rateMin, rateMax)
		check(burst >= 0 && burst <= rateMax, "api-%s-burst %d: must be 0 to %d", name, burst, int(rateMax))
	}
	checkRate("token", c.TokenRate, c.TokenBurst)
	checkRate("address", c.AddressRate, c.AddressBurst)
	check(c.TokenRate == 0 || c.APITokensFile != "", "api-token-rate: needs api-tokens-file")
	if _, err := parseProxies(c.TrustedProxies); err != nil {
		errs = append(errs, fmt.Errorf("api-trusted-proxies: %w", err))
	}
	for _, origin := range c.CORSOrigins {
		if err := checkOrigin(origin); err != nil {
			errs = append(errs, fmt.Errorf("api-cors-origins: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Gate decides who may call.
type Gate struct {
	tokens       *tokens       // nil if no token is required
	addresses    *addresses    // nil if their rate is not limited
	certificates *certificates // nil if the API serves plain HTTP
	guard        *guard.Guard
	origins      []string // whose pages may call the API
	corsHeaders  string   // that they may send
}

// New checks the settings, and reads the files of tokens and certificates.
func New(cfg Config, hosts guard.Hosts, log *slog.Logger) (*Gate, error) {
	g := &Gate{origins: cfg.CORSOrigins, corsHeaders: corsHeaders(cfg.CORSHeaders)}
	errs := []error{cfg.Check()}
	var err error
	if cfg.APITokensFile != "" {
		var limiter func() *rate.Limiter
		if cfg.TokenRate > 0 {
			limiter = func() *rate.Limiter { return newLimiter(cfg.TokenRate, cfg.TokenBurst) }
		}
		g.tokens, err = openTokens(cfg.APITokensFile, limiter, log)
		errs = append(errs, err)
	}
	if cfg.TLSCertFile != "" && cfg.TLSKeyFile != "" {
		g.certificates, err = openCertificates(cfg.TLSCertFile, cfg.TLSKeyFile, cfg.TLSClientCAFile, log)
		errs = append(errs, err)
	}
	if trusted, err := parseProxies(cfg.TrustedProxies); err == nil && cfg.AddressRate > 0 { // check reports the error
		g.addresses = newAddresses(cfg.AddressRate, cfg.AddressBurst, trusted)
	}
	// Without tokens, a page that resolves its own name to this machine's address (DNS rebinding) would be let in, so the host
	// is checked. With TLS the API has no certificate for that name, and with tokens the page has none.
	g.guard, err = guard.New(guard.Config{Hosts: hosts, AnyHost: cfg.APITokensFile != "" || cfg.TLSCertFile != "", Origins: cfg.CORSOrigins})
	if err != nil {
		errs = append(errs, fmt.Errorf("who may call from a browser: %w", err))
	}
	return g, errors.Join(errs...)
}

// Watch follows the files of tokens and certificates until the returned function is called.
func (g *Gate) Watch() (stop func()) {
	var stops []func()
	if g.tokens != nil {
		stops = append(stops, g.tokens.watch())
	}
	if g.certificates != nil {
		stops = append(stops, g.certificates.watch())
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// TLS returns the TLS configuration of connections, or nil for plain HTTP.
func (g *Gate) TLS() *tls.Config {
	if g.certificates == nil {
		return nil
	}
	return g.certificates.config()
}

// CertificateExpiry returns when the certificate in use expires, if there is one.
func (g *Gate) CertificateExpiry() (at time.Time, ok bool) {
	if g.certificates == nil {
		return time.Time{}, false
	}
	return g.certificates.expiry(), true
}

// CheckPage refuses requests that a browser page may not make.
func (g *Gate) CheckPage(r *http.Request) outcome.Problem {
	err := g.guard.Check(r)
	switch {
	case err == nil:
		return outcome.Problem{}
	case errors.Is(err, guard.ErrHost):
		return outcome.Problem{Outcome: outcome.UnknownHost, Msg: err.Error()}
	default:
		return outcome.Problem{Outcome: outcome.CrossOrigin, Msg: err.Error() + " (unless --api-cors-origins names it)"}
	}
}

// Allow checks the token of a request and the rates of its address and its token.
func (g *Gate) Allow(w http.ResponseWriter, r *http.Request, needs api.Scope) (by Spender, p outcome.Problem) {
	if g.addresses != nil {
		by.address = g.addresses.of(r)
		if after, ok := spend(by.address, time.Now()); !ok {
			return by, outcome.Problem{Outcome: outcome.RateLimited, RetryAfter: after, Msg: "too many sends from this address; nothing was written"}
		}
	}
	by.token, p = g.authorize(w, r, needs)
	if !p.OK() || by.token == nil {
		return by, p
	}
	if after, ok := spend(by.token, time.Now()); !ok {
		return by, outcome.Problem{Outcome: outcome.RateLimited, RetryAfter: after, Msg: "too many sends with this token; nothing was written"}
	}
	return by, outcome.Problem{}
}
