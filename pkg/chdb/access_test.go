package chdb_test

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// guarded is an engine with a password, in a process that nothing confines: what is refused here is refused by the engine and its roles.
type guarded struct {
	url     string
	dir     string
	outside string // A file that no client may read.
}

const secretText = "the secret outside"

func setupGuarded(t *testing.T) guarded {
	t.Helper()
	g := guarded{dir: t.TempDir()}
	g.outside = filepath.Join(g.dir, "outside")
	require.NoError(t, os.WriteFile(g.outside, []byte(secretText+"\n"), 0o600))
	served := serveWith(t, childSettings{DataDir: filepath.Join(g.dir, "data"), Password: "s3cret", ReaderDatabase: "product"})
	g.url = "http://" + served.addr + "/"
	for _, sql := range []string{
		"CREATE DATABASE product", "CREATE TABLE product.messages (id UInt64, text String) ENGINE = MergeTree ORDER BY id",
		"INSERT INTO product.messages VALUES (1, 'one'), (2, 'two')", "CREATE VIEW product.texts AS SELECT text FROM product.messages",
		"CREATE DATABASE other", "CREATE TABLE other.hidden (text String) ENGINE = MergeTree ORDER BY text", "INSERT INTO other.hidden VALUES ('hidden')",
	} {
		got := g.own(t, sql)
		require.Equal(t, http.StatusOK, got.status, "%s: %s", sql, got.body)
	}
	return g
}

// own asks as the owner.
func (g guarded) own(t *testing.T, sql string) answer {
	t.Helper()
	return send(t, http.MethodPost, g.url, sql, "X-ClickHouse-User", "default", "X-ClickHouse-Key", "s3cret")
}

