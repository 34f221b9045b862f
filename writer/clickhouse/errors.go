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

// Class is what a caller can do about an error.
type Class int

// The classes. An error that does not certainly belong to another class is ambiguous.
const (
	// Ambiguous: the outcome is unknown. Insert the same rows again under the same token.
	Ambiguous Class = iota
	// Backpressure: the server refused because it is overloaded or out of space. Wait, then treat as Ambiguous.
	Backpressure
	// Oversize: the server refused this block permanently, but would accept smaller ones.
	Oversize
	// Memory: the server lacked the memory for this block. It may accept smaller ones, or this one later. Whether it has
	// inserted parts of the block is unknown.
	Memory
	// Configuration: every insert fails until a person changes something. Alert, wait, retry.
	Configuration
	// Data: the server refused the content of at least one row of the block.
	Data
)

// String returns the class as a metric label.
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

// Classes returns all classes.
func Classes() []Class {
	return []Class{Ambiguous, Backpressure, Oversize, Memory, Configuration, Data}
}

// Error is an error of a call to ClickHouse.
type Error struct {
	Op     string // the operation: connect, insert, migrate, check
	Target string // addresses and table, without the password
	Class  Class
	Code   int    // ClickHouse's exception code, 0 if the error is not the server's
	Behind bool   // a materialized view refused, not the table: the rows may be in the table
	Row    int    // the row that the server names as the cause, from 1; 0 if it names none. The server can be wrong.
	Hint   string // what to do about it, or empty
	Err    error
}

// Error returns the error as one line.
func (e *Error) Error() string {
	// The server's text can span several lines, because it repeats the statement.
	text := strings.Join(strings.Fields(fmt.Sprintf("clickhouse: %s %s: %s", e.Op, e.Target, withoutRequests(e.Err.Error()))), " ")
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

// withoutRequests removes from a driver's text the requests that it quotes, with all their parameters, and its own steps
// before them: the operation and the target are more useful.
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

// Unwrap returns the driver's error.
func (e *Error) Unwrap() error { return e.Err }

// ClassOf returns the class of the [*Error] in an error, else Ambiguous.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return Ambiguous
}

// IsBehind reports whether a materialized view of the table refused: see [Error].
func IsBehind(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Behind
}

// errColumnMismatch marks what the driver refuses before it sends anything: the type of the table's column does not
// accept the writer's values.
var errColumnMismatch = errors.New("the table's column does not accept the writer's values")

const opConnect = "connect to"

func newError(op, target string, err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	class, code := classify(err)
	return &Error{Op: op, Target: target, Class: class, Code: code, Behind: behindTable(code, err), Row: refusedRow(code, err), Hint: hint(op, class, code, err), Err: err}
}

// classify assigns each error its class.
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
		// The network, a timeout, a closed connection, an unknown driver error.
		return Ambiguous, 0
	}
}

// untrusted reports whether the server's certificate failed verification.
func untrusted(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate)
}

// behindTable reports whether a view refused, which receives the rows after the table, from the server's text: "… while
// pushing to view db.view".
func behindTable(code int, err error) bool {
	return code != 0 && strings.Contains(err.Error(), "while pushing to view ")
}

// refusedRow parses the row from the server's text about a violated constraint: "Constraint `c` for table t (…) is
// violated at row 7. Expression: …".
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

// classOfStatus classifies HTTP responses that come not from ClickHouse itself but from something in front of it, such as
// a proxy.
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
		return "the server refuses the connection: does it require a client certificate (--clickhouse-tls-cert)?"
	case class == Configuration && code != 0:
		return configurationHint(code)
	case errors.As(err, &netError) && netError.Op == "dial":
		return "is ClickHouse running, and --clickhouse-dsn right?"
	case op == opConnect && errors.Is(err, io.EOF):
		return "the server closed the connection: does the port of --clickhouse-dsn match the protocol of its scheme?"
	case op == opConnect && (errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)):
		return "the server does not answer: is it healthy, and does the port of --clickhouse-dsn match the protocol of its scheme?"
	default:
		return ""
	}
}
