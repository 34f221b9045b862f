package chdb_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/stretchr/testify/require"
)

func TestHTTPWithoutQuery(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, path := range []string{"", "ping", "replicas_status"} {
		got := send(t, http.MethodGet, b.url+path, "")
		require.Equal(t, http.StatusOK, got.status, path)
		require.Equal(t, "Ok.\n", got.body, path)
	}
	require.Equal(t, http.StatusNotFound, send(t, http.MethodGet, b.url+"nosuch", "").status)
	require.Equal(t, http.StatusMethodNotAllowed, send(t, http.MethodDelete, b.url+"?query=SELECT+1", "").status)
	require.Equal(t, http.StatusOK, send(t, http.MethodHead, b.url+"?query=SELECT+1", "").status)
}

func TestHTTPFormats(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, "CREATE TABLE t (id UInt64, name String) ENGINE = MergeTree ORDER BY id")
	require.Equal(t, http.StatusOK, b.post(t, "", "INSERT INTO t VALUES (1, 'a'), (2, 'b;c')").status)

	const query = "&query=SELECT+*+FROM+t+ORDER+BY+id"
	require.Equal(t, "1\ta\n2\tb;c\n", b.get(t, query).body)
	require.Equal(t, "1,\"a\"\n2,\"b;c\"\n", b.get(t, query+"&default_format=CSV").body)
	require.Equal(t, "1,\"a\"\n2,\"b;c\"\n", b.get(t, query, "X-ClickHouse-Format", "CSV").body)
	require.Equal(t, "1,\"a\"\n2,\"b;c\"\n", b.get(t, query+"+FORMAT+CSV&default_format=JSON").body)
	require.Equal(t, "Row 1:\n──────\nid:   1\nname: a\n\nRow 2:\n──────\nid:   2\nname: b;c\n", b.get(t, query+"+FORMAT+Vertical").body)
	require.Equal(t, "id\tname\n1\ta\n2\tb;c\n", b.get(t, query+"+FORMAT+TSVWithNames").body)
	require.Empty(t, b.get(t, query+"+FORMAT+Null").body)

	got := b.get(t, query+"&default_format=JSON&query_id=mine&output_format_json_quote_64bit_integers=1")
	require.Equal(t, "application/json; charset=UTF-8", got.header.Get("Content-Type"))
	require.Equal(t, "JSON", got.header.Get("X-ClickHouse-Format"))
	require.Equal(t, "mine", got.header.Get("X-ClickHouse-Query-Id"))
	require.Equal(t, shared.engine.Timezone(), got.header.Get("X-ClickHouse-Timezone"))
	require.NotEmpty(t, got.header.Get("X-ClickHouse-Server-Display-Name"))
	var summary map[string]string
	require.NoError(t, json.Unmarshal([]byte(got.header.Get("X-ClickHouse-Summary")), &summary))
	require.Equal(t, "2", summary["read_rows"])
	require.Equal(t, "2", summary["result_rows"])
	var document struct{ Data []struct{ ID, Name string } }
	require.NoError(t, json.Unmarshal([]byte(got.body), &document))
	require.Equal(t, []struct{ ID, Name string }{{"1", "a"}, {"2", "b;c"}}, document.Data)
}

