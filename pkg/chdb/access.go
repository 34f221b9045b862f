package chdb

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// With a password there are two kinds of clients. The owner brings it and may do everything but reach out: no role has the grants of
// ClickHouse's SOURCES, so table functions and engines that reach files or networks are refused to all. A reader brings nothing and may
// read one database and the system tables, within limits.
//
// The engine itself enforces it, with roles and readonly=1. Three things it leaves open for a reader, and they are closed here:
//
//   - SET ROLE, KILL and other statements that need no grant, and INTO OUTFILE, which is the client's part of the engine;
//   - a second statement after the first;
//   - functions, unlike table functions, that reach out: no grant covers file().
//
// Each needs a look at the statement. What looks must not read SQL otherwise than the engine does, so the engine writes the statement
// again, from what it has parsed (formatQuerySingleLine). That text has no comments and quotes everything in one way; it is checked, and
// it is what then runs.
const (
	ownerRole  = "owner"
	readerRole = "reader"
)

const (
	// readerTimeoutMax bounds max_execution_time of a reader.
	readerTimeoutMax = time.Minute
	// readerShare is the part of what is there that all or one of the readers' statements may have: of QueriesMax, of the memory of a query,
	// of the disk for inserts.
	readerShare = 2
	// readerStatementBytesMax is max_query_size of a server, beyond which the engine does not write a statement again.
	readerStatementBytesMax = 256 << 10
)

// identity says who asks.
type identity int

const (
	unknown identity = iota
	reader
	owner
)

type identityKey struct{}

func withIdentity(r *http.Request, who identity) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), identityKey{}, who))
}

func identityOf(r *http.Request) identity {
	who, _ := r.Context().Value(identityKey{}).(identity)
	return who
}

// usersXML defines the engine's one user and its roles. A session of the owner has the roles as they are; one of a reader gives up all
// but its own.
func (c Config) usersXML() string {
	grants := func(lines ...string) string {
		var text strings.Builder
		for _, line := range lines {
			text.WriteString("<query>GRANT " + line + "</query>")
		}
		return "<grants>" + text.String() + "</grants>"
	}
	// CREATE without dictionaries, which may have a program or a URL as their source.
	owns := grants("CHECK, SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE FUNCTION, CREATE TEMPORARY TABLE, " +
		"CREATE ARBITRARY TEMPORARY TABLE, DROP, UNDROP TABLE, TRUNCATE, OPTIMIZE, KILL QUERY, KILL TRANSACTION, MOVE PARTITION BETWEEN SHARDS, " +
		"SYSTEM, dictGet, CLUSTER ON *.*")
	roles := "<" + ownerRole + ">" + owns + "</" + ownerRole + ">\n"
	has := []string{ownerRole}
	if c.ReaderDatabase != "" {
		roles += "<" + readerRole + ">" + grants("SHOW, SELECT ON "+c.ReaderDatabase+".*", "SELECT ON system.*") + "</" + readerRole + ">\n"
		has = append(has, readerRole)
	}
	return "<!-- Written again at each start. -->\n<clickhouse>\n<profiles><default/></profiles>\n<quotas><default/></quotas>\n<roles>\n" + roles +
		"</roles>\n<users><default><password></password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>" +
		grants(has...) + "</default></users>\n</clickhouse>\n"
}

// readerSettings are what a reader may set, by exact name; besides these, those that begin with one of readerPrefixes. A limit may be
// lowered; one above ours becomes ours.
func readerSettings() []string {
	return []string{
		"date_time_output_format", "extremes", "final", "join_use_nulls", "max_block_size", "max_result_bytes", "max_result_rows",
		"max_rows_to_read", "max_bytes_to_read", "max_threads", "network_compression_method", "network_zstd_compression_level", "prefer_column_name_to_alias",
		"read_overflow_mode", "result_overflow_mode", "session_timezone", "timeout_overflow_mode",
		"enable_http_compression", "add_http_cors_header", "http_write_exception_in_output_format", "send_progress_in_http_headers",
	}
}