// attacks are statements that no reader may run, with {file} for a file outside and {out} for one that must not be made.
func attacks() []string {
	return []string{
		// Files, by table functions and by the function that no grant covers, under every name for it.
		"SELECT * FROM file('{file}', 'LineAsString')", "SELECT * FROM FILE('{file}', 'LineAsString')", "SELECT * FROM/**/file/**/('{file}', LineAsString)",
		"SELECT * FROM '{file}'", "SELECT * FROM `{file}`", "DESCRIBE TABLE file('{file}')", "DESC file('{file}', 'LineAsString')",
		"SELECT file('{file}')", "SELECT `file`('{file}')", "SELECT \"file\"('{file}')", `SELECT "fi\x6ce"('{file}')`, "SELECT “file”('{file}')",
		"SELECT * APPLY(file) FROM (SELECT '{file}' AS x)", "SELECT * APPLY file FROM (SELECT '{file}' AS x)", "SELECT COLUMNS('x') APPLY `file` FROM (SELECT '{file}' AS x)",
		"SELECT arrayMap(file, ['{file}'])", "SELECT arrayMap(x -> file(x), ['{file}'])", "WITH file('{file}') AS x SELECT x", "EXPLAIN SELECT file('{file}')",
		"EXPLAIN QUERY TREE SELECT file('{file}')", "EXPLAIN ESTIMATE SELECT * FROM file('{file}')", "SELECT (SELECT * FROM file('{file}', 'LineAsString'))",
		"SELECT 1 WHERE 'a' IN (SELECT * FROM file('{file}', 'LineAsString'))", "SELECT * FROM view(SELECT * FROM file('{file}', 'LineAsString'))",
		"SELECT * FROM viewIfPermitted(SELECT * FROM file('{file}', 'LineAsString') ELSE null('line String'))",
		// What the engine takes for a comment or a text and a lesser reader of SQL does not.
		"SELECT 1 // '\n, file('{file}') -- '", "SELECT ‘ ' ’, file('{file}'), ‘ ' ’", "SELECT 1 # '\n, file('{file}') -- '",
		"SELECT $a$ ' $a$, file('{file}'), $a$ ' $a$", "SELECT /* ' */ file('{file}') /* ' */",
		"SELECT * FROM fileCluster('default', '{file}', 'LineAsString')", "SELECT * FROM filesystem('/etc')", "SELECT * FROM sqlite('{file}', 't')",
		"SELECT 1 INTO OUTFILE '{out}'", "SELECT 1 into/**/outfile '{out}' FORMAT CSV", "SELECT 1 // '\n INTO OUTFILE '{out}' -- '", "(SELECT 1) INTO OUTFILE '{out}' TRUNCATE",
		"INSERT INTO FUNCTION file('{out}', 'TSVRaw', 'x String') VALUES ('made')", "INSERT INTO TABLE FUNCTION file('{out}', 'TSVRaw', 'x String') SELECT 'made'",
		"INSERT INTO product.messages FROM INFILE '{file}' FORMAT TSV", "WITH 1 AS x INSERT INTO product.messages SELECT x, 'x'", "INSERT INTO product.messages VALUES (3, 'three')",
		// Networks.
		"SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "SELECT * FROM 'http://127.0.0.1:1/'", "SELECT * FROM s3('http://127.0.0.1:1/bucket/key', 'LineAsString')",
		"SELECT * FROM gcs('http://127.0.0.1:1/bucket/key', 'LineAsString')", "SELECT * FROM remote('127.0.0.1:1', system.one)", "SELECT * FROM remoteSecure('127.0.0.1:1', system.one)",
		"SELECT * FROM mysql('127.0.0.1:1', 'd', 't', 'u', 'p')", "SELECT * FROM postgresql('127.0.0.1:1', 'd', 't', 'u', 'p')", "SELECT * FROM mongodb('127.0.0.1:1', 'd', 'c', 'u', 'p', 'x String')",
		"SELECT * FROM redis('127.0.0.1:1', 'k', 'k String')", "SELECT * FROM jdbc('jdbc:x', 't')", "SELECT * FROM odbc('DSN=x', 't')", "SELECT * FROM hdfs('hdfs://127.0.0.1:1/x', 'TSV', 'x String')",
		"SELECT * FROM azureBlobStorage('http://127.0.0.1:1/', 'c', 'b', 'a', 'k')", "SELECT * FROM iceberg('http://127.0.0.1:1/x')", "SELECT * FROM deltaLake('http://127.0.0.1:1/x')",
		"SELECT * FROM executable('id', 'TSV', 'x String')", "SELECT * FROM cluster('default', other.hidden)", "SELECT aiGenerate('c', 'p')", "SELECT catboostEvaluate('{file}', 1)",
		"EXPLAIN TABLE OVERRIDE mysql('127.0.0.1:1', 'd', 't', 'u', 'p') PARTITION BY a",
		// Others' data.
		"SELECT * FROM other.hidden", "SELECT * FROM merge('other', '.*')", "SELECT * FROM product.messages UNION ALL SELECT 1, text FROM other.hidden", "SHOW CREATE TABLE other.hidden",
		"SELECT * FROM mergeTreeIndex('other', 'hidden')", "SELECT * FROM loop(other.hidden) LIMIT 1", "SELECT * FROM system.users", "EXPLAIN PIPELINE SELECT * FROM other.hidden",
		// Changes.
		"CREATE TABLE product.f (x String) ENGINE = File(TSV)", "CREATE TABLE product.u (x String) ENGINE = URL('http://127.0.0.1:1/', 'TSV')", "CREATE TABLE product.m (x String) ENGINE = Memory",
		"CREATE TEMPORARY TABLE t (x String)", "CREATE DICTIONARY product.d (a String) PRIMARY KEY a SOURCE(EXECUTABLE(command 'id' format 'TSV')) LIFETIME(0) LAYOUT(DIRECT())",
		"CREATE FUNCTION f AS (x) -> file(x)", "CREATE VIEW product.v AS SELECT 1", "CREATE USER u", "CREATE NAMED COLLECTION c AS a = 1", "DROP TABLE product.messages", "TRUNCATE TABLE product.messages",
		"ALTER TABLE product.messages DELETE WHERE 1", "OPTIMIZE TABLE product.messages", "RENAME TABLE product.messages TO product.gone", "DETACH TABLE product.messages",
		"ATTACH TABLE product.x FROM '/tmp' (a UInt8) ENGINE = MergeTree ORDER BY a", "BACKUP TABLE product.messages TO File('{out}')", "RESTORE TABLE product.messages FROM File('{file}')",
		"SYSTEM SHUTDOWN", "SYSTEM KILL", "SYSTEM RELOAD CONFIG", "SYSTEM FLUSH LOGS", "system/**/shutdown", "KILL QUERY WHERE 1", "KILL QUERY WHERE user = 'default' SYNC", "KILL MUTATION WHERE 1",
		"SET readonly = 0", "SET max_execution_time = 0", "SET ROLE owner", "SET ROLE ALL", "SET DEFAULT ROLE owner TO default", "USE other", "GRANT ALL ON *.* TO default", "EXECUTE AS default SELECT 1",
		"EXECUTE AS default", "CHECK TABLE product.messages", "DELETE FROM product.messages WHERE 1", "UPDATE product.messages SET text = '' WHERE 1", "UNDROP TABLE product.x",
		// Limits.
		"SELECT 1 SETTINGS readonly = 0", "SELECT 1 SETTINGS max_execution_time = 0", "SELECT 1 SETTINGS max_memory_usage = 0", "SELECT 1 SETTINGS profile = 'default'",
		"SELECT * FROM (SELECT 1 SETTINGS max_execution_time = 0)", "SELECT * FROM (SELECT 1 settings /* */ max_execution_time = 0) AS settings", "SELECT addressToLine(1)", "SELECT sum(sipHash64(number)) FROM numbers(1000000000000) SETTINGS allow_introspection_functions = 1",
		"SELECT * FROM (SELECT 1 SETTINGS a.b = 1, max_execution_time = 0)", "SELECT * FROM (SELECT 1 SETTINGS `x y` = 1, max_execution_time = 0)", "SELECT * FROM (SELECT 1 SETTINGS a.b.c = 1, readonly = 0)",
		// Functions by other ways.
		"SELECT hasColumnInTable('127.0.0.1:1', 'default', '', 'system', 'one', 'dummy')", "SELECT hasColumnInTable('other', 'hidden', 'text')", "SELECT HASCOLUMNINTABLE('other', 'hidden', 'text')",
		// More than one.
		"SELECT 1; SELECT 2", "SELECT 1; SET ROLE owner; SELECT * FROM other.hidden", "SELECT ‘'’; SET ROLE owner; SELECT * FROM other.hidden; SELECT ‘'’", "SELECT 1 // '\n; SELECT * FROM other.hidden -- '",
		"SELECT 1 PARALLEL WITH SELECT 2", "", ";", "\x00", "SELECT 1 \x00; DROP TABLE product.messages", "-- nothing",
	}
}

