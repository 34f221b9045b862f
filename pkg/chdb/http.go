package chdb

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const (
	// statementBytesMax bounds the text of a statement without its data. The engine's own bound is max_query_size.
	statementBytesMax = 16 << 20
	// insertHeadBytesMax bounds the text of an INSERT up to its data, which is max_query_size of a server.
	insertHeadBytesMax = 256 << 10
)

// Handler serves ClickHouse's HTTP interface. It may be mounted at the root of any server; NewServer has one that fits.
//
//	GET  /               with query=…: a read-only statement; without: "Ok."
//	POST /               the statement in query=…, in the body, or begun in the one and continued in the other
//	GET  /ping           "Ok.", if the engine answers
//	GET  /replicas_status  likewise: there are no replicas that could lag
//	GET  /load           the engine's Load, for the owner
func (e *Engine) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", e.serveStatement)
	mux.HandleFunc("/ping", e.servePing)
	mux.HandleFunc("/replicas_status", e.servePing)
	mux.HandleFunc("GET "+LoadPath, e.serveLoad)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "There is no handle "+r.URL.Path+"\n\nUse / or /ping for health checks.\nOr / with the parameter query for statements.", http.StatusNotFound)
	})
	return e.guard(mux)
}

func (e *Engine) servePing(w http.ResponseWriter, r *http.Request) {
	if err := e.Ping(r.Context()); err != nil {
		newResponder(w, e, "").fail(err)
		return
	}
	_, _ = io.WriteString(w, "Ok.\n")
}

func (e *Engine) serveStatement(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "Use GET or POST.", http.StatusMethodNotAllowed)
		return
	}
	call, err := readCall(r)
	if call.empty(r) {
		_, _ = io.WriteString(w, "Ok.\n")
		return
	}
	answer := newResponder(w, e, call.request.id)
	if err == nil {
		err = e.answer(r, call, answer)
	}
	if err != nil {
		e.logFailure(r.Context(), call, err)
		answer.fail(err)
	}
}

// answer runs the call's statement and sends its output.
func (e *Engine) answer(r *http.Request, call call, answer *responder) error {
	body, err := call.openBody(answer.w, r)
	if err != nil {
		return err
	}
	var parsed statement
	var data io.Reader
	if identityOf(r) == reader {
		if call.request, err = e.readerRequest(call.request); err != nil {
			return err
		}
		parsed, err = e.readReader(r, call, body)
	} else {
		parsed, data, err = readStatement(call.query, body)
	}
	if err != nil {
		return err
	}
	if parsed.kind == kindInsertData {
		counted, err := e.insert(r.Context(), call.request, parsed, data)
		if err != nil {
			return err
		}
		return answer.finish(counted)
	}
	format := parsed.format
	if format == "" {
		format = call.request.format
	}
	if err := answer.begin(r, call, format); err != nil {
		return err
	}
	counted, err := e.query(r.Context(), call.request, parsed, answer.deliver)
	if err != nil {
		return err
	}
	return answer.finish(counted)
}

// readReader reads a reader's statement, query and body together, and returns it as the engine writes it.
func (e *Engine) readReader(r *http.Request, call call, body io.Reader) (statement, error) {
	text, err := readMore([]byte(call.query+"\n"), body, readerStatementBytesMax+1)
	if err != nil {
		return statement{}, err
	}
	return e.readerStatement(r.Context(), call.request, string(text))
}

// readStatement reads the statement that begins with query and continues with the body. For an INSERT with data it reads the body only as
// far as it must to find where the data begins, and returns the rest as data; anything else it reads to the end.
func readStatement(query string, body io.Reader) (statement, io.Reader, error) {
	text := make([]byte, 0, 4096)
	if query = strings.TrimSpace(query); query != "" {
		text = append(append(text, query...), '\n')
	}
	text, err := readMore(text, body, len(text)+insertHeadBytesMax)
	if err != nil {
		return statement{}, nil, err
	}
	parsed, err := parseStatement(text)
	if err != nil {
		return statement{}, nil, err
	}
	if parsed.kind == kindInsertData {
		return parsed, io.MultiReader(bytes.NewReader(text[parsed.dataAt:]), body), nil
	}
	whole, err := readMore(text, body, statementBytesMax+1)
	if err != nil {
		return statement{}, nil, err
	}
	if len(whole) > statementBytesMax {
		return statement{}, nil, &Exception{Code: codeQueryTooLarge, Message: "The statement is too long. (QUERY_IS_TOO_LARGE)"}
	}
	if len(whole) > len(text) {
		parsed, err = parseStatement(whole)
	}
	if err == nil && parsed.kind == kindInsertData {
		err = &Exception{Code: codeSyntaxError, Message: "The text of an INSERT before its data is too long. (SYNTAX_ERROR)"}
	}
	return parsed, nil, err
}

// readMore reads from body until text has limit bytes or the body ends.
func readMore(text []byte, body io.Reader, limit int) ([]byte, error) {
	if len(text) >= limit {
		return text, nil
	}
	more, err := io.ReadAll(io.LimitReader(body, int64(limit-len(text))))
	return append(text, more...), err
}

// isMistake reports whether a statement is wrong in a way that ClickHouse answers with status 500 nevertheless: the number or the
// types of arguments, aggregates in the wrong place, no common type.
func isMistake(exception *Exception) bool {
	return slices.Contains([]int{34, 35, 42, 43, 184, 215, 386}, exception.Code)
}

// logFailure logs an answer only if an operator can do something about it.
func (e *Engine) logFailure(ctx context.Context, call call, err error) {
	var exception *Exception
	who, _ := ctx.Value(identityKey{}).(identity)
	switch {
	case ctx.Err() != nil:
		e.log.Debug("ClickHouse client went away", "query_id", call.request.id, "error", err)
	case who == reader, errors.As(err, &exception) && (statusOf(exception) < http.StatusInternalServerError || isMistake(exception)): // Readers may not fill the log.
		e.log.Debug("ClickHouse statement refused", "query_id", call.request.id, "error", err)
	default:
		what := "other"
		if exception != nil {
			what = strconv.Itoa(exception.Code)
		}
		if skipped, due := e.faults.Due(what); due {
			e.log.Warn("ClickHouse statement failed", "query_id", call.request.id, "error", err, "skipped", skipped)
		}
	}
}