// readerPrefixes begin the settings of output formats, and the names of query parameters.
func readerPrefixes() []string {
	return []string{"param_", "output_format_json_", "output_format_csv_", "output_format_tsv_", "output_format_pretty_"}
}

// limits are what a reader may not exceed, in the unit of the setting.
func (c Config) readerLimits() map[string]float64 {
	return map[string]float64{
		"max_execution_time":                        min(c.QueryTimeout, readerTimeoutMax).Seconds(),
		"max_memory_usage":                          float64(c.QueryMemoryBytesMax / readerShare),
		"max_temporary_data_on_disk_size_for_query": float64(c.SpoolBytesMax / 4),
	}
}

// readerRequest is the request with the settings that a reader may have, or an exception that names the first one that it may not. The
// identity of the statement is ours: with another's it could be taken for it, also when that one is to be ended.
func (e *Engine) readerRequest(req request) (request, error) {
	limits := e.config.readerLimits()
	allowed := settings{}
	for _, one := range req.settings {
		limit, limited := limits[one.name]
		switch {
		case limited:
			value, err := strconv.ParseFloat(one.value, 64)
			if err != nil {
				return req, badParameter(one.name, one.value)
			}
			if value > 0 && value < limit {
				limits[one.name] = value
			}
		case one.name == "log_comment" || one.name == "readonly": // The one is ours, the other is 1 in any case.
		case slices.Contains(readerSettings(), one.name), slices.ContainsFunc(readerPrefixes(), func(prefix string) bool { return strings.HasPrefix(one.name, prefix) }),
			e.defaults.get(one.name) == one.value:
			allowed = append(allowed, one)
		default:
			return req, &Exception{Code: codeReadonly, Message: fmt.Sprintf(
				"Setting %s may not be changed without a password. Take it out, or ask as user %s with its password. (READONLY)", one.name, e.config.User)}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		allowed = append(allowed, setting{name, strconv.FormatFloat(limits[name], 'f', -1, 64)})
	}
	req.settings, req.reader, req.readOnly = allowed, true, true
	return req, nil
}

// readerStatement is the statement as the engine writes it, if a reader may run it.
func (e *Engine) readerStatement(ctx context.Context, req request, text string) (statement, error) {
	if len(text) > readerStatementBytesMax {
		return statement{}, &Exception{Code: codeQueryTooLarge, Message: "The statement is too long. (QUERY_IS_TOO_LARGE)"}
	}
	written, err := e.written(ctx, req, text)
	if err != nil {
		return statement{}, err
	}
	if err := checkReaderStatement(written); err != nil {
		return statement{}, err
	}
	return parseStatement([]byte(written))
}

// written is the statement as the engine writes it from what it has parsed: one statement, on one line, without comments. More than one
// are a syntax error.
func (e *Engine) written(ctx context.Context, req request, text string) (string, error) {
	req.settings = nil // A parameter's value has no part in it.
	s, err := e.begin(ctx, e.readers, req)
	if err != nil {
		return "", err
	}
	defer s.end()
	res, err := s.conn.exec("SELECT formatQuerySingleLine("+quoteString(text)+")", "TSVRaw")
	if err != nil {
		return "", plainSyntaxError(err)
	}
	defer res.free()
	return strings.TrimSuffix(string(res.data()), "\n"), nil
}

// plainSyntaxError takes out of the message where in our own statement it was.
func plainSyntaxError(err error) error {
	if exception, ok := err.(*Exception); ok { //nolint:errorlint // exec returns it as it is
		message, _, _ := strings.Cut(exception.Message, ": In scope SELECT formatQuerySingleLine(")
		if message != exception.Message {
			return &Exception{Code: exception.Code, Message: message + " (SYNTAX_ERROR)"}
		}
	}
	return err
}

// checkReaderStatement refuses what the engine would not refuse a reader. The text must be the engine's own writing.
func checkReaderStatement(written string) error {
	scan := &scanner{text: []byte(written)}
	first := scan.peek()
	if !scan.isSymbol(first, '(') && !slices.ContainsFunc(readerStatements(), func(word string) bool { return scan.is(first, word) }) {
		return readerRefusal("Statements other than SELECT, SHOW, DESCRIBE, EXPLAIN and EXISTS are")
	}
	for afterColon := false; ; {
		this, typed := scan.next(), afterColon
		afterColon = scan.isSymbol(this, ':')
		switch this.kind {
		case tokenEnd:
			return nil
		case tokenBroken:
			return &Exception{Code: codeSyntaxError, Message: "Syntax error: the statement has a text that does not end. (SYNTAX_ERROR)"}
		case tokenSymbol:
			if scan.isSymbol(this, ';') {
				return &Exception{Code: codeSyntaxError, Message: "Syntax error (Multi-statements are not allowed). (SYNTAX_ERROR)"}
			}
		case tokenWord, tokenIdentifier:
			name := strings.ToLower(strings.Trim(scan.string(this), "`\""))
			if strings.ContainsRune(name, '\\') { // No name of a function, so the engine had no reason to write it so.
				return readerRefusal("Names with a backslash are")
			}
			if typed && name == "identifier" { // its value is no part of the text, and may be the name of a function
				return readerRefusal("Parameters of type Identifier are")
			}
			if name == "settings" && beginsSettings(*scan) {
				return &Exception{Code: codeReadonly, Message: "A SETTINGS clause is not allowed without a password; some settings may be parameters of the URL. (READONLY)"}
			}
			if slices.Contains(outreaching(), name) {
				return readerRefusal("The name " + name + ", which could reach a file or a network, is")
			}
		case tokenLiteral:
		}
	}
}

// beginsSettings reports whether a name, perhaps of several parts, and = follow. In a subquery and for profiles the engine takes a SETTINGS
// clause in spite of readonly, and passes over names that it does not know.
func beginsSettings(scan scanner) bool {
	if name := scan.next(); name.kind != tokenWord && name.kind != tokenIdentifier {
		return false
	}
	for {
		switch next := scan.next(); {
		case scan.isSymbol(next, '='):
			return true
		case !scan.isSymbol(next, '.'):
			return false
		}
		scan.next() // the next part
	}
}

// readerStatements are the words that a reader's statement begins with, as the engine writes it.
func readerStatements() []string {
	return []string{"SELECT", "WITH", "SHOW", "DESCRIBE", "EXPLAIN", "EXISTS"}
}

// outreaching are names, in lower case, of functions that reach files, networks or secrets and that no grant covers, and of the clauses
// that do. They are refused wherever a name stands, since a function need not be called by its name and brackets (APPLY, arrayMap).
func outreaching() []string {
	return []string{
		"file", "catboostevaluate", "showcertificate", "aiclassify", "aiextract", "aigenerate", "aitranslate", "aiembed", "aigenerateembedding",
		"hascolumnintable", // with six arguments it connects to a server
		"outfile", "infile",
	}
}

func readerRefusal(what string) error {
	return &Exception{Code: codeAccessDenied, Message: what + " not allowed without a password. (ACCESS_DENIED)"}
}

// proveReaders tries what must be refused. Readers are let in only if the engine does so.
func (e *Engine) proveReaders() error {
	ctx := context.Background()
	req, err := e.readerRequest(request{id: "start"})
	if err != nil {
		return err
	}
	for _, try := range []struct {
		sql  string
		code int
	}{
		{"SELECT 1", 0},
		{"SELECT * FROM file('none', 'LineAsString', 'line String')", codeAccessDenied},
		{"SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString', 'line String')", codeAccessDenied},
		{"CREATE TABLE system.nothing (nothing UInt8) ENGINE = Memory", codeAccessDenied},
		{"SELECT 1 SETTINGS max_execution_time = 0", codeReadonly},
	} {
		_, err := e.query(ctx, req, statement{text: try.sql}, discard)
		if (try.code == 0 && err != nil) || (try.code != 0 && !isCode(err, try.code)) {
			return fmt.Errorf("statement %q of a reader: got %v, want code %d", try.sql, err, try.code) //nolint:errorlint // nil is a value too
		}
	}
	return nil
}