// Nothing on the list is done for a client without the password, by POST or GET, and nothing of what is outside is in the answer.
func TestReaderIsRefused(t *testing.T) {
	t.Parallel()
	g := setupGuarded(t)
	out := filepath.Join(g.dir, "out")
	for _, text := range attacks() {
		sql := strings.NewReplacer("{file}", g.outside, "{out}", out).Replace(text)
		for name, got := range map[string]answer{
			"POST": send(t, http.MethodPost, g.url, sql), "GET": send(t, http.MethodGet, g.url+"?query="+url.QueryEscape(sql), ""),
			"in halves": send(t, http.MethodPost, g.url+"?query="+url.QueryEscape(sql[:len(sql)/2]), sql[len(sql)/2:]),
			"of a file": send(t, http.MethodPost, g.url+"?default_format=Vertical&query="+url.QueryEscape(sql), ""),
		} {
			if got.status == http.StatusOK {
				t.Errorf("%s: %q: got 200: %s", name, sql, got.body)
			}
			require.NotContains(t, got.body, secretText, "%s: %q", name, sql)
			require.NotContains(t, got.body, "uid=", "%s: %q", name, sql)
		}
	}
	require.NoFileExists(t, out)
	require.Equal(t, "2\n", g.own(t, "SELECT count() FROM product.messages").body)
	require.Equal(t, "1\n", g.own(t, "SELECT count() FROM other.hidden").body)
	require.Equal(t, "messages\ntexts\n", g.own(t, "SELECT name FROM system.tables WHERE database = 'product' ORDER BY name").body)
}

