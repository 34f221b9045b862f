package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Config says where the server is, and how long to try. Only URL or URLFrom must be given; a zero elsewhere means the default that is named there.
type Config struct {
	// URL is where the API is: http://localhost:5001, or https://… with a path in front of the routes, if there is one.
	URL string
	// Token is sent as a bearer token; "" means none. It needs the scope send, and read for Status.
	Token string
	// URLFrom and TokenFrom are asked before each request, in place of URL and Token, for what can change: they return quickly, and are called from
	// many goroutines. An error of theirs is as if the server could not be reached.
	URLFrom   func(context.Context) (string, error)
	TokenFrom func(context.Context) (string, error)
	// HTTPClient carries the requests: TLS, proxies and the like are its Transport's. It is not changed. The default is one of the Client's
	// own that keeps up to 256 connections open. Its Timeout, if any, bounds each try beside TryTimeout.
	HTTPClient *http.Client

	// TriesMax is how often a send is tried, the first time included. 6.
	TriesMax int
	// TryTimeout bounds one try. It should be longer than the server's --ingest-answer-timeout (5 s), or its answer comes in vain. 15 s.
	TryTimeout time.Duration
	// BulkTryTimeout bounds one try of a bulk. 60 s.
	BulkTryTimeout time.Duration
	// BackoffMin is the longest pause before the second try; it doubles with each try, up to BackoffMax. The pause taken is random,
	// between half of that and the whole. 100 ms.
	BackoffMin time.Duration
	// BackoffMax is the longest pause between tries where the server does not ask for a longer one. 10 s.
	BackoffMax time.Duration
	// RetryAfterMax is the longest pause that the server may ask for with Retry-After. If it asks for more, trying ends. 60 s.
	RetryAfterMax time.Duration

	// ResendWithin is how long after a try that may have been stored the send is tried again, by the wall clock too. 0: for as long as the server
	// says that it remembers ([Client.Window]). Another value can only shorten what the server says.
	ResendWithin time.Duration

	// BulkItemsMax is how many sends SendBulk puts into one request, at most 10,000. 1,000.
	BulkItemsMax int
	// BulkBytesMax is how many bytes of sends SendBulk puts into one request, at most 16 MiB. A send that is larger goes alone.
	// Where a request is too large for something in between, SendBulk makes smaller ones. 4 MiB.
	BulkBytesMax int
}

// What the server takes in one bulk.
const (
	serverBulkItemsMax = 10_000
	serverBulkBytesMax = 16 << 20
)

// idleConnsMax is how many connections of its own a Client keeps open.
const idleConnsMax = 256

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	setDefault(&c.TriesMax, 6)
	setDefault(&c.TryTimeout, 15*time.Second)
	setDefault(&c.BulkTryTimeout, time.Minute)
	setDefault(&c.BackoffMin, 100*time.Millisecond)
	setDefault(&c.BackoffMax, max(10*time.Second, c.BackoffMin))
	setDefault(&c.RetryAfterMax, time.Minute)
	setDefault(&c.BulkItemsMax, 1_000)
	setDefault(&c.BulkBytesMax, 4<<20)
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// check reports everything that is wrong. base is URL, ready to have a route appended.
func (c Config) check() (base string, err error) {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	switch {
	case c.URL != "" && c.URLFrom != nil:
		errs = append(errs, errors.New("URL and URLFrom are given; give one"))
	case c.URLFrom == nil:
		if base, err = checkURL(c.URL); err != nil {
			errs = append(errs, err)
		}
	}
	check(c.Token == "" || c.TokenFrom == nil, "Token and TokenFrom are given; give one")
	if err := checkToken(c.Token); err != nil {
		errs = append(errs, err)
	}
	check(c.TriesMax > 0, "TriesMax %d: must be positive", c.TriesMax)
	check(c.TryTimeout > 0, "TryTimeout %s: must be positive", c.TryTimeout)
	check(c.BulkTryTimeout > 0, "BulkTryTimeout %s: must be positive", c.BulkTryTimeout)
	check(c.BackoffMin > 0 && c.BackoffMax >= c.BackoffMin, "BackoffMin %s, BackoffMax %s: must be positive, and the first not above the second", c.BackoffMin, c.BackoffMax)
	check(c.RetryAfterMax > 0, "RetryAfterMax %s: must be positive", c.RetryAfterMax)
	check(c.ResendWithin >= 0, "ResendWithin %s: must not be negative", c.ResendWithin)
	check(c.BulkItemsMax > 0 && c.BulkItemsMax <= serverBulkItemsMax, "BulkItemsMax %d: must be 1 to %d", c.BulkItemsMax, serverBulkItemsMax)
	check(c.BulkBytesMax > 0 && c.BulkBytesMax <= serverBulkBytesMax, "BulkBytesMax %d: must be 1 to %d", c.BulkBytesMax, serverBulkBytesMax)
	return base, errors.Join(errs...)
}

// checkURL checks where a server is. base is ready to have a route appended.
func checkURL(text string) (base string, err error) {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return "", errors.New("URL is missing (for example http://localhost:5001)")
	case err != nil:
		return "", fmt.Errorf("URL: %w", err)
	case u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("URL %q: must begin with http:// or https://", text)
	case u.Host == "":
		return "", fmt.Errorf("URL %q: has no host", text)
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return "", fmt.Errorf("URL %q: must not have a query, a fragment or a password", u.Redacted())
	}
	return strings.TrimRight(u.String(), "/"), nil
}

func checkToken(token string) error {
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("a value of Token or TokenFrom must be visible ASCII characters")
	}
	return nil
}

// httpClient is the client that carries the requests.
func (c Config) httpClient() *http.Client {
	var own http.Client
	if c.HTTPClient != nil {
		own = *c.HTTPClient
	} else {
		transport := &http.Transport{}
		if standard, ok := http.DefaultTransport.(*http.Transport); ok {
			transport = standard.Clone()
		}
		transport.MaxIdleConns, transport.MaxIdleConnsPerHost = idleConnsMax, idleConnsMax
		own.Transport = transport
	}
	if own.CheckRedirect == nil {
		// A POST that is redirected can become a GET, which would be no send; and the token is for this server.
		own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return &own
}
