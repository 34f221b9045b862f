package ingest

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sendhouse/sendhouse/pkg/api"
)

const (
	tokensMax         = 1_000
	tokensBytesMax    = 1 << 20         // of the file
	tokensPollDefault = 2 * time.Second // how soon a change of the file is seen
)

// token is a line of the file: who shows what has this hash may do that.
type token struct {
	hash   [sha256.Size]byte
	scopes api.Scope
}

// tokens is the file of tokens, followed while it changes. The tokens themselves stand
// nowhere: the file has their hashes.
type tokens struct {
	path string
	log  *slog.Logger
	poll time.Duration
	set  atomic.Pointer[[]token]

	// Only the goroutine that loads uses them.
	seen   [sha256.Size]byte // of the file's content, right or wrong
	broken string            // what was last said of it
}

// openTokens reads the file for the first time.
func openTokens(path string, log *slog.Logger) (*tokens, error) {
	t := &tokens{path: path, log: log, poll: tokensPollDefault}
	data, err := readTokens(path)
	if err == nil {
		err = t.take(data)
	}
	if err != nil {
		return nil, fmt.Errorf("api-tokens-file %s: %w", path, err)
	}
	return t, nil
}

// watch follows the file until the returned function is called, which waits for its
// goroutine.
func (t *tokens) watch() (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(t.poll)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				t.reload()
			case <-end:
				return
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// reload takes the file if it has changed. A broken one is reported once, and the tokens
// of before stay in force. It compares the content, since two changes may have one time.
func (t *tokens) reload() {
	data, err := readTokens(t.path)
	if err == nil && sha256.Sum256(data) == t.seen && t.broken == "" {
		return
	}
	if err == nil {
		err = t.take(data)
	}
	switch {
	case err == nil:
		t.broken = ""
		t.log.Info("the API's tokens were read again", "file", t.path, "tokens", len(*t.set.Load()))
	case err.Error() != t.broken:
		t.broken = err.Error()
		t.log.Error("the API's tokens could not be read again; those of before stay in force", "file", t.path, "error", err)
	}
}

func (t *tokens) take(data []byte) error {
	set, err := parseTokens(string(data))
	if err != nil {
		return err
	}
	t.set.Store(&set)
	t.seen = sha256.Sum256(data)
	return nil
}

func readTokens(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, tokensBytesMax+1))
	if err == nil && len(data) > tokensBytesMax {
		err = errors.New("is larger than 1MiB")
	}
	return data, err
}

// parseTokens reads lines of "scope[,scope] sha256:<hex>". What is behind a # is a
// comment. Its errors name lines and never what stands in them: that may be a token.
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

// allows gives the scopes of a token. It takes as long for each, known or not.
func (t *tokens) allows(text string) (allowed api.Scope, known bool) {
	hash := sha256.Sum256([]byte(text))
	found := 0
	for _, one := range *t.set.Load() {
		same := subtle.ConstantTimeCompare(hash[:], one.hash[:])
		found |= same
		allowed |= api.Scope(subtle.ConstantTimeSelect(same, int(one.scopes), 0))
	}
	return allowed, found == 1
}

// authorize checks the token of a request, where tokens are in use.
func (s *Service) authorize(w http.ResponseWriter, r *http.Request, needs api.Scope) problem {
	if s.tokens == nil {
		return problem{}
	}
	const challenge = `Bearer realm="sendhouse"`
	text, ok := bearer(r.Header)
	if !ok {
		w.Header().Set("WWW-Authenticate", challenge)
		return problem{outcome: outcomeUnauthorized, msg: "a token is needed: Authorization: Bearer TOKEN"}
	}
	switch allowed, known := s.tokens.allows(text); {
	case !known:
		w.Header().Set("WWW-Authenticate", challenge+`, error="invalid_token"`)
		return problem{outcome: outcomeUnauthorized, msg: "the token is not known"}
	case allowed&needs == 0:
		w.Header().Set("WWW-Authenticate", challenge+`, error="insufficient_scope"`)
		return problem{outcome: outcomeScope}
	}
	return problem{}
}

// bearer is the token of a request that has one.
func bearer(h http.Header) (text string, ok bool) {
	values := h["Authorization"]
	if len(values) != 1 {
		return "", false
	}
	scheme, text, _ := strings.Cut(values[0], " ")
	text = strings.TrimSpace(text)
	return text, strings.EqualFold(scheme, "Bearer") && text != ""
}

// isLoopback says whether only this machine reaches an address. A name other than
// localhost may be anything, and so may no name at all.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
