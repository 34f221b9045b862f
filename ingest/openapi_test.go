package ingest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-chi/chi/v5"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/ingest/openapi"
)

// described is openapi.yaml as parsed by a program.
var described = sync.OnceValues(func() (*openapi3.T, error) {
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData(openapi.Document())
	if err != nil {
		return nil, err
	}
	return doc, doc.Validate(loader.Context)
})

func description(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := described()
	require.NoError(t, err, "ingest/openapi/openapi.yaml")
	return doc
}

// operationOf returns the document's operation of a route; nil if there is none.
func operationOf(t testing.TB, method, path string) *openapi3.Operation {
	t.Helper()
	item := description(t).Paths.Find(path)
	if item == nil {
		return nil
	}
	return item.GetOperation(method)
}

// TestEveryRouteIsDescribed checks the routes against the document, both ways. Routes of other packages are marked there
// with x-hosted.
func TestEveryRouteIsDescribed(t *testing.T) {
	t.Parallel()
	b := setup(t, options{noStreams: true})
	served := make(map[string]bool)
	require.NoError(t, chi.Walk(b.service.router, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		served[method+" "+route] = true
		return nil
	}))
	require.NotEmpty(t, served)
	for path, item := range description(t).Paths.Map() {
		for method, op := range item.Operations() {
			route := method + " " + path
			if op.Extensions["x-hosted"] == nil && !served[route] {
				t.Errorf("ingest/openapi/openapi.yaml describes %s, which is not served: take it out there, or mark the operation with x-hosted if it is an api.Route of another package", route)
			}
			delete(served, route)
		}
	}
	for route := range served {
		t.Errorf("%s is served, and ingest/openapi/openapi.yaml does not describe it: add it under paths, with its request and all its answers, and to docs/reference/api.md", route)
	}
}

// answersAsDescribed checks a response against the document.
func answersAsDescribed(t testing.TB, method, path string, status int, header http.Header, body []byte) {
	t.Helper()
	op := operationOf(t, method, path)
	require.NotNil(t, op, "%s %s is not described", method, path)
	response := op.Responses.Status(status)
	if response == nil {
		response = op.Responses.Value(strconv.Itoa(status/100) + "XX")
	}
	if response == nil {
		response = op.Responses.Default()
	}
	require.NotNil(t, response, "%s %s answers %d, which is not described", method, path, status)
	for name, h := range response.Value.Headers {
		if text := header.Get(name); text != "" || h.Value.Required {
			var value any = text
			if h.Value.Schema.Value.Type.Is("integer") {
				n, err := strconv.ParseFloat(text, 64)
				require.NoError(t, err, name)
				value = n
			}
			require.NoError(t, h.Value.Schema.Value.VisitJSON(value, openapi3.EnableJSONSchema2020()), "%s %s, %d: the header %s", method, path, status, name)
		}
	}
	contentType, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	media := response.Value.Content[contentType]
	require.NotNil(t, media, "%s %s answers %d with %q, which is not described", method, path, status, contentType)
	switch contentType {
	case "application/json":
		require.NoError(t, fits(media.Schema.Value, body), "%s %s answers %d %s", method, path, status, body)
	case ndjson:
		element := description(t).Components.Schemas["BulkAnswer"].Value
		for line := range bytes.Lines(body) {
			require.NoError(t, fits(element, line), "%s", line)
		}
	}
}

// fits checks a JSON text against a schema.
func fits(s *openapi3.Schema, text []byte) error {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return err
	}
	return s.VisitJSON(value, openapi3.EnableJSONSchema2020())
}

// schemaCannotSay are rows of the contract that are refused for reasons that a schema cannot express: lengths in bytes
// instead of characters, rules about two fields together, a wrong type that a duplicate key replaces, and rules of JSON
// that encoding/json does not have.
var schemaCannotSay = []string{
	"payload of 512 KiB and 1 byte",
	"from_uid of 258 bytes in 86 characters", "from_uid with half a surrogate pair",
	"channel_id of 257 bytes", "channel_id with @", "channel_id with #", "channel_id with &", "channel_id with a space", "channel_id with an ideographic space",
	"channel_id with the command suffix", "a person's channel with white space before a side",
	"channel_type 2.0", "channel_type 2e0",
	"a person's channel of others", "a person's channel of three", "a person's channel with one side",
	"a person's channel from a uid with @", "a person's channel from a uid with the command suffix",
	"subscribers of a plain message", "subscribers in place of a channel, plain message",
	"empty subscribers in place of a channel",
	"a wrong type mended by a second key", "not UTF-8", "too deep", "too large",
}

