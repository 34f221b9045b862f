package clickhouse

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
	chcolumn "github.com/ClickHouse/clickhouse-go/v2/lib/column"
)

// Class says what can be done about an error.
type Class int

// The classes. Anything that is not surely one of the others is ambiguous.
const (
	// Ambiguous: nothing is known about what was sent. Insert the same rows again under the same token.
	Ambiguous Class = iota
	// Backpressure: the server refused and has too much to do, or no room. Wait, then as Ambiguous.
	Backpressure
	// Oversize: the server refused this block, for good, but would take smaller ones.
	Oversize
	// Memory: the server had not enough memory for this block, now. It may take smaller ones, or this one later.
	// What it had inserted of it before that is not known.
	Memory
	// Configuration: nothing will go in before a person changes something. Alert, wait, try again.
	Configuration
	// Data: the server refused the content of at least one row of the block.
	Data
)

// String is the class as a metric label.
func (c Class) String() string {
	switch c {
	case Backpressure:
		return "backpressure"
	case Oversize:
		return "oversize"
	case Memory:
		return "memory"
	case Configuration:
		return "configuration"
	case Data:
		return "data"
	default:
		return "ambiguous"
	}
}

// Classes lists all classes.
func Classes() []Class {
	return []Class{Ambiguous, Backpressure, Oversize, Memory, Configuration, Data}
}

// Error is an error of a call to ClickHouse.
type Error struct {
	Op     string // what was being done: connect, insert, migrate, check
	Target string // what to: addresses and table, without the password
	Class  Class
	Code   int    // ClickHouse's exception code, 0 if it was not the server that refused
	Behind bool   // not the table refused, but a materialized view of it: the rows may be in the table
	Row    int    // the row that the server names as the one it refuses, from 1; 0 if it names none. It can be wrong.
	Hint   string // what to do about it, empty where nothing special
	Err    error
}

// Error is one line.
func (e *Error) Error() string {
	// The server's own text can go over several lines, where it repeats the statement.
	text := strings.Join(strings.Fields(fmt.Sprintf("clickhouse: %s %s: %s", e.Op, e.Target, withoutRequests(e.Err.Error()))), " ")
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

// withoutRequests takes out of a text of the driver the requests that it quotes, with all their parameters, and what it says of its
// own steps before them: the operation and the target say more.
func withoutRequests(text string) string {
	const begin, end = `Post "`, `": `
	for {
		before, rest, found := strings.Cut(text, begin)
		_, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			return text
		}
		for _, step := range []string{"sendQuery: ", "failed to query server hello info: ", "failed to query server hello: "} {
			before = strings.TrimSuffix(before, step)
		}
		text = before + after
	}
}

// Unwrap gives the driver's error.
func (e *Error) Unwrap() error { return e.Err }

// ClassOf is the class of an error: that of the [*Error] in it, else Ambiguous.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return Ambiguous
}

// IsBehind reports whether it was a materialized view of the table that refused: see [Error].
func IsBehind(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Behind
}

// errColumnMismatch marks what the driver refuses before it sends anything: the table's type for a column
// does not take what we have.
var errColumnMismatch = errors.New("the table's column does not take the writer's values")

const opConnect = "connect to"

func newError(op, target string, err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	class, code := classify(err)
	return &Error{Op: op, Target: target, Class: class, Code: code, Behind: behindTable(code, err), Row: refusedRow(code, err), Hint: hint(op, class, code, err), Err: err}
}

// classify is the one place where errors are told apart.
func classify(err error) (class Class, code int) {
	var exception *clickhouse.Exception
	var httpError *clickhouse.HTTPError
	var converter *chcolumn.ColumnConverterError
	switch {
	case errors.As(err, &exception):
		return classOfCode(exception.Code, exception.Message), int(exception.Code)
	case errors.As(err, &httpError):
		return classOfStatus(httpError.StatusCode), 0
	case errors.Is(err, errColumnMismatch), errors.As(err, &converter), untrusted(err):
		return Configuration, 0
	default:
		// The network, a timeout, a connection that was closed, a driver error that is new to us.
		return Ambiguous, 0
	}
}

// untrusted says that the server showed a certificate that is not to be believed.
func untrusted(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate)
}

// behindTable reads out of what the server reports whether it was a view, which gets the rows when the table has them: "… while pushing to
// view db.view".
func behindTable(code int, err error) bool {
	return code != 0 && strings.Contains(err.Error(), "while pushing to view ")
}

// refusedRow reads the row out of what the server says of a violated constraint: "Constraint `c` for table t (…)
// is violated at row 7. Expression: …".
func refusedRow(code int, err error) int {
	const codeViolatedConstraint = 469
	if code != codeViolatedConstraint {
		return 0
	}
	_, text, _ := strings.Cut(err.Error(), "is violated at row ")
	digits := 0
	for digits < len(text) && text[digits] >= '0' && text[digits] <= '9' {
		digits++
	}
	row, parseErr := strconv.Atoi(text[:digits])
	if parseErr != nil {
		return 0
	}
	return row
}

// classOfStatus is for answers over HTTP that did not come from ClickHouse itself but from something
// before it, such as a proxy.
func classOfStatus(status int) Class {
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return Backpressure
	case http.StatusRequestEntityTooLarge:
		return Oversize
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
		return Configuration
	default:
		return Ambiguous
	}
}

func hint(op string, class Class, code int, err error) string {
	var netError *net.OpError
	var alert tls.AlertError
	switch {
	case untrusted(err):
		return "are --clickhouse-tls-ca and --clickhouse-tls-server-name right?"
	case errors.As(err, &alert):
		return "the server refuses the connection: does it ask for a certificate (--clickhouse-tls-cert)?"
	case class == Configuration && code != 0:
		return configurationHint(code)
	case errors.As(err, &netError) && netError.Op == "dial":
		return "is ClickHouse running, and --clickhouse-dsn right?"
	case op == opConnect && errors.Is(err, io.EOF):
		return "the server closed the connection: does the port of --clickhouse-dsn speak the protocol of its scheme?"
	case op == opConnect && (errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)):
		return "the server does not answer: is it well, and does the port of --clickhouse-dsn speak the protocol of its scheme?"
	default:
		return ""
	}
}
