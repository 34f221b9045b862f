package chdb

import (
	"context"
	"errors"
	"strconv"
	"strings"
)

// request is what comes with a statement besides its text.
type request struct {
	id       string   // The query_id, for the log and for KILL QUERY. It must not be empty for a request of a client.
	database string   // The database of unqualified names. Empty: "default".
	format   string   // The output format of a statement that names none.
	settings settings // Of the client, on top of the engine's defaults.
	readOnly bool     // Refuse whatever changes anything.
	wholly   bool     // Give no output before all of it is there.
	reader   bool     // Of a client without a password: with the role of readers and within their limits.
}

// session is one statement's turn: a slot, and a connection that has the statement's settings and is thrown away afterwards, so that
// nothing of one client's (settings, database, temporary tables) can reach another's.
type session struct {
	engine  *Engine
	limiter *limiter
	conn    *connection
	comment string
	done    chan struct{} // Closed when the statement has ended.
	unwatch []func()
}

// begin waits for a slot and opens a session. The session must be ended.
func (e *Engine) begin(ctx context.Context, limit *limiter, req request) (*session, error) {
	if err := e.enter(); err != nil {
		return nil, err
	}
	if err := limit.acquire(ctx); err != nil {
		e.statements.Done()
		return nil, err
	}
	s := &session{engine: e, limiter: limit, done: make(chan struct{})}
	conn, err := e.lib.open(e.arguments)
	if err != nil {
		s.end()
		return nil, &Exception{Code: codeLogicalError, Message: err.Error() + ". (LOGICAL_ERROR)"}
	}
	s.conn = conn
	if err := s.prepare(req); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// prepare applies the request's settings to the connection.
func (s *session) prepare(req request) error {
	wanted := s.engine.defaults
	for _, one := range req.settings {
		if one.name != "readonly" {
			wanted = wanted.with(one.name, one.value)
		}
	}
	s.comment = wanted.get("log_comment")
	if s.comment != "" {
		s.comment += " "
	}
	s.comment += "query_id=" + req.id
	if err := s.conn.run(wanted.with("log_comment", s.comment).sql()); err != nil {
		return err
	}
	if req.reader {
		if err := s.conn.run("SET ROLE " + readerRole); err != nil {
			return err
		}
	}
	if req.database != "" && req.database != "default" {
		if err := s.conn.run("USE " + quoteIdentifier(req.database)); err != nil {
			return err
		}
	}
	if req.reader { // Also against a SETTINGS clause.
		return s.conn.run(settings{{"readonly", "1"}}.sql())
	}
	level, err := readonlyLevel(req)
	if err != nil || level == 0 {
		return err
	}
	return s.conn.run(settings{{"readonly", strconv.Itoa(level)}}.sql()) // Last, for it forbids to set anything.
}

// readonlyLevel is the client's own readonly, and at least 2 if the request must not change anything: 2 still lets the statement bring
// settings with it.
func readonlyLevel(req request) (int, error) {
	level := 0
	if text := req.settings.get("readonly"); text != "" {
		var err error
		if level, err = strconv.Atoi(text); err != nil || level < 0 || level > 2 {
			return 0, &Exception{Code: codeBadArguments, Message: "The setting readonly must be 0, 1 or 2. (BAD_ARGUMENTS)"}
		}
	}
	if req.readOnly && level == 0 {
		level = 2
	}
	return level, nil
}

// endWith makes the statement end early when ctx is done.
func (s *session) endWith(ctx context.Context) {
	finished := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(finished)
		s.engine.kill(s.comment, s.done)
	})
	s.unwatch = append(s.unwatch, func() {
		if !stop() {
			<-finished
		}
	})
}

// end closes the connection and returns the slot.
func (s *session) end() {
	close(s.done)
	for _, stop := range s.unwatch {
		stop()
	}
	if s.conn != nil {
		s.conn.close()
	}
	s.limiter.release()
	s.engine.finished.Add(1)
	s.engine.statements.Done()
}

// cause replaces the engine's "query was cancelled" by the reason why this package had it cancelled.
func (s *session) cause(ctx context.Context, err error) error {
	if !isCode(err, codeQueryWasCancelled) {
		return err
	}
	if s.engine.ending.Err() != nil {
		return &Exception{Code: codeAborted, Message: "The engine is closing. (ABORTED)"}
	}
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}

// setting is a setting of ClickHouse or, if its name begins with "param_", the value of a query parameter.
type setting struct{ name, value string }

// settings are in the order in which they are set.
type settings []setting

// with returns the settings with one of them changed or added. The receiver stays as it is.
func (s settings) with(name, value string) settings {
	changed := append(make(settings, 0, len(s)+1), s...)
	for i := range changed {
		if changed[i].name == name {
			changed[i].value = value
			return changed
		}
	}
	return append(changed, setting{name, value})
}

func (s settings) get(name string) string {
	for _, one := range s {
		if one.name == name {
			return one.value
		}
	}
	return ""
}

// sql is the statement that sets them all. The names must have been checked with settingName. SET on the connection is used, and not a
// SETTINGS clause spliced into the client's SQL, because it needs no parsing of that SQL and works for every kind of statement.
func (s settings) sql() string {
	var text strings.Builder
	text.WriteString("SET ")
	for i, one := range s {
		if i > 0 {
			text.WriteString(", ")
		}
		text.WriteString(one.name)
		text.WriteString(" = ")
		text.WriteString(quoteString(one.value))
	}
	return text.String()
}

// quoteString writes value as a string literal of ClickHouse SQL.
func quoteString(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\x00", `\0`).Replace(value) + "'"
}

// quoteIdentifier writes name as a quoted identifier of ClickHouse SQL.
func quoteIdentifier(name string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`", "\x00", `\0`).Replace(name) + "`"
}
