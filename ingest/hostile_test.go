package ingest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/internal/ingesttest"
)

// TestHostileInputs writes malicious and malformed input to the API's port. Each gets a 4xx in the error shape, and no
// other client is affected.
func TestHostileInputs(t *testing.T) { //nolint:paralleltest // counts all goroutines
	var log syncBuffer
	b := setup(t, options{log: slog.New(slog.NewTextHandler(&log, nil))})
	b.sequence()
	require.Equal(t, http.StatusOK, b.post(example).status)
	b.client.CloseIdleConnections()
	require.Eventually(t, func() bool { return b.service.listener.Open() == 0 }, testTimeout, time.Millisecond)
	door := []string{"net/http.(*", "ingest.(*listener)", "ingest.(*conn)", "ingest.(*tlsConn)", "fastpath.(*"}
	goroutines := goroutinesOf(door...)

	rows := hostileInputs()
	require.GreaterOrEqual(t, len(rows), 500)
	t.Logf("%d inputs", len(rows))
	for _, row := range rows { //nolint:paralleltest // see above
		t.Run(row.name, func(t *testing.T) { b.attack(t, row, false) })
		t.Run(row.name+", after a send", func(t *testing.T) { b.attack(t, row, true) })
	}

	require.Equal(t, http.StatusOK, b.post(with(``)).status, "it serves as before")
	b.client.CloseIdleConnections()
	require.Eventually(t, func() bool { return b.service.listener.Open() == 0 }, testTimeout, time.Millisecond)
	require.Eventually(t, func() bool { return goroutinesOf(door...) <= goroutines }, testTimeout, time.Millisecond, "goroutines are left")
	require.NotContains(t, log.String(), "panic")
	require.Zero(t, b.metric("sendhouse_ingest_requests_total", `reason="internal"`))
	require.Equal(t, int64(b.service.cfg.BodiesBytesMax), b.service.requests.Budget.Left(), "all memory was given back")
}

// goroutinesOf counts the goroutines with one of these words in their stack.
func goroutinesOf(words ...string) (n int) {
	for stack := range strings.SplitSeq(stacks(), "\n\n") {
		if slices.ContainsFunc(words, func(word string) bool { return strings.Contains(stack, word) }) {
			n++
		}
	}
	return n
}

// attack writes an input and checks every response to it. After a send, the input arrives on a connection of the fast
// path.
func (b *bundle) attack(t *testing.T, row hostileInput, behindSend bool) {
	t.Helper()
	c, err := net.Dial("tcp", b.service.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(testTimeout)))
	in := bufio.NewReader(c)
	if behindSend {
		_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", pathSend, len(example), example)
		require.NoError(t, err)
		res, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	written := make(chan struct{})
	go func() { // concurrently with reading: the response may arrive before everything is written
		defer close(written)
		_, _ = io.WriteString(c, row.raw) // the server may have closed the connection
		if row.cut {
			_ = c.(*net.TCPConn).CloseWrite()
		}
	}()
	method, _, _ := strings.Cut(row.raw, " ")
	answers := 0
	for {
		res, err := http.ReadResponse(in, &http.Request{Method: method})
		if answers > 0 || row.cut {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
				break
			}
		}
		require.NoError(t, err)
		if res.StatusCode == http.StatusContinue {
			continue
		}
		answers++
		requireRefused(t, res, method == http.MethodHead)
		if answers == 1 && !row.cut {
			<-written
			_ = c.(*net.TCPConn).CloseWrite() // the rest of the responses must come now
		}
	}
	<-written
	if row.alone {
		require.Equal(t, 1, answers)
	}
}

// requireRefused checks that a response is 4xx and has the error shape.
func requireRefused(t *testing.T, res *http.Response, headOnly bool) {
	t.Helper()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	g := got{status: res.StatusCode, header: res.Header, raw: string(raw)}
	require.True(t, g.status >= 400 && g.status < 500, "%d %s", g.status, raw)
	if headOnly {
		require.Equal(t, "application/json", res.Header.Get("Content-Type"))
		return
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&g.body), "%s", raw)
	requireShape(t, g)
}

