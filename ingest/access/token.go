package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/api"
)

const (
	tokensMax      = 1_000
	tokensBytesMax = 1 << 20 // size of the file
)

// token is a line of the file: the scopes of the token with this hash.
type token struct {
	hash   [sha256.Size]byte
	scopes api.Scope
	limit  *rate.Limiter // nil: no limit
}

// tokens holds the file of tokens, and follows its changes. The file has only hashes; the tokens themselves are stored
// nowhere.
type tokens struct {
	*follower
	newLimiter func() *rate.Limiter // nil: tokens have no limit
	set        atomic.Pointer[[]token]
}

// openTokens reads the file for the first time.
func openTokens(path string, newLimiter func() *rate.Limiter, log *slog.Logger) (*tokens, error) {
	t := &tokens{newLimiter: newLimiter}
	t.follower = &follower{
		what: "the API's tokens", paths: []string{path}, bytesMax: tokensBytesMax, poll: followPollDefault, log: log,
		take: func(files [][]byte) error { return t.take(string(files[0])) },
	}
	if err := t.open(); err != nil {
		return nil, fmt.Errorf("api-tokens-file %s: %w", path, err)
	}
	return t, nil
}

// take applies the tokens of a file. A token that is still present keeps its limiter's state.
func (t *tokens) take(text string) error {
	set, err := parseTokens(text)
	if err != nil {
		return err
	}
	before := make(map[[sha256.Size]byte]*rate.Limiter)
	if known := t.set.Load(); known != nil {
		for _, one := range *known {
			before[one.hash] = one.limit
		}
	}
	for i := range set {
		set[i].limit = before[set[i].hash]
		if set[i].limit == nil && t.newLimiter != nil {
			set[i].limit = t.newLimiter()
		}
	}
	t.set.Store(&set)
	return nil
}

// parseTokens parses lines of "scope[,scope] sha256:<hex>". A # starts a comment. Errors name lines and never their
// content, which may be a token.
func parseTokens(text string) (set []token, err error) {
	var errs []error
	lines := make(map[[sha256.Size]byte]int)
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		parts := strings.Fields(line)
		if len(parts) == 0 {
			continue
		}
		one, err := parseToken(parts)
		if err == nil && lines[one.hash] > 0 {
			err = fmt.Errorf("the same token as in line %d", lines[one.hash])
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", number, err))
			continue
		}
		lines[one.hash] = number
		set = append(set, one)
	}
	switch {
	case len(errs) > 0:
		return nil, errors.Join(errs[:min(len(errs), 10)]...)
	case len(set) == 0:
		return nil, errors.New("holds no token")
	case len(set) > tokensMax:
		return nil, fmt.Errorf("holds %d tokens; at most %d are taken", len(set), tokensMax)
	}
	return set, nil
}

func parseToken(parts []string) (t token, err error) {
	const form = `must be "scope[,scope] sha256:<64 hex digits>", the scopes being send, manage and read`
	if len(parts) != 2 {
		return t, errors.New(form)
	}
	for name := range strings.SplitSeq(parts[0], ",") {
		scope, ok := api.ParseScope(name)
		if !ok {
			return t, errors.New(form)
		}
		t.scopes |= scope
	}
	digits, ok := strings.CutPrefix(parts[1], "sha256:")
	hash, err := hex.DecodeString(digits)
	if !ok || err != nil || len(hash) != len(t.hash) {
		return t, errors.New(form)
	}
	copy(t.hash[:], hash)
	return t, nil
}

// find returns the token with this text, if there is one. It takes as long for an unknown token as for a known one.
func (t *tokens) find(text string) (found token, known bool) {
	hash := sha256.Sum256([]byte(text))
	set := *t.set.Load()
	which := -1
	for i := range set {
		which = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(hash[:], set[i].hash[:]), i, which)
	}
	if which < 0 {
		return token{}, false
	}
	return set[which], true
}

// authorize checks the token of a request, if tokens are required, and returns the limiter of its rate.
func (g *Gate) authorize(w http.ResponseWriter, r *http.Request, needs api.Scope) (limit *rate.Limiter, p outcome.Problem) {
	if g.tokens == nil {
		return nil, outcome.Problem{}
	}
	const challenge = `Bearer realm="sendhouse"`
	text, ok := bearer(r.Header)
	if !ok {
		w.Header().Set("WWW-Authenticate", challenge)
		return nil, outcome.Problem{Outcome: outcome.Unauthorized, Msg: "a token is needed: Authorization: Bearer TOKEN"}
	}
	switch one, known := g.tokens.find(text); {
	case !known:
		w.Header().Set("WWW-Authenticate", challenge+`, error="invalid_token"`)
		return nil, outcome.Problem{Outcome: outcome.Unauthorized, Msg: "the token is not known"}
	case one.scopes&needs == 0:
		w.Header().Set("WWW-Authenticate", challenge+`, error="insufficient_scope"`)
		return nil, outcome.Problem{Outcome: outcome.InsufficientScope}
	default:
		return one.limit, outcome.Problem{}
	}
}

// bearer returns the bearer token of a request, if there is one.
func bearer(h http.Header) (text string, ok bool) {
	values := h["Authorization"]
	if len(values) != 1 {
		return "", false
	}
	scheme, text, _ := strings.Cut(values[0], " ")
	text = strings.TrimSpace(text)
	return text, strings.EqualFold(scheme, "Bearer") && text != ""
}