// The value of a parameter is not in the statement that is checked.
func TestReaderNamesNoFunctionByParameter(t *testing.T) {
	t.Parallel()
	g := setupGuarded(t)
	for _, sql := range []string{
		"SELECT arrayMap({f:Identifier}, ['" + g.outside + "'])", "SELECT arrayMap({ f : Identifier }, ['" + g.outside + "'])", "SELECT * APPLY({f:Identifier}) FROM (SELECT '" + g.outside + "' AS x)",
		"SELECT * FROM {f:Identifier}('" + g.outside + "', 'LineAsString')",
	} {
		got := send(t, http.MethodGet, g.url+"?param_f=file&query="+url.QueryEscape(sql), "")
		require.NotEqual(t, http.StatusOK, got.status, sql)
		require.NotContains(t, got.body, secretText, sql)
	}
}

// Every table function that the engine knows is refused, but for those that reach nothing.
func TestReaderHasNoTableFunctionThatReaches(t *testing.T) {
	t.Parallel()
	g := setupGuarded(t)
	harmless := map[string]bool{}
	for _, name := range []string{ // They read what the reader may read, or nothing.
		"fuzzQuery", "mergeTreeProjection", "clusterAllReplicas", "viewIfPermitted", "view", "mergeTreeTextIndex", "mergeTreeAnalyzeIndexesUUID", "numbers_mt", "mergeTreeIndex",
		"generateRandom", "SQLStandardValues", "merge", "fuzzJSON", "values", "mergeTreeAnalyzeIndexes", "input", "null", "generateSeries", "generate_series", "cluster", "primes", "numbers",
	} {
		harmless[name] = true
	}
	got := g.own(t, "SELECT name FROM system.table_functions WHERE allow_readonly FORMAT TSV")
	require.Equal(t, http.StatusOK, got.status, got.body)
	for name := range strings.Lines(got.body) {
		require.True(t, harmless[strings.TrimSpace(name)], "table function %s is open to readers; look what it reaches", name)
	}
}

// What a reader is for.
func TestReaderReads(t *testing.T) {
	t.Parallel()
	g := setupGuarded(t)
	for sql, want := range map[string]string{
		"SELECT count() FROM product.messages":                               "2\n",
		"SELECT text FROM product.texts ORDER BY text FORMAT TSV":            "one\ntwo\n",
		"WITH 2 AS x SELECT text FROM product.messages WHERE id = x":         "two\n",
		"(SELECT 1) UNION ALL (SELECT 1);":                                   "1\n1\n",
		"-- a comment\nselect 'file; INTO OUTFILE' -- and another":           "file; INTO OUTFILE\n",
		"SHOW TABLES FROM product":                                           "messages\ntexts\n",
		"EXISTS TABLE product.messages":                                      "1\n",
		"SELECT count() > 0 FROM system.columns WHERE table = 'messages'":    "1\n",
		"SELECT 'a\\'b\\\\', `x y` FROM (SELECT 1 AS `x y`) FORMAT TSVRaw":   "a'b\\\t1\n",
		"SELECT * FROM product.messages ORDER BY id LIMIT 1 FORMAT Vertical": "Row 1:\n──────\nid:   1\ntext: one\n",
		"SELECT count() > 0 FROM system.settings":                            "1\n",
	} {
		got := send(t, http.MethodGet, g.url+"?query="+url.QueryEscape(sql), "")
		require.Equal(t, want, got.body, "%s", sql)
		require.Equal(t, want, send(t, http.MethodPost, g.url, sql).body, "%s", sql)
	}
	require.Equal(t, "two\n", send(t, http.MethodGet, g.url+"?database=product&param_id=2&max_execution_time=100000&max_threads=1&query="+
		url.QueryEscape("SELECT text FROM messages WHERE id = {id:UInt64}"), "").body)
	require.Equal(t, "60\t1\n", send(t, http.MethodPost, g.url+"?max_execution_time=0", "SELECT getSetting('max_execution_time'), getSetting('readonly')").body)
	require.Contains(t, send(t, http.MethodPost, g.url, "EXPLAIN SELECT * FROM product.messages").body, "ReadFromMergeTree")
	require.NoError(t, connect(t, strings.Trim(strings.TrimPrefix(g.url, "http://"), "/"), "product").Ping(t.Context()))
}

