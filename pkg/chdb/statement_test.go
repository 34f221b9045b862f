package chdb

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseStatementFindsKindAndFormat(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		kind   statementKind
		format string
		file   string // withOutfile, for reads.
	}{
		"SELECT 1":                               {kindRead, "", "SELECT 1\nINTO OUTFILE '/f' TRUNCATE FORMAT X"},
		"select 1 format json;":                  {kindRead, "json", "select 1 \nINTO OUTFILE '/f' TRUNCATE format json"},
		"SELECT 1 FORMAT JSON SETTINGS a = 1":    {kindRead, "JSON", "SELECT 1 \nINTO OUTFILE '/f' TRUNCATE FORMAT JSON SETTINGS a = 1"},
		"SELECT 1 SETTINGS a = 1 -- FORMAT CSV":  {kindRead, "", "SELECT 1 SETTINGS a = 1\nINTO OUTFILE '/f' TRUNCATE FORMAT X"},
		"WITH 1 AS x SELECT x FORMAT CSV":        {kindRead, "CSV", "WITH 1 AS x SELECT x \nINTO OUTFILE '/f' TRUNCATE FORMAT CSV"},
		"FROM t SELECT a":                        {kindRead, "", "FROM t SELECT a\nINTO OUTFILE '/f' TRUNCATE FORMAT X"},
		"(SELECT 1) UNION ALL (SELECT 2)":        {kindRead, "", "(SELECT 1) UNION ALL (SELECT 2)\nINTO OUTFILE '/f' TRUNCATE FORMAT X"},
		"SELECT format FROM t":                   {kindRead, "", "SELECT format FROM t\nINTO OUTFILE '/f' TRUNCATE FORMAT X"},
		"SELECT format(a, b) FROM t":             {kindRead, "", "SELECT format(a, b) FROM t\nINTO OUTFILE '/f' TRUNCATE FORMAT X"},
		"SELECT 'x FORMAT CSV'":                  {kindRead, "", "SELECT 'x FORMAT CSV'\nINTO OUTFILE '/f' TRUNCATE FORMAT X"},
		"SELECT (SELECT 1 FORMAT CSV)":           {kindRead, "", "SELECT (SELECT 1 FORMAT CSV)\nINTO OUTFILE '/f' TRUNCATE FORMAT X"},
		"SHOW TABLES FORMAT CSV":                 {kindOther, "CSV", ""},
		"CREATE TABLE t (a UInt8) ENGINE=Memory": {kindOther, "", ""},
		"INSERT INTO t SELECT 1":                 {kindOther, "", ""},
		"INSERT INTO t (SELECT 1)":               {kindOther, "", ""},
		"INSERT INTO t (a) WITH 1 AS x SELECT x": {kindOther, "", ""},
		"EXPLAIN SELECT 1":                       {kindOther, "", ""},
		"SELECT 'never ends":                     {kindRead, "", "SELECT 'never ends\nINTO OUTFILE '/f' TRUNCATE FORMAT X"},
	} {
		parsed, err := parseStatement([]byte(text))
		require.NoError(t, err, "%q", text)
		require.Equal(t, want.kind, parsed.kind, "kind of %q", text)
		require.Equal(t, want.format, parsed.format, "format of %q", text)
		if want.file != "" {
			require.Equal(t, want.file, parsed.withOutfile("/f", "X"), "to a file: %q", text)
		}
	}
}

