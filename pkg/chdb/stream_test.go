package chdb_test

import (
	"bufio"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

// Output of any size takes no more memory than a small one, in every way in which it is made.
func TestStreamBoundedMemory(t *testing.T) {
	t.Parallel()
	served := serve(t, t.TempDir())
	before := served.memory(t, "VmHWM")
	for format, rows := range map[string]string{
		"TSV": "20000000", "Native&client_protocol_version=54460": "20000000", "JSON": "5000000", "TSV&wait_end_of_query=1": "20000000",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
			"http://"+served.addr+"/?default_format="+format+"&query="+url.QueryEscape("SELECT number FROM numbers("+rows+")"), nil)
		require.NoError(t, err)
		req.Header.Set("Accept-Encoding", "identity")
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		size, err := io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Greater(t, size, int64(100<<20), format)
		t.Logf("%s: %d MB of output, at most %d MB resident", format, size>>20, served.memory(t, "VmHWM")>>20)
	}
	require.Less(t, served.memory(t, "VmHWM")-before, int64(100<<20))
	served.stop(t)
}

// A client that knows nothing of exceptions within output sees that the answer was cut off, and can read why.
func TestStreamBrokenOffIsSeen(t *testing.T) {
	t.Parallel()
	b := setup(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		b.url+"?query="+url.QueryEscape("SELECT throwIf(number = 5000000, 'on purpose') FROM numbers(10000000) SETTINGS max_threads = 1"), nil)
	require.NoError(t, err)
	req.Header.Set("Accept-Encoding", "identity")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	require.Equal(t, http.StatusOK, res.StatusCode)
	tag := res.Header.Get("X-ClickHouse-Exception-Tag")
	require.Len(t, tag, 16)
	body, err := io.ReadAll(res.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Regexp(t, "\r\n__exception__\r\n"+tag+"\r\nCode: 395. DB::Exception: on purpose.*\n[0-9]+ "+tag+"\r\n__exception__\r\n$", string(body[len(body)-500:]))
}

// The first rows of a slow query come while the rest is still being made.
func TestStreamComesAsItIsMade(t *testing.T) {
	t.Parallel()
	b := setup(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		b.url+"?query="+url.QueryEscape("SELECT repeat('x', 300000) FROM numbers(1000000000) WHERE sleepEachRow(0.001) = 0 SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0"), nil)
	require.NoError(t, err)
	req.Header.Set("Accept-Encoding", "identity")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	line, err := bufio.NewReaderSize(res.Body, 1<<20).ReadString('\n')
	require.NoError(t, err)
	require.Len(t, line, 300_001)
	require.NoError(t, res.Body.Close())
}
