package chdb

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// queryIDBytesMax and bodyIdleTimeout bound what a client may do to the log and to a connection.
const (
	queryIDBytesMax = 256
	bodyIdleTimeout = time.Minute
)

// formatPattern is what an output format may be called.
var formatPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*$`)

// call is what a client asks for, but for the body.
type call struct {
	request    request
	query      string // The statement, or its beginning.
	revision   uint64 // Of the Native format. 0: as the engine writes it.
	compress   bool   // Frame the output with ClickHouse's own compression.
	decompress bool   // The body is framed so.
}

// empty reports whether the request is a question whether anyone is there.
func (c call) empty(r *http.Request) bool {
	return r.Method != http.MethodPost && !r.URL.Query().Has("query")
}

// readCall reads the request's parameters and headers. What is not a parameter of the interface is a setting.
func readCall(r *http.Request) (call, error) {
	result := call{request: request{
		id:       uuid.NewString(),
		database: r.Header.Get("X-ClickHouse-Database"),
		format:   r.Header.Get("X-ClickHouse-Format"),
		readOnly: r.Method != http.MethodPost,
	}}
	parameters, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return result, &Exception{Code: codeBadRequestParameter, Message: "Bad URL parameters: " + err.Error() + ". (BAD_REQUEST_PARAMETER)"}
	}
	for name, values := range parameters {
		if err := result.take(name, values); err != nil {
			return result, err
		}
	}
	if identityOf(r) == reader {
		result.request.id = uuid.NewString() // Not another's, which would be ended with it.
	}
	if result.request.format == "" {
		result.request.format = "TabSeparated"
	}
	if !formatPattern.MatchString(result.request.format) {
		return result, &Exception{Code: codeUnknownFormat, Message: fmt.Sprintf("Unknown format %q. (UNKNOWN_FORMAT)", result.request.format)}
	}
	return result, nil
}

func (c *call) take(name string, values []string) error {
	value := values[len(values)-1]
	switch name {
	case "query":
		c.query = strings.Join(values, "")
	case "query_id":
		if len(value) > queryIDBytesMax || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' }) {
			return badParameter(name, value)
		}
		if value != "" {
			c.request.id = value
		}
	case "database":
		c.request.database = value
	case "default_format":
		c.request.format = value
	case "compress", "decompress", "wait_end_of_query":
		on, err := parseFlag(value)
		if err != nil {
			return badParameter(name, value)
		}
		c.takeFlag(name, on)
	case "client_protocol_version":
		revision, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return badParameter(name, value)
		}
		c.revision = revision
	case "session_id":
		return &Exception{Code: codeNotImplemented, Message: "Sessions are not supported by the embedded engine. (NOT_IMPLEMENTED)"}
	case "user", "password", "quota_key", "role", "buffer_size", "stacktrace", "session_timeout", "session_check", "close_session":
		// Who it is was checked before; the rest has no meaning here.
	default:
		if !settingName.MatchString(name) {
			return badParameter(name, value)
		}
		c.request.settings = append(c.request.settings, setting{name, value})
	}
	return nil
}

func (c *call) takeFlag(name string, on bool) {
	switch name {
	case "compress":
		c.compress = on
	case "decompress":
		c.decompress = on
	case "wait_end_of_query":
		c.request.wholly = on
	}
}

func parseFlag(value string) (bool, error) {
	if value == "" {
		return false, nil
	}
	return strconv.ParseBool(value)
}

func badParameter(name, value string) error {
	return &Exception{Code: codeBadRequestParameter, Message: fmt.Sprintf("Bad URL parameter %q: %q. (BAD_REQUEST_PARAMETER)", name, value)}
}

// openBody is the request's body as the client meant it.
func (c call) openBody(w http.ResponseWriter, r *http.Request) (io.Reader, error) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
		return nil, &Exception{Code: codeNotImplemented, Message: "External tables (multipart/form-data) are not supported by the embedded engine. (NOT_IMPLEMENTED)"}
	}
	if r.Method != http.MethodPost {
		return http.NoBody, nil
	}
	var body io.Reader = &patientBody{body: r.Body, setDeadline: deadlineOf(w)}
	decoded, err := contentDecoder(r.Header.Get("Content-Encoding"), body)
	if err != nil {
		return nil, err
	}
	if c.decompress {
		decoded = newFrameDecoder(decoded)
	}
	return &decodedBody{from: decoded, coded: c.decompress || decoded != body}, nil
}

// patientBody allows the client some time for each piece of the body, however long the whole may take.
type patientBody struct {
	body        io.Reader
	setDeadline func(time.Time)
}

func (b *patientBody) Read(p []byte) (int, error) {
	b.setDeadline(time.Now().Add(bodyIdleTimeout))
	n, err := b.body.Read(p)
	if err != nil {
		b.setDeadline(time.Time{}) // The server continues to read, to see whether the client is still there.
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return n, &Exception{Code: codeNetworkError, Message: fmt.Sprintf("Cannot read the body: %v. (NETWORK_ERROR)", err)}
	}
	return n, err
}

// decodedBody names the errors of the decoders.
type decodedBody struct {
	from  io.Reader
	coded bool
}

func (b *decodedBody) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	var exception *Exception
	if err != nil && b.coded && !errors.Is(err, io.EOF) && !errors.As(err, &exception) {
		return n, cannotDecompress(err)
	}
	return n, err
}