// The formats that go out block by block are whole documents however many blocks there are, and so are the others.
func TestHTTPOutputOfManyBlocks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const rows = 300_000 // Five blocks.
	for _, format := range []string{"TSV", "CSV", "JSONEachRow", "TSVWithNames", "JSONCompactEachRowWithNames", "RawBLOB", "RowBinary"} {
		got := b.post(t, "&default_format="+format, "SELECT number FROM numbers(300000)")
		require.Equal(t, http.StatusOK, got.status)
		lines := strings.Count(got.body, "\n")
		switch format {
		case "RawBLOB", "RowBinary":
			require.Equal(t, rows*8, len(got.body)) //nolint:testifylint // Len would print it all.
		case "TSVWithNames", "JSONCompactEachRowWithNames":
			require.Equal(t, rows+1, lines, format)
		default:
			require.Equal(t, rows, lines, format)
		}
	}
	got := b.post(t, "&default_format=JSON", "SELECT number FROM numbers(300000)")
	var document struct {
		Rows int
		Data []any
	}
	require.NoError(t, json.Unmarshal([]byte(got.body), &document))
	require.Equal(t, rows, document.Rows)
	require.Len(t, document.Data, rows)

	got = b.post(t, "", "SELECT number % 2 AS n, count() FROM numbers(10) GROUP BY n WITH TOTALS")
	require.Equal(t, "0\t5\n1\t5\n\n0\t10\n", got.body)
	require.Empty(t, b.post(t, "", "SELECT number FROM numbers(10) WHERE number > 10").body)
	// A query whose first row comes late, and whose blocks are mostly empty.
	require.Equal(t, "1\n50000001\n", b.post(t, "", "SELECT number FROM numbers(100000000) WHERE number % 50000000 = 1").body)
}

func TestHTTPErrors(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
	for _, c := range []struct {
		parameters, query, code string
		status                  int
	}{
		{"", "SELECT * FROM nosuch", "60", 404},
		{"", "SELECT * FROM nosuch FORMAT JSON", "60", 404},
		{"", "SELECT nosuch", "47", 404},
		{"", "SELECT nosuch()", "46", 404},
		{"", "SELEC 1", "62", 400},
		{"", "1 + 1", "62", 400},
		{"", "", "62", 400},
		{"", "SELECT 1; SELECT 2", "62", 400},
		{"", "SELECT 1 FORMAT NoSuch", "73", 404},
		{"&default_format=No%27Such", "SELECT 1", "73", 404},
		{"&database=nosuch", "SELECT 1", "81", 404},
		{"&nosuch=1", "SELECT 1", "115", 404},
		{"&a%20b=1", "SELECT 1", "408", 400},
		{"&max_threads=many", "SELECT 1", "27", 400},
		{"&readonly=7", "SELECT 1", "36", 400},
		{"&readonly=1", "CREATE TABLE u (a UInt8) ENGINE = Memory", "164", 500},
		{"&max_execution_time=0.2", "SELECT sleepEachRow(1) FROM numbers(3)", "159", 408},
		{"&max_memory_usage=10000000", "SELECT groupArray(number) FROM numbers(100000000)", "241", 500},
		{"&session_id=1", "SELECT 1", "48", 501},
		{"&client_protocol_version=x", "SELECT 1", "408", 400},
		{"&compress=1&network_compression_method=lzma", "SELECT 1", "89", 400},
		{"", "SELECT 1 INTO OUTFILE 'x'", "358", 400},
		{"", "INSERT INTO t FROM INFILE 'x' FORMAT CSV", "358", 400},
		{"", "INSERT INTO nosuch VALUES (1)", "60", 404},
		{"", "INSERT INTO t VALUES (1, 2, 3", "62", 400},
		{"", "INSERT INTO t FORMAT Native\nthis is not the Native format", "33", 500},
		{"", "INSERT INTO t FORMAT JSONEachRow\n{\"a\":\"x\"}", "27", 400},
		{"", "INSERT INTO t FORMAT JSONEachRow\n{\"a\":", "32", 500},
		{"", "SELECT throwIf(number = 250000) FROM numbers(300000) FORMAT JSON", "395", 500},
		{"&wait_end_of_query=1", "SELECT throwIf(number = 250000) FROM numbers(300000)", "395", 500},
	} {
		got := b.post(t, c.parameters, c.query)
		require.Equal(t, c.status, got.status, "status of %s %q: %s", c.parameters, c.query, got.body)
		require.Equal(t, c.code, got.header.Get("X-ClickHouse-Exception-Code"), "code of %s %q", c.parameters, c.query)
		require.Regexp(t, `^Code: `+c.code+`\. DB::Exception: (?s:.+) \([A-Z_]+\) \(version [0-9.]+\)\n$`, got.body, "%s %q", c.parameters, c.query)
		require.NotContains(t, got.body, "spool", "%s %q", c.parameters, c.query)
	}
	require.EqualValues(t, 0, b.count(t, "SELECT count() FROM t"))
}

func TestHTTPGetIsReadOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
	for _, query := range []string{
		"INSERT INTO t VALUES (1)", "INSERT INTO t SELECT 1", "DROP TABLE t", "CREATE TABLE u (a UInt8) ENGINE = Memory",
		"SET readonly = 0", "SELECT 1 SETTINGS readonly = 0",
	} {
		got := b.get(t, "&query="+url.QueryEscape(query))
		require.Equal(t, "164", got.header.Get("X-ClickHouse-Exception-Code"), "%q: %s", query, got.body)
	}
	require.Equal(t, "164", b.get(t, "&readonly=0&query=DROP+TABLE+t").header.Get("X-ClickHouse-Exception-Code"))
	require.Equal(t, "3\n", b.get(t, "&max_threads=3&query=SELECT+getSetting('max_threads')").body)
	require.Equal(t, "t\n", b.get(t, "&query=SHOW+TABLES").body)
}

func TestHTTPSettingsParametersAndDatabase(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.Equal(t, b.database+"\n", b.post(t, "", "SELECT currentDatabase()").body)
	require.Equal(t, "system\n", send(t, http.MethodPost, b.url, "SELECT currentDatabase()", "X-ClickHouse-Database", "system").body)
	require.Equal(t, "default\n", send(t, http.MethodPost, b.url, "SELECT currentDatabase()").body)
	require.Equal(t, "12\n", b.post(t, "&max_threads=12", "SELECT getSetting('max_threads')").body)
	// What one statement sets, the next one does not see.
	require.Equal(t, http.StatusOK, b.post(t, "", "SET max_threads = 13").status)
	require.NotEqual(t, "13\n", b.post(t, "", "SELECT getSetting('max_threads')").body)

	value := "tab\\there ' \\\\ \"quoted\" ☃"
	got := b.post(t, "&param_text="+url.QueryEscape(value)+"&param_n=7&param_list="+url.QueryEscape("['a','b']"),
		"SELECT {text:String}, {n:UInt8} + 1, {list:Array(String)}[2] FORMAT JSONCompactEachRow")
	require.Equal(t, `["tab\there ' \\ \"quoted\" ☃", 8, "b"]`+"\n", got.body)
	require.Equal(t, "456", b.post(t, "", "SELECT {missing:String}").header.Get("X-ClickHouse-Exception-Code"))

	// The statement may begin in the URL and continue in the body.
	require.Equal(t, "3\n", b.post(t, "&query=SELECT+1%2B", "2").body)
	b.exec(t, "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
	for query, body := range map[string]string{
		"INSERT INTO t VALUES": "(1), (2)", "INSERT INTO t FORMAT CSV": "3\n", "INSERT INTO t ": "VALUES (4)", "": "INSERT INTO t FORMAT CSV\n5\n6",
		"INSERT INTO t FORMAT CSV\n": "7\n", "INSERT INTO t SELECT": "8",
	} {
		got := b.post(t, "&query="+url.QueryEscape(query), body)
		require.Equal(t, http.StatusOK, got.status, "%q + %q: %s", query, body, got.body)
	}
	require.Equal(t, "1,2,3,4,5,6,7,8\n", b.post(t, "", "SELECT arrayStringConcat(arraySort(groupArray(a)), ',') FROM t").body)
}

func TestHTTPCompression(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(t, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
	var data strings.Builder
	for range 100_000 {
		data.WriteString("42\n")
	}
	var zipped bytes.Buffer
	zipper := gzip.NewWriter(&zipped)
	_, err := io.WriteString(zipper, data.String())
	require.NoError(t, err)
	require.NoError(t, zipper.Close())
	got := b.post(t, "&query=INSERT+INTO+t+FORMAT+CSV", zipped.String(), "Content-Encoding", "gzip")
	require.Equal(t, http.StatusOK, got.status, got.body)

	frames := compress.NewWriter(compress.LevelZero, compress.LZ4)
	require.NoError(t, frames.Compress([]byte(data.String())))
	got = b.post(t, "&decompress=1&query=INSERT+INTO+t+FORMAT+CSV", string(frames.Data))
	require.Equal(t, http.StatusOK, got.status, got.body)
	require.EqualValues(t, 200_000, b.count(t, "SELECT count() FROM t WHERE a = 42"))

	for _, size := range []string{"10", "150000"} { // Within what is held back, and beyond.
		want := b.get(t, "&query=SELECT+number+FROM+numbers("+size+")").body
		for _, encoding := range []string{"gzip", "deflate", "br", "zstd"} {
			got = b.get(t, "&query=SELECT+number+FROM+numbers("+size+")", "Accept-Encoding", encoding)
			require.Equal(t, encoding, got.header.Get("Content-Encoding"))
			require.Less(t, len(got.body), len(want)+50)
		}
		for _, method := range []string{"lz4", "zstd"} {
			got = b.get(t, "&compress=1&network_compression_method="+method+"&query=SELECT+number+FROM+numbers("+size+")", "Accept-Encoding", "identity")
			plain, err := io.ReadAll(eofReader{compress.NewReader(strings.NewReader(got.body))})
			require.NoError(t, err)
			require.Equal(t, want, string(plain))
		}
	}

	for _, c := range []struct{ parameters, body, encoding, code string }{
		{"&decompress=1", "this is no frame, but it is long enough for the head of one", "", "271"},
		{"&decompress=1", string(frames.Data[:len(frames.Data)-1]), "", "271"},
		{"&decompress=1", string(frames.Data[:10]), "", "271"},
		{"", "not zipped", "gzip", "271"},
		{"", zipped.String()[:zipped.Len()-9], "gzip", "271"},
		{"", "x", "lzma", "89"},
	} {
		got = b.post(t, c.parameters+"&query=INSERT+INTO+t+FORMAT+CSV", c.body, "Content-Encoding", c.encoding)
		require.Equal(t, c.code, got.header.Get("X-ClickHouse-Exception-Code"), "%v: %s", c.parameters, got.body)
	}
	require.EqualValues(t, 200_000, b.count(t, "SELECT count() FROM t"))
}

// eofReader returns a plain io.EOF if ch-go wraps it.
type eofReader struct{ from io.Reader }

func (r eofReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if err != nil && strings.Contains(err.Error(), "EOF") {
		err = io.EOF
	}
	return n, err
}

func TestHTTPRefusesOtherSites(t *testing.T) {
	t.Parallel()
	b := setup(t)
	host := strings.TrimSuffix(strings.TrimPrefix(b.url, "http://"), "/")
	for _, headers := range [][]string{
		{"Origin", "http://evil.example"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"},
		{"Host", "evil.example:8123"},
	} {
		got := b.post(t, "", "SELECT 1", headers...)
		require.Equal(t, http.StatusForbidden, got.status, "%v", headers)
		require.Equal(t, "516", got.header.Get("X-ClickHouse-Exception-Code"))
	}
	for _, headers := range [][]string{
		{"Origin", "http://" + host}, {"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}, {"Host", "localhost:8123"},
		{"Host", "[::1]:8123"}, {"X-ClickHouse-User", "anyone", "X-ClickHouse-Key", "anything"},
	} {
		require.Equal(t, http.StatusOK, b.post(t, "", "SELECT 1", headers...).status, "%v", headers)
	}
	form := b.post(t, "", "--x--\r\n", "Content-Type", "multipart/form-data; boundary=x")
	require.Equal(t, http.StatusNotImplemented, form.status)
}