// TestServersOwnAnswers: if a request does not reach a handler, net/http responds by itself. Each of these responses has
// the error shape too.
func TestServersOwnAnswers(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	for _, row := range []struct {
		name, raw string
		status    int
		code, msg string
	}{
		{"a malformed request line", "nonsense\r\n\r\n", 400, "malformed_request", "the request is not valid HTTP/1.1"},
		{"a malformed header", "GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400, "malformed_request", "the request is not valid HTTP/1.1"},
		{"a header flood", "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 100_000) + "\r\n\r\n", 431, "header_too_large", "the header of the request is too large"},
		{"no host", "GET / HTTP/1.1\r\n\r\n", 400, "malformed_request", "missing required Host header"},
		{"a malformed host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "malformed_request", "malformed Host header"},
		{"a bad header value", "GET / HTTP/1.1\r\nHost: x\r\nX: a\x01b\r\n\r\n", 400, "malformed_request", "the request is not valid HTTP/1.1"},
		{"an unknown transfer encoding", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "malformed_request", "Transfer-Encoding may only be chunked"},
		{"a bad length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400, "malformed_request", "the request is not valid HTTP/1.1"},
		{"another version", "GET / HTTP/3.0\r\nHost: x\r\n\r\n", 400, "malformed_request", "unsupported protocol version"},
		{"an expectation", "POST /message/send HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: more\r\n\r\n{}", 417, "expectation_failed", "100-continue"},
		{"after a good request", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n", 400, "malformed_request", "the request is not valid HTTP/1.1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", b.service.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, c.SetDeadline(time.Now().Add(testTimeout)))
			_, err = io.WriteString(c, row.raw)
			require.NoError(t, err)
			in := bufio.NewReader(c)
			res, err := http.ReadResponse(in, nil) //nolint:bodyclose // the connection is closed
			require.NoError(t, err)
			if res.StatusCode == http.StatusOK {
				_, err := io.Copy(io.Discard, res.Body)
				require.NoError(t, err)
				res, err = http.ReadResponse(in, nil) //nolint:bodyclose // see above
				require.NoError(t, err)
			}
			require.Equal(t, row.status, res.StatusCode)
			require.True(t, res.Close)
			raw, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			var body map[string]any
			require.NoError(t, json.Unmarshal(raw, &body), "%s", raw)
			require.Equal(t, row.code, body["code"])
			require.Contains(t, body["msg"], row.msg)
			_, err = in.ReadByte()
			require.ErrorIs(t, err, io.EOF, "and the connection ends")
		})
	}
}

// TestRefusedWhileUploading: a client that writes its whole request before it reads, as most do, gets the response to a
// large body, on the fast path, from net/http, and over TLS.
func TestRefusedWhileUploading(t *testing.T) {
	t.Parallel()
	tokens := tokenFile(t, tokenLine("send", "sender"))
	ca, files := ingesttest.NewAuthority(t, "ca"), ingesttest.NewTLSFiles(t)
	cert, key := ca.Sign("sendhouse")
	files.Write(t, cert, key)
	plain := setup(t, options{partitions: 1, config: func(c *Config) { c.Access.APITokensFile = tokens }})
	secured := setup(t, options{partitions: 1, config: func(c *Config) {
		c.Access.APITokensFile, c.Access.TLSCertFile, c.Access.TLSKeyFile = tokens, files.Cert, files.Key
	}})
	const authorization, asJSON = "Authorization: Bearer sender", "Content-Type: application/json"
	large, endless := bytes.Repeat([]byte("x"), 12<<20), strings.Repeat(fmt.Sprintf("%x\r\n%s\r\n", 1<<20, bytes.Repeat([]byte("x"), 1<<20)), 12)+"0\r\n\r\n"
	length := fmt.Sprintf("Content-Length: %d", len(large))
	for _, row := range []struct {
		name   string
		head   string // the request line without the protocol
		fields []string
		status int
	}{
		{"no token", "POST /message/send", []string{asJSON, length}, http.StatusUnauthorized},
		{"no token, by net/http", "POST /message/send?", []string{asJSON, length}, http.StatusUnauthorized},
		{"media type", "POST /message/send", []string{authorization, "Content-Type: text/plain", length}, http.StatusUnsupportedMediaType},
		{"too large", "POST /message/send", []string{authorization, asJSON, length}, http.StatusRequestEntityTooLarge},
		{"too large, by net/http", "POST /message/send?", []string{authorization, asJSON, length}, http.StatusRequestEntityTooLarge},
		{"too large, in chunks", "POST /message/send", []string{authorization, asJSON, "Transfer-Encoding: chunked"}, http.StatusRequestEntityTooLarge},
		{"bulk without token", "POST /message/sendbulk", []string{asJSON, length}, http.StatusUnauthorized},
		{"bulk of another type", "POST /message/sendbulk", []string{authorization, "Content-Type: text/plain", length}, http.StatusUnsupportedMediaType},
		{"no scope", "POST /user/systemuids_add", []string{authorization, asJSON, length}, http.StatusForbidden},
		{"no route", "POST /nothing", []string{authorization, asJSON, length}, http.StatusNotFound},
		{"no method", "PUT /message/send", []string{authorization, asJSON, length}, http.StatusMethodNotAllowed},
		{"net/http's own", "POST /message/send", []string{"Host: second", length}, http.StatusBadRequest},
		{"net/http's own, a long head", "POST /message/send", []string{"X: " + strings.Repeat("x", 64<<10), length}, http.StatusRequestHeaderFieldsTooLarge},
	} {
		for name, b := range map[string]*bundle{"plain": plain, "TLS": secured} {
			t.Run(row.name+" "+name, func(t *testing.T) {
				t.Parallel()
				var c net.Conn = b.dial(t)
				if b == secured {
					config := secureClient(t, ca).Transport.(*http.Transport).TLSClientConfig.Clone()
					config.ServerName = "127.0.0.1"
					c = tls.Client(c, config)
				}
				_, err := fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: h\r\n%s\r\n\r\n", row.head, strings.Join(row.fields, "\r\n"))
				require.NoError(t, err)
				body := string(large)
				if row.fields[len(row.fields)-1] != length {
					body = endless
				}
				_, err = io.WriteString(c, body)
				require.NoError(t, err, "all of it is taken")
				in := bufio.NewReader(c)
				res, err := http.ReadResponse(in, nil)
				require.NoError(t, err)
				require.True(t, res.Close)
				require.Equal(t, row.status, res.StatusCode)
				requireRefused(t, res, false)
				_, err = in.ReadByte()
				require.ErrorIs(t, err, io.EOF, "it is closed and not reset")
				require.NoError(t, c.Close())
			})
		}
	}
	t.Cleanup(func() {
		for _, b := range []*bundle{plain, secured} {
			require.Eventually(t, func() bool { return b.service.listener.Open() == 0 }, testTimeout, time.Millisecond, "nothing is left of them")
		}
	})
}

// TestLingeringEndsWithTheService: a client that keeps sending does not delay the drain.
func TestLingeringEndsWithTheService(t *testing.T) {
	t.Parallel()
	b := setup(t, one())
	c := b.dial(t)
	_, err := io.WriteString(c, "POST /nothing HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000000\r\n\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
		}
	}()
	b.stop()
	err = receive(t, b.ended)
	b.ended <- err // for the clean-up
	require.NoError(t, err)
	<-refused
}

// hostileInput is input written to the API's port.
type hostileInput struct {
	name string
	raw  string
	// cut: the client stops in the middle, and closes its side. No response is acceptable then.
	cut bool
	// alone: there must be exactly one response, however another parser might split the bytes.
	alone bool
}

// hostileInputs are inputs that have broken servers, parsers and validators, one per row.
func hostileInputs() []hostileInput {
	var rows []hostileInput
	add := func(group string, more []hostileInput) {
		for _, row := range more {
			row.name = group + ": " + row.name
			rows = append(rows, row)
		}
	}
	add("body", hostileBodies())
	add("field", hostileFields())
	add("text", hostileTexts())
	add("number", hostileNumbers())
	add("media", hostileMedia())
	add("chunks", hostileChunks())
	add("length", hostileLengths())
	add("header", hostileHeaders())
	add("line", hostileLines())
	add("smuggling", hostileSmuggling())
	add("bulk", hostileBulks())
	add("managing", hostileManaging())
	return rows
}

// head returns the header of a request without its final empty line; more are additional lines.
func head(path string, more ...string) string {
	return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\n" + strings.Join(append(more, ""), "\r\n") + "\r\n"
}

func posted(path, contentType, body string) string {
	return head(path, "Content-Type: "+contentType, fmt.Sprintf("Content-Length: %d", len(body))) + body
}

// bodies returns requests with hostile bodies.
func bodies(named map[string]string) (rows []hostileInput) {
	for name, body := range named {
		rows = append(rows, hostileInput{name: name, raw: posted("/message/send", "application/json", body)})
	}
	return rows
}

func hostileBodies() []hostileInput {
	deep := func(open, shut string, n int) string { return strings.Repeat(open, n) + strings.Repeat(shut, n) }
	valid := with(``)
	named := map[string]string{
		"nothing": ``, "blank": " \n", "NUL": "\x00", "many NULs": strings.Repeat("\x00", 4096), "two byte order marks": "\ufeff\ufeff" + valid, "a byte order mark alone": "\ufeff",
		"null": `null`, "true": `true`, "a number": `1`, "a string": `"x"`, "an empty array": `[]`, "an array of it": `[` + valid + `]`,
		"an open brace": `{`, "a closed brace": `}`, "only a key": `{"a"}`, "no value": `{"a":}`, "no key": `{:1}`, "a comma": `{,}`, "two commas": `{"a":1,,"b":2}`,
		"a comma at the end": `{"a":1,}`, "no comma": `{"a":1 "b":2}`, "two colons": `{"a"::1}`, "a semicolon": `{"a":1;}`, "single quotes": `{'a':1}`, "no quotes": `{a:1}`,
		"a comment": `{/**/}` + valid, "a line comment": "//\n" + valid, "a hash": "#\n" + valid, "two objects": valid + valid, "an object and a brace": valid + "}",
		"an object and NUL": valid + "\x00", "an object and text": valid + "x", "an object and a comma": valid + ",",
		"NaN": with(`"x":NaN`), "Infinity": with(`"x":Infinity`), "undefined": with(`"x":undefined`), "True": with(`"x":True`), "tru": with(`"x":tru`), "nulll": with(`"x":nulll`),
		"a tab in a string": with("\"x\":\"\t\""), "a line feed in a string": with("\"x\":\"\n\""), "an open string": `{"x":"`, "an open escape": `{"x":"\`, "a wrong escape": with(`"x":"\q"`),
		"half a \\u": with(`"x":"\u12"`), "a \\u of no hex": with(`"x":"\uzzzz"`), "a form feed between": "{\f}", "a no-break space between": "{\u00a0}",
		"arrays, 100 deep": with(`"x":` + deep("[", "]", 100)), "arrays, 100,000 deep": deep("[", "]", 100_000), "arrays, open, 1,000,000 deep": strings.Repeat("[", 1_000_000),
		"objects, 100,000 deep": deep(`{"a":`, "}", 100_000), "objects in a field": with(`"header":` + deep(`{"a":`, "}", 70)), "deep in subscribers": with(`"subscribers":` + deep("[", "]", 70)),
		"100,000 keys and no end": "{" + strings.Repeat(`"k":1,`, 100_000), "a key of 1 MB": `{"` + strings.Repeat("k", 1<<20) + `":1}`, "larger than is taken": `{"x":"` + strings.Repeat("x", 4<<20) + `"}`,
		"a large payload": with(`"payload":"` + strings.Repeat("AAAA", 180_000) + `"`), "XML": `<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>`,
		"a form": `from_uid=a&payload=aGk%3D`, "a script": `<script>alert(1)</script>`, "YAML": "from_uid: a\nchannel_id: b\n", "a Java object": "\xac\xed\x00\x05sr\x00", "a pickle": "\x80\x04\x95", "protobuf": "\x0a\x01a\x12\x01b",
		"gzip": gzipped(valid), "UTF-16": utf16le(valid), "UTF-16 with a mark": "\xff\xfe" + utf16le(valid), "UTF-32": strings.Join(strings.Split(valid, ""), "\x00\x00\x00"), "UTF-7": strings.ReplaceAll(valid, `"`, "+ACI-"),
		"EBCDIC": "\xc0\x7f\x86\x99", "a bomb of escapes": `{"x":"` + strings.Repeat(`\u0000`, 100_000) + `"`,
		"keys of a prototype": `{"__proto__":{"from_uid":"a"},"constructor":{"prototype":{}}}`, "an operator": `{"from_uid":{"$gt":""},"channel_id":{"$ne":null},"channel_type":{"$in":[2]},"payload":"aGk="}`,
		"a key twice, the last one wrong": with(`"channel_type":256`), "a key twice, the last one null": with(`"payload":null`), "a key twice, the first of a wrong type": `{"expire":"1",` + with(`"expire":1`)[1:],
		"a key 10,000 times, the last one wrong": with(strings.Repeat(`"from_uid":"a",`, 10_000) + `"from_uid":""`), "a header twice": with(`"header":{"sync_once":1},"header":7`), "a key in capitals": strings.ToUpper(valid),
	}
	rows := bodies(named)
	for n := 1; n < len(valid); n += 3 {
		rows = append(rows, bodies(map[string]string{fmt.Sprintf("whole in length, cut after %d bytes", n): valid[:n]})...)
		rows = append(rows, hostileInput{name: fmt.Sprintf("cut after %d bytes", n), raw: posted("/message/send", "application/json", valid)[:len(posted("/message/send", "application/json", valid))-n], cut: true})
	}
	return rows
}

// hostileFields gives every field a value of every type that it must not have.
func hostileFields() []hostileInput {
	values := map[string]string{
		"true": `true`, "an object": `{"a":1}`, "an array": `["a"]`, "a number": `7.5`, "a string": `"\u0001"`, "a huge number": `1e400`, "an empty object": `{}`, "a nested one": `[[{"a":[{}]}]]`,
	}
	fits := func(field, value string) bool { // or the field is ignored
		text := field != "channel_type" && field != "expire" && !strings.Contains(field, "_once") && field != "red_dot" && field != "no_persist" && field != "header" && field != "subscribers"
		switch value {
		case "a string": // a control character is invalid in a name, and valid in a tag
			return text && field != "from_uid" && field != "channel_id" && field != "payload"
		case "an object", "an empty object":
			return field == "header"
		case "an array":
			return field == "subscribers"
		default:
			return false
		}
	}
	var rows []hostileInput
	for _, field := range []string{
		"payload", "from_uid", "channel_id", "channel_type", "header", "no_persist", "red_dot", "sync_once", "client_msg_no", "stream_no", "tag_key", "expire", "subscribers",
	} {
		for name, value := range values {
			if !fits(field, name) {
				rows = append(rows, bodies(map[string]string{field + " is " + name: with(quoted(field) + ":" + value)})...)
			}
		}
	}
	return rows
}

// hostileTexts puts invalid text where names are expected.
func hostileTexts() []hostileInput {
	var rows []hostileInput
	for name, text := range map[string]string{
		"a lone continuation byte": "\x80", "an overlong slash": "\xc0\xaf", "an overlong NUL": "\xc0\x80", "half of two bytes": "\xc3", "half of three bytes": "\xe2\x82", "half of four bytes": "\xf0\x9f\x98",
		"a surrogate in UTF-8": "\xed\xa0\x80", "a pair of them": "\xed\xa0\xbd\xed\xb8\x80", "beyond Unicode": "\xf4\x90\x80\x80", "five bytes": "\xf8\x88\x80\x80\x80", "0xFF": "\xff", "Latin-1": "caf\xe9", "GBK": "\xd6\xd0\xce\xc4",
		"a raw NUL": "\x00", "a raw escape": "\x1b[2J", "half a surrogate pair": `\ud83d`, "the other half": `\ude00`, "a pair the wrong way": `\ude00\ud83d`, "an escaped NUL": `a\u0000b`, "an escaped DEL": `\u007f`, "an escaped C1": `\u0085`,
		"257 bytes": strings.Repeat("x", 257), "64 KiB": strings.Repeat("x", 64<<10),
	} {
		for _, field := range []string{"from_uid", "channel_id"} {
			rows = append(rows, bodies(map[string]string{field + " with " + name: with(`"` + field + `":"` + text + `"`)})...)
		}
	}
	for name, id := range map[string]string{
		"an at sign": "a@b", "a hash": "a#b", "an ampersand": "a&b", "a space": "a b", "a line separator": `a\u2028b`, "an ideographic space": `a\u3000b`, "the command suffix": "a____cmd", "nothing": "",
	} {
		rows = append(rows, bodies(map[string]string{"channel_id with " + name: with(`"channel_id":"` + id + `"`)})...)
	}
	for name, payload := range map[string]string{
		"no padding": "aGk", "too much padding": "aGk====", "padding first": "=aGk", "padding in the middle": "aG=k", "the URL's alphabet": "-_-_", "a percent": "aGk%3D", "spaces": "aG k=", "text": "hello, world", "a NUL": `aGk=\u0000`, "one character": "a",
	} {
		rows = append(rows, bodies(map[string]string{"payload with " + name: with(`"payload":"` + payload + `"`)})...)
	}
	return rows
}

func hostileNumbers() []hostileInput {
	var rows []hostileInput
	for _, number := range []string{
		"-1", "256", "258", "65538", "-4294967294", "4294967298", "18446744073709551618", "-9223372036854775809", "9223372036854775808", "1e1", "2.0", "2.000000000000000000001", "0.2e1", "1e-999999", "1e999999", "-0.0",
		"0x2", "02", "+2", "2.", ".2", "2e", "2e+", "--2", "2_0", "1,5", "２", strings.Repeat("9", 10_000), "0." + strings.Repeat("0", 10_000) + "1",
	} {
		short := number[:min(len(number), 24)]
		rows = append(rows, bodies(map[string]string{"channel_type " + short: with(`"channel_type":` + number)})...)
	}
	for _, number := range []string{"-1", "4294967296", "1e3", "0.5", "99999999999999999999", `"60"`} {
		rows = append(rows, bodies(map[string]string{"expire " + number: with(`"expire":` + number)})...)
	}
	for _, number := range []string{"2", "-1", "0.0", "1e0", `"1"`, "true"} {
		rows = append(rows, bodies(map[string]string{"sync_once " + number: with(`"header":{"sync_once":` + number + `}`)})...)
	}
	return rows
}

func hostileMedia() []hostileInput {
	var rows []hostileInput
	for _, contentType := range []string{
		"", "text/plain", "text/html", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/octet-stream", "application/json; charset=gbk", "application/json; charset=utf-16",
		"application/json; charset", "application/json;;", "application/jsonp", "application/json/x", "json", "*/*", "application/json, text/plain", "application/x-protobuf", "application/json; charset=utf-8; charset=utf-7", "\"application/json\"",
		"application/json; x=\"", strings.Repeat("a/b;", 500),
	} {
		rows = append(rows, hostileInput{name: fmt.Sprintf("type %.40q", contentType), raw: posted("/message/send", contentType, with(``))})
	}
	for _, encoding := range []string{"gzip", "deflate", "br", "zstd", "compress", "x-gzip", "gzip, gzip", "identity, gzip", "bogus", "*"} {
		body := gzipped(with(``))
		rows = append(rows, hostileInput{name: "encoding " + encoding, raw: head("/message/send", "Content-Type: application/json", "Content-Encoding: "+encoding, fmt.Sprintf("Content-Length: %d", len(body))) + body})
	}
	return rows
}

// chunked returns a request with the raw chunks as its body.
func chunked(raw string, more ...string) string {
	return head("/message/send", append([]string{"Content-Type: application/json", "Transfer-Encoding: chunked"}, more...)...) + raw
}

func hostileChunks() []hostileInput {
	var rows []hostileInput
	for name, raw := range map[string]string{
		"none": "0\r\n\r\n", "a size of no hex": "xyz\r\n{}\r\n0\r\n\r\n", "a negative size": "-1\r\n{}\r\n0\r\n\r\n", "a size with 0x": "0x2\r\n{}\r\n0\r\n\r\n", "a size with a plus": "+2\r\n{}\r\n0\r\n\r\n",
		"an empty size": "\r\n{}\r\n0\r\n\r\n", "a size beyond 64 bits": "10000000000000002\r\n{}\r\n0\r\n\r\n", "a size of 100 digits": strings.Repeat("f", 100) + "\r\n{}\r\n0\r\n\r\n", "a size too small": "1\r\n{}\r\n0\r\n\r\n",
		"no line break behind": "2\r\n{}0\r\n\r\n", "spaces around the size": " 2 \r\n{}\r\n0\r\n\r\n", "line feeds only": "2\n{}\n0\n\n", "an extension": "2;a=b\r\n{}\r\n0\r\n\r\n",
		"an extension of 100 KB": "2;" + strings.Repeat("a", 100_000) + "\r\n{}\r\n0\r\n\r\n", "a bad trailer": "2\r\n{}\r\n0\r\nno colon\r\n\r\n", "a forbidden trailer": "2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n", "a trailer of 100 KB": "2\r\n{}\r\n0\r\nX: " + strings.Repeat("x", 100_000) + "\r\n\r\n",
		"a NUL in the size": "2\x00\r\n{}\r\n0\r\n\r\n", "one byte a chunk": strings.Repeat("1\r\n \r\n", 5000) + "0\r\n\r\n", "more than is taken": strings.Repeat("10000\r\n"+strings.Repeat(" ", 1<<16)+"\r\n", 70) + "0\r\n\r\n",
		"an extension in each of 20,000": strings.Repeat("1;"+strings.Repeat("a", 50)+"\r\n \r\n", 20_000) + "0\r\n\r\n",
	} {
		rows = append(rows, hostileInput{name: name, raw: chunked(raw), alone: true})
	}
	for name, raw := range map[string]string{"a carriage return only": "2\r{}\r0\r\r", "no end": "2\r\n{}\r\n", "a size too large": "ffff\r\n{}\r\n0\r\n\r\n", "only a size": "2\r\n", "nothing at all": "", "a size without an end": "2"} {
		rows = append(rows, hostileInput{name: name, raw: chunked(raw), cut: true})
	}
	return rows
}

func hostileLengths() []hostileInput {
	var rows []hostileInput
	for _, length := range []string{
		"-1", "+2", "0x2", "2.0", "2e0", "two", "", " ", "2 2", "2,2", "2, 3", "99999999999999999999", "18446744073709551618", "9223372036854775807", "4194305", "2;", "\x002", "0002a", "２",
	} {
		rows = append(rows, hostileInput{name: fmt.Sprintf("of %q", length), raw: head("/message/send", "Content-Type: application/json", "Content-Length: "+length) + "{}"})
	}
	return append(rows,
		hostileInput{name: "two that differ", raw: head("/message/send", "Content-Type: application/json", "Content-Length: 2", "Content-Length: 3") + "{}x", alone: true},
		hostileInput{name: "none, and a body", raw: head("/message/send", "Content-Type: application/json") + "{}"},
		hostileInput{name: "more than comes", raw: head("/message/send", "Content-Type: application/json", "Content-Length: 100") + "{}", cut: true},
		hostileInput{name: "less than comes", raw: head("/message/send", "Content-Type: application/json", "Content-Length: 1") + "{}"},
	)
}

func hostileHeaders() []hostileInput {
	post := func(lines ...string) string {
		return head("/message/send", append(lines, "Content-Type: application/json", "Content-Length: 2")...) + "{}"
	}
	many := func(n int, line string) []string {
		lines := make([]string, n)
		for i := range lines {
			lines[i] = strings.ReplaceAll(line, "#", fmt.Sprint(i))
		}
		return lines
	}
	rows := []hostileInput{
		{name: "a flood of 1,000", raw: post(many(1000, "X-#: "+strings.Repeat("x", 50))...)},
		{name: "a flood of 100,000", raw: post(many(100_000, "X-#: y")...)},
		{name: "a flood of one name", raw: post(many(5000, "X: y")...)},
		{name: "a flood of cookies", raw: post(many(5000, "Cookie: a=#")...)},
		{name: "a value of 1 MB", raw: post("X: " + strings.Repeat("x", 1<<20))},
		{name: "a name of 1 MB", raw: post(strings.Repeat("x", 1<<20) + ": y")},
		{name: "an authorization of 1 MB", raw: post("Authorization: Bearer " + strings.Repeat("x", 1<<20))},
		{name: "no end", raw: "POST /message/send HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 100_000)},
		{name: "no colon", raw: post("no colon here")}, {name: "a colon first", raw: post(": x")}, {name: "an empty name", raw: post(" : x")}, {name: "a space before the colon", raw: post("X : y")},
		{name: "a name with a space", raw: post("X Y: z")}, {name: "a name with a NUL", raw: post("X\x00: y")}, {name: "a name with umlauts", raw: post("Ü: y")}, {name: "a name with parentheses", raw: post("X(Y): z")},
		{name: "a value with a NUL", raw: post("X: y\x00z")}, {name: "a value with DEL", raw: post("X: y\x7fz")}, {name: "a value with a bell", raw: post("X: y\x07z")}, {name: "a value with a carriage return", raw: post("X: y\rZ: a")},
		{name: "a folded first line", raw: "POST /message/send HTTP/1.1\r\n Host: x\r\n\r\n"}, {name: "no host", raw: "POST /message/send HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"}, {name: "two hosts", raw: post("Host: other")},
		{name: "a host with a slash", raw: "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"}, {name: "a host with a space", raw: "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"}, {name: "a host with a NUL", raw: "GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n"}, {name: "a host of umlauts", raw: "GET / HTTP/1.1\r\nHost: \xc3\xbc\r\n\r\n"},
		{name: "an expectation", raw: post("Expect: 200-ok")}, {name: "an empty upgrade", raw: post("Connection: Upgrade", "Upgrade: ")}, {name: "an upgrade to a web socket", raw: post("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")},
		{name: "an upgrade to h2c", raw: post("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")}, {name: "an upgrade to TLS", raw: post("Connection: Upgrade", "Upgrade: TLS/1.0")},
		{name: "a range", raw: post("Range: bytes=0-,0-,0-,0-")}, {name: "another method in a header", raw: post("X-HTTP-Method-Override: DELETE")}, {name: "another URL in a header", raw: post("X-Original-URL: /admin", "X-Rewrite-URL: /admin")},
		{name: "Shellshock", raw: post("User-Agent: () { :; }; /bin/cat /etc/passwd")}, {name: "a look-up", raw: post("User-Agent: ${jndi:ldap://127.0.0.1/a}")}, {name: "forwarded by a thousand", raw: post("X-Forwarded-For: " + strings.Repeat("1.2.3.4,", 1000))},
		{name: "forwarded by nonsense", raw: post("X-Forwarded-For: ,,;\"'%00")}, {name: "connection names the host", raw: post("Connection: Host, Content-Length, close")},
	}
	for i := 1; i < 60; i += 4 { // somewhere in the header
		rows = append(rows, hostileInput{name: fmt.Sprintf("cut after %d bytes", i), raw: post()[:i], cut: true})
	}
	return rows
}

// hostileLines are request lines.
func hostileLines() []hostileInput {
	var rows []hostileInput
	for name, line := range map[string]string{
		"nothing": "", "spaces": "   ", "one word": "POST", "two words": "POST /message/send", "four words": "POST /message/send HTTP/1.1 x", "no path": "POST  HTTP/1.1", "no slash": "POST message/send HTTP/1.1", "a tab": "POST\t/message/send\tHTTP/1.1",
		"a small method": "post /message/send HTTP/1.1", "no method": " /message/send HTTP/1.1", "a method of symbols": "P()ST /message/send HTTP/1.1", "a method with NUL": "PO\x00ST /message/send HTTP/1.1", "a method of 10,000": strings.Repeat("P", 10_000) + " /message/send HTTP/1.1",
		"version 0.9": "GET /message/send HTTP/0.9", "version 1.2": "GET /message/send HTTP/1.2", "version 2": "GET /message/send HTTP/2.0", "version 3": "GET /message/send HTTP/3.0", "version 9.9": "GET /message/send HTTP/9.9", "no number": "GET /message/send HTTP/", "a version of letters": "GET /message/send HTTP/x.y",
		"a version too long": "GET /message/send HTTP/1.10", "another protocol": "GET /message/send ICY/1.1", "a small protocol": "GET /message/send http/1.1",
		"CONNECT": "CONNECT example.org:443 HTTP/1.1", "CONNECT to a path": "CONNECT /message/send HTTP/1.1", "TRACE": "TRACE /message/send HTTP/1.1", "TRACK": "TRACK / HTTP/1.1", "OPTIONS": "OPTIONS /message/send HTTP/1.1", "OPTIONS of all": "OPTIONS * HTTP/1.1", "GET": "GET /message/send HTTP/1.1",
		"HEAD": "HEAD /message/send HTTP/1.1", "PUT": "PUT /message/send HTTP/1.1", "PATCH": "PATCH /message/send HTTP/1.1", "DELETE": "DELETE /message/send HTTP/1.1", "PROPFIND": "PROPFIND / HTTP/1.1", "a star": "POST * HTTP/1.1", "PRI": "PRI * HTTP/1.1",
		"an absolute URL": "GET http://example.org/ HTTP/1.1", "an absolute URL with a password": "GET http://a:b@example.org/ HTTP/1.1", "a URL of files": "GET file:///etc/passwd HTTP/1.1", "a URL of 15 KB": "GET /" + strings.Repeat("a", 15<<10) + " HTTP/1.1", "a URL of 1 MB": "GET /" + strings.Repeat("a", 1<<20) + " HTTP/1.1",
		"a query of 15 KB": "GET /?" + strings.Repeat("a=b&", 3800) + " HTTP/1.1", "up and up": "GET /../../../../etc/passwd HTTP/1.1", "up, escaped": "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1", "up, escaped twice": "GET /%252e%252e/etc/passwd HTTP/1.1", "up with backslashes": `GET /..\..\windows\win.ini HTTP/1.1`,
		"a broken escape": "GET /%zz HTTP/1.1", "half an escape": "GET /% HTTP/1.1", "an escaped NUL": "GET /%00 HTTP/1.1", "an escaped line break": "GET /%0d%0aX:%20y HTTP/1.1", "a raw NUL": "GET /\x00 HTTP/1.1", "raw bytes": "GET /\xff\xfe HTTP/1.1", "a space in it": "GET /a b HTTP/1.1", "slashes": "POST //message//send HTTP/1.1",
		"a slash behind": "POST /message/send/ HTTP/1.1", "a dot behind": "POST /message/send. HTTP/1.1", "a parameter": "POST /message/send;x=y HTTP/1.1", "in capitals": "POST /MESSAGE/SEND HTTP/1.1", "escaped": "POST /message%2fsend HTTP/1.1", "a fragment": "GET /#message/send HTTP/1.1", "a port for a path": "GET :80 HTTP/1.1",
		"PHP": "GET /index.php?x=<?php HTTP/1.1", "an environment": "GET /.env HTTP/1.1", "git": "GET /.git/config HTTP/1.1", "a shell": "GET /cgi-bin/sh HTTP/1.1", "metrics": "GET /metrics HTTP/1.1", "the profiler": "GET /debug/pprof/ HTTP/1.1",
	} {
		rows = append(rows, hostileInput{name: name, raw: line + "\r\nHost: localhost\r\n\r\n"})
	}
	for name, raw := range map[string]string{
		"HTTP/2 from the start": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "a TLS hello": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 100) + "\n\n", "SSH": "SSH-2.0-OpenSSH_9.9\r\n\r\n", "Redis": "*1\r\n$4\r\nPING\r\n\r\n",
		"NATS": "CONNECT {}\r\nPING\r\n\r\n", "SMTP": "EHLO localhost\r\n\r\n", "a proxy's first line": "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "a web socket frame": "\x81\x85\x00\x00\x00\x00hello\n\n", "line breaks": strings.Repeat("\r\n", 100) + "x\r\n\r\n", "zeros": strings.Repeat("\x00", 100) + "\n\n", "an answer": "HTTP/1.1 200 OK\r\n\r\n",
	} {
		rows = append(rows, hostileInput{name: name, raw: raw})
	}
	return rows
}

// hostileSmuggling are requests that two parsers may delimit differently. Each is followed by a request that must never be
// answered.
func hostileSmuggling() []hostileInput {
	const inner = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	var rows []hostileInput
	for name, lines := range map[string][]string{
		"both lengths": {"Content-Length: 6", "Transfer-Encoding: chunked"}, "both, the other way": {"Transfer-Encoding: chunked", "Content-Length: 6"}, "both, in capitals": {"CONTENT-LENGTH: 6", "TRANSFER-ENCODING: CHUNKED"},
		"chunked twice": {"Transfer-Encoding: chunked", "Transfer-Encoding: chunked"}, "chunked and identity": {"Transfer-Encoding: chunked", "Transfer-Encoding: identity"}, "chunked, chunked": {"Transfer-Encoding: chunked, chunked"}, "identity": {"Transfer-Encoding: identity", "Content-Length: 6"},
		"gzip, chunked": {"Transfer-Encoding: gzip, chunked"}, "xchunked": {"Transfer-Encoding: xchunked", "Content-Length: 6"}, "a tab": {"Transfer-Encoding:\tchunked", "Content-Length: 6"}, "a space before the colon": {"Transfer-Encoding : chunked", "Content-Length: 6"}, "a vertical tab": {"Transfer-Encoding: \x0bchunked", "Content-Length: 6"},
		"quotes": {`Transfer-Encoding: "chunked"`, "Content-Length: 6"}, "a folded one": {"Transfer-Encoding:\r\n chunked", "Content-Length: 6"}, "a parameter": {"Transfer-Encoding: chunked;a=b", "Content-Length: 6"}, "an empty one": {"Transfer-Encoding: ", "Content-Length: 6"}, "a carriage return in it": {"X: y\rTransfer-Encoding: chunked", "Content-Length: 6"},
		"a NUL in it": {"Transfer-Encoding: chunked\x00", "Content-Length: 6"}, "two lengths": {"Content-Length: 6", "Content-Length: 0"}, "two lengths in one": {"Content-Length: 6, 0"}, "a length with a space in it": {"Content-Length: 6 0"}, "a length with a space before the colon": {"Content-Length : 6"}, "a length with a plus": {"Content-Length: +6"},
		"both, and an expectation": {"Content-Length: 6", "Transfer-Encoding: chunked", "Expect: 100-continue"}, "both, hidden by Connection": {"Content-Length: 6", "Transfer-Encoding: chunked", "Connection: Transfer-Encoding"},
	} {
		rows = append(rows, hostileInput{name: name, raw: head("/message/send", append([]string{"Content-Type: application/json"}, lines...)...) + "0\r\n\r\n" + inner, alone: true})
		rows = append(rows, hostileInput{name: name + ", to a route that there is not", raw: head("/nowhere", lines...) + "0\r\n\r\n" + inner, alone: true})
	}
	return rows
}

func hostileBulks() []hostileInput {
	var rows []hostileInput
	for name, body := range map[string]string{"nothing": "", "blank lines": strings.Repeat("\n", 10_000)} {
		for _, contentType := range []string{"application/x-ndjson", "application/json"} {
			rows = append(rows, hostileInput{name: name + " as " + contentType, raw: posted("/message/sendbulk", contentType, body)})
		}
	}
	for name, body := range map[string]string{
		"nobody": `{"from_uid":"a","payload":"aGk="}`, "10,001": `{"from_uid":"a","payload":"aGk=","subscribers":[` + strings.Repeat(`"x",`, 10_000) + `"y"]}`, "no list": `{"from_uid":"a","payload":"aGk=","subscribers":"b"}`, "no JSON": `x`, "cut": `{"from_uid":`,
	} {
		rows = append(rows, hostileInput{name: "a batch for " + name, raw: posted("/message/sendbatch", "application/json", body)})
	}
	return append(rows,
		hostileInput{name: "more than is taken", raw: head("/message/sendbulk", "Content-Type: application/x-ndjson", "Content-Length: 16777217")},
		hostileInput{name: "compressed", raw: head("/message/sendbulk", "Content-Type: application/x-ndjson", "Content-Encoding: gzip", "Content-Length: 1") + "x"},
		hostileInput{name: "CSV", raw: posted("/message/sendbulk", "text/csv", "a,b")},
	)
}

// hostileManaging are bodies that the routes that change permissions must refuse.
func hostileManaging() []hostileInput {
	var rows []hostileInput
	for _, path := range []string{
		"/channel", "/channel/info", "/channel/delete", "/channel/subscriber_add", "/channel/subscriber_remove", "/channel/subscriber_remove_all", "/channel/blacklist_add", "/channel/blacklist_set", "/channel/blacklist_remove",
		"/channel/blacklist_remove_all", "/channel/whitelist_add", "/channel/whitelist_set", "/channel/whitelist_remove", "/channel/whitelist_remove_all", "/user/systemuids_add", "/user/systemuids_remove",
		"/user/systemuids_add_to_cache", "/user/systemuids_remove_from_cache",
	} {
		for name, body := range map[string]string{
			"nothing": "", "text": "x", "null": "null", "an array": "[]", "cut": `{"channel_id":"g"`, "wrong types": `{"channel_id":7,"channel_type":"2","uids":{},"subscribers":1,"reset":"1"}`, "a number for a list": `{"channel_id":"g","channel_type":256,"uids":7,"subscribers":7,"ban":2}`,
			"deep": `{"channel_id":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `,"uids":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + "}", "not UTF-8": "{\"channel_id\":\"\xff\",\"channel_type\":2,\"uids\":[\"\xff\"]}", "NUL": `{"channel_id":"a\u0000","channel_type":2,"uids":["\u0000"],"subscribers":["\u0000"]}`,
		} {
			rows = append(rows, hostileInput{name: path + " with " + name, raw: posted(path, "application/json", body)})
		}
		rows = append(rows, hostileInput{name: path + " with a form", raw: posted(path, "application/x-www-form-urlencoded", "channel_id=g")})
	}
	for _, query := range []string{"", "?", "?channel_id=g", "?channel_type=2", "?channel_id=g&channel_type=x", "?channel_id=a%00&channel_type=2", "?channel_id=%zz&channel_type=2", "?channel_id=%ff&channel_type=2", "?channel_id=g;channel_type=2"} {
		rows = append(rows, hostileInput{name: "the allowlist of " + query, raw: "GET /channel/whitelist" + query + " HTTP/1.1\r\nHost: x\r\n\r\n"})
	}
	return rows
}

func gzipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text)) // writing to memory never fails
	_ = w.Close()
	return b.String()
}

func utf16le(text string) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		b = append(b, byte(unit), byte(unit>>8))
	}
	return string(b)
}