// Settings in the URL widen nothing, and pages of other sites get nothing.
func TestReaderCannotWiden(t *testing.T) {
	t.Parallel()
	g := setupGuarded(t)
	const plain = "?query=SELECT+1"
	for _, parameter := range []string{
		"allow_introspection_functions=1", "format_schema=/etc/passwd", "output_format_schema=/tmp/x", "profile=default", "allow_ddl=1", "max_query_size=1", "log_queries=1",
		"external_storage_max_read_rows=1", "session_id=a", "max_memory_usage=x", "async_insert=1", "additional_table_filters=x",
	} {
		require.NotEqual(t, http.StatusOK, send(t, http.MethodGet, g.url+plain+"&"+parameter, "").status, parameter)
	}
	for _, parameter := range []string{"readonly=0", "readonly=2", "async_insert=0", "role=owner", "log_comment=x", "query_id=x"} {
		require.Equal(t, http.StatusOK, send(t, http.MethodGet, g.url+plain+"&"+parameter, "").status, parameter)
	}
	require.Equal(t, "1\n", send(t, http.MethodPost, g.url+"?readonly=0", "SELECT getSetting('readonly')").body)
	require.NotEqual(t, "mine", send(t, http.MethodGet, g.url+plain+"&query_id=mine", "").header.Get("X-ClickHouse-Query-Id"))
	for name, headers := range map[string][]string{
		"cross-site POST": {"Origin", "http://evil.example", "Content-Type", "text/plain"}, "rebound name": {"Host", "evil.example"},
		"cross-site GET": {"Sec-Fetch-Site", "cross-site"}, "wrong password": {"X-ClickHouse-User", "default", "X-ClickHouse-Key", "guess"}, "other user": {"X-ClickHouse-User", "admin"},
	} {
		require.Equal(t, http.StatusForbidden, send(t, http.MethodPost, g.url, "SELECT 1", headers...).status, name)
	}
	require.Equal(t, http.StatusForbidden, send(t, http.MethodGet, g.url+"load", "").status)
}

// The owner's roles have no grant of a source either.
func TestOwnerReachesNothing(t *testing.T) {
	t.Parallel()
	g := setupGuarded(t)
	for _, sql := range []string{
		"SELECT * FROM file('" + g.outside + "', 'LineAsString')", "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "SELECT * FROM remote('127.0.0.1:1', system.one)",
		"CREATE TABLE product.f (x String) ENGINE = File(TSV, '" + g.outside + "')", "CREATE TABLE product.u (x String) ENGINE = URL('http://127.0.0.1:1/', 'TSV')",
		"CREATE DICTIONARY product.d (a String) PRIMARY KEY a SOURCE(EXECUTABLE(command 'id' format 'TSV')) LIFETIME(0) LAYOUT(DIRECT())",
		"CREATE DATABASE d ENGINE = SQLite('" + g.outside + "')", "INSERT INTO FUNCTION file('" + g.outside + "', 'TSVRaw', 'x String') VALUES ('made')",
	} {
		got := g.own(t, sql)
		require.Equal(t, http.StatusForbidden, got.status, "%s: %s", sql, got.body)
		require.Contains(t, got.body, "ACCESS_DENIED", sql)
	}
}