// describedAsAnswered checks the body of a request against the document, which must accept what the service accepts, and
// reject what it refuses.
func describedAsAnswered(t testing.TB, name, body string, status int) {
	t.Helper()
	schema := operationOf(t, http.MethodPost, "/message/send").RequestBody.Value.Content["application/json"].Schema.Value
	body = strings.TrimPrefix(body, "\ufeff") // encoding/json does not skip it
	err := fits(schema, []byte(body))
	switch {
	case name == "a huge number that is ignored":
		require.ErrorContains(t, err, "float64") // encoding/json's own limit
	case status == http.StatusOK:
		require.NoError(t, err, "the document refuses what is taken")
	case slices.Contains(schemaCannotSay, name):
		// No schema can express it. Check that the list of exceptions has no unnecessary entries:
		if err != nil {
			require.Fail(t, "the document does say it", "take %q out of schemaCannotSay: %v", name, err)
		}
	default:
		require.Error(t, err, "the document takes what is refused")
	}
}

// TestExamplesOfTheDocument sends every example request of the document, and checks the response against the document.
func TestExamplesOfTheDocument(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	b.sequence()
	sent := 0
	paths := description(t).Paths.Map()
	// Backwards: /message before /channel, whose examples change who may send.
	for _, path := range slices.Backward(slices.Sorted(maps.Keys(paths))) {
		for method, op := range paths[path].Operations() {
			if op.Extensions["x-hosted"] != nil {
				continue
			}
			bodies := map[string]string{"": ""}
			if op.RequestBody != nil {
				bodies = examples(t, op)
			}
			for contentType, body := range bodies {
				res := b.exchange(t, method, path+query(op), contentType, body)
				require.Equal(t, http.StatusOK, res.status, "%s %s: %s", method, path, res.raw)
				answersAsDescribed(t, method, path, res.status, res.header, res.raw)
				sent++
				if op.RequestBody != nil { // and a body that is not as described
					res = b.exchange(t, method, path, contentType, "7")
					require.True(t, res.status >= 400 || path == "/message/sendbulk", "%s %s takes a number: %s", method, path, res.raw)
					answersAsDescribed(t, method, path, res.status, res.header, res.raw)
					res = b.exchange(t, method, path, "text/plain", body)
					require.Equal(t, http.StatusUnsupportedMediaType, res.status)
					answersAsDescribed(t, method, path, res.status, res.header, res.raw)
				}
			}
			res := b.exchange(t, http.MethodDelete, path, "", "")
			require.Equal(t, http.StatusMethodNotAllowed, res.status)
			answersAsDescribed(t, method, path, res.status, res.header, res.raw)
		}
	}
	require.Greater(t, sent, 20)
}

// examples returns the requests' bodies by content type. Each content type must have one that its own schema accepts.
func examples(t *testing.T, op *openapi3.Operation) map[string]string {
	t.Helper()
	bodies := make(map[string]string)
	for contentType, media := range op.RequestBody.Value.Content {
		require.NotNil(t, media.Example, "%s: %s has no example", op.OperationID, contentType)
		text, isText := media.Example.(string)
		if !isText {
			raw, err := json.Marshal(media.Example)
			require.NoError(t, err)
			require.NoError(t, fits(media.Schema.Value, raw), op.OperationID)
			text = string(raw)
		}
		bodies[contentType] = text
	}
	return bodies
}

// query names a channel to a route that requires one.
func query(op *openapi3.Operation) string {
	values := url.Values{}
	for _, p := range op.Parameters {
		if p.Value.In != openapi3.ParameterInQuery {
			continue
		}
		values.Set(p.Value.Name, map[string]string{"channel_id": "group123", "channel_type": "2"}[p.Value.Name])
	}
	if len(values) == 0 {
		return ""
	}
	return "?" + values.Encode()
}

// exchange makes a request and reads the whole response.
func (b *bundle) exchange(t *testing.T, method, path, contentType, body string) whole {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.url+path, strings.NewReader(body))
	require.NoError(t, err)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := b.client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return whole{status: res.StatusCode, header: res.Header, raw: raw}
}

// TestDescriptionNeedsNoToken: the description can be read without a token, and the page loads nothing from elsewhere.
func TestDescriptionNeedsNoToken(t *testing.T) {
	t.Parallel()
	path := tokenFile(t, tokenLine("send", "sender"))
	b := setup(t, options{noStreams: true, config: func(c *Config) { c.Access.APITokensFile = path }})
	require.Equal(t, http.StatusUnauthorized, b.exchange(t, http.MethodPost, "/message/send", "application/json", example).status)
	res := b.exchange(t, http.MethodGet, "/openapi.yaml", "", "")
	require.Equal(t, http.StatusOK, res.status)
	require.Equal(t, openapi.Document(), res.raw)
	res = b.exchange(t, http.MethodGet, "/docs", "", "")
	require.Equal(t, http.StatusOK, res.status)
	page := string(res.raw)
	for route, item := range description(t).Paths.Map() {
		for method := range item.Operations() {
			if method != http.MethodHead {
				require.Contains(t, page, fmt.Sprintf("<code>%s %s</code>", method, route))
			}
		}
	}
	require.Contains(t, page, "array of BulkSent or Problem")
	for _, elsewhere := range []string{"<script", "src=", "@import", "url(", "http://", "https://"} {
		require.NotContains(t, page, elsewhere)
	}
	require.Contains(t, page, "prefers-color-scheme: dark")
	require.NotContains(t, page, "ZgotmplZ")
}