func TestParseStatementFindsDataOfInsert(t *testing.T) {
	t.Parallel()
	const source = " FROM INFILE '/f' COMPRESSION 'none' "
	for text, want := range map[string]struct{ sql, data string }{
		"INSERT INTO t VALUES (1)":                        {"INSERT INTO t" + source + " FORMAT Values", " (1)"},
		"insert into t(a) values(1);":                     {"insert into t(a)" + source + " FORMAT Values", "(1);"},
		"INSERT INTO t FORMAT CSV\n1\n":                   {"INSERT INTO t" + source + " FORMAT CSV", "1\n"},
		"INSERT INTO t FORMAT CSV 1":                      {"INSERT INTO t" + source + " FORMAT CSV", "1"},
		"INSERT INTO t FORMAT CSV \r\n1":                  {"INSERT INTO t" + source + " FORMAT CSV", "1"},
		"INSERT INTO t FORMAT Native\n\n\x00'":            {"INSERT INTO t" + source + " FORMAT Native", "\n\x00'"},
		"INSERT INTO t FORMAT Native":                     {"INSERT INTO t" + source + " FORMAT Native", ""},
		"INSERT INTO TABLE `d;b`.\"t t\" (a, `b`) VALUES": {"INSERT INTO TABLE `d;b`.\"t t\" (a, `b`)" + source + " FORMAT Values", ""},
		"INSERT t (* EXCEPT(a)) FORMAT TSV\nx":            {"INSERT t (* EXCEPT(a))" + source + " FORMAT TSV", "x"},
		"INSERT INTO t (a) SETTINGS b = 1, c = 'VALUES' VALUES (1)": {
			"INSERT INTO t (a)" + source + "SETTINGS b = 1, c = 'VALUES'  FORMAT Values", " (1)"},
		"INSERT INTO FUNCTION null('a UInt8') VALUES (1)": {"INSERT INTO FUNCTION null('a UInt8')" + source + " FORMAT Values", " (1)"},
		"INSERT INTO FUNCTION file('f_{_partition_id}', CSV, 'a Int') PARTITION BY (a % 2) FORMAT CSV\n1": {
			"INSERT INTO FUNCTION file('f_{_partition_id}', CSV, 'a Int') PARTITION BY (a % 2)" + source + " FORMAT CSV", "1"},
		"/* VALUES */ INSERT INTO t -- x\n VALUES (1)": {"/* VALUES */ INSERT INTO t" + source + " FORMAT Values", " (1)"},
	} {
		parsed, err := parseStatement([]byte(text))
		require.NoError(t, err, "%q", text)
		require.Equal(t, kindInsertData, parsed.kind, "kind of %q", text)
		got := parsed.withInfile("/f")
		if parsed.sourceAt != parsed.tailAt { // Blanks and comments before VALUES are kept.
			got = compact(got)
		}
		require.Equal(t, compact(want.sql), compact(got), "of %q", text)
		require.Equal(t, want.data, text[parsed.dataAt:], "data of %q", text)
	}
}

func TestParseStatementRefuses(t *testing.T) {
	t.Parallel()
	for text, code := range map[string]int{
		"":                                     codeSyntaxError,
		" -- nothing":                          codeSyntaxError,
		"SELECT 1; SELECT 2":                   codeSyntaxError,
		"SELECT 1; x":                          codeSyntaxError,
		"INSERT INTO t FORMAT CSV;1":           codeSyntaxError,
		"SELECT 1 INTO OUTFILE 'x'":            codeOutfileNotAllowed,
		"SELECT 1 into /* */ outfile 'x'":      codeOutfileNotAllowed,
		"INSERT INTO t FROM INFILE 'x' VALUES": codeOutfileNotAllowed,
		"INSERT INTO t FROM\nINFILE 'x' FORMAT CSV SETTINGS a = 1": codeOutfileNotAllowed,
		"EXPLAIN SELECT 1 INTO OUTFILE 'x'":                        codeOutfileNotAllowed,
	} {
		_, err := parseStatement([]byte(text))
		require.True(t, isCode(err, code), "%q: got %v, want code %d", text, err, code)
	}
	_, err := parseStatement([]byte("SELECT 1;; ; -- end"))
	require.NoError(t, err)
}

// compact makes each run of white space and comments one blank.
func compact(sql string) string {
	scan := &scanner{text: []byte(sql)}
	text := ""
	for next := scan.next(); next.kind != tokenEnd; next = scan.next() {
		text += scan.string(next) + " "
	}
	return text
}

func TestParseException(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Exception{
		"Code: 60. DB::Exception: Table x does not exist. (UNKNOWN_TABLE)": {60, "Table x does not exist. (UNKNOWN_TABLE)"},
		"Code: 27. DB::Exception: Code: 27. DB::Exception: Cannot parse.\nAt 1. (CANNOT_PARSE) (version 26.5.1.1). (CANNOT_PARSE)": {
			27, "Cannot parse.\nAt 1. (CANNOT_PARSE)"},
		"Code: 210. DB::NetException: Connection refused. (NETWORK_ERROR)": {210, "Connection refused. (NETWORK_ERROR)"},
		"Error: something":             {codeLogicalError, "Error: something"},
		"Code: 0. DB::Exception: none": {codeLogicalError, "Code: 0. DB::Exception: none"},
	} {
		require.Equal(t, &want, parseException(text), "%q", text)
	}
}
