package chdb

import (
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Exception is an error of ClickHouse, or one of this package in ClickHouse's form: what a server would return to a client.
type Exception struct { //nolint:errname // ClickHouse's word, and its drivers'.
	// Code is ClickHouse's number of the error, such as 60. It is never 0.
	Code int
	// Message is the text after "DB::Exception: ", with the symbolic name at its end, such as "(UNKNOWN_TABLE)".
	Message string
}

// Error is the text as ClickHouse writes it: "Code: 60. DB::Exception: …. (UNKNOWN_TABLE)".
func (e *Exception) Error() string {
	return "Code: " + strconv.Itoa(e.Code) + ". DB::Exception: " + e.Message
}

// The codes that this package itself gives or looks for.
const (
	codeUnexpectedEndOfFile = 3
	codeBadArguments        = 36
	codeNotImplemented      = 48
	codeLogicalError        = 49
	codeSyntaxError         = 62
	codeUnknownFormat       = 73
	codeUnknownCompression  = 89
	codeCannotWrite         = 75
	codeReadonly            = 164
	codeTooManyQueries      = 202
	codeNetworkError        = 210
	codeQueryTooLarge       = 229
	codeAborted             = 236
	codeNotEnoughSpace      = 243
	codeCannotDecompress    = 271
	codeTooManyBytes        = 307
	codeOutfileNotAllowed   = 358
	codeQueryWasCancelled   = 394
	codeBadRequestParameter = 408
	codeAccessDenied        = 497
	codeAuthenticationFail  = 516
)

var exceptionPattern = regexp.MustCompile(`(?s)^(?:Error: )?Code: (\d+)\. DB::(?:\w*)Exception: (.*)$`)

// parseException reads the engine's text of an error. Text in another form is kept whole under the code of a logical error.
func parseException(text string) *Exception {
	text = strings.TrimSpace(text)
	match := exceptionPattern.FindStringSubmatch(text)
	if match == nil {
		return &Exception{Code: codeLogicalError, Message: text}
	}
	code, err := strconv.Atoi(match[1])
	if err != nil || code == 0 {
		return &Exception{Code: codeLogicalError, Message: text}
	}
	return &Exception{Code: code, Message: innermost(match[1], match[2])}
}

// innermost takes off what the engine puts around an exception that it throws again: another prefix before and the version after it.
func innermost(code, message string) string {
	for {
		inner, nested := strings.CutPrefix(message, "Code: "+code+". DB::Exception: ")
		if !nested {
			return message
		}
		if at := strings.LastIndex(inner, " (version "); at >= 0 {
			inner = inner[:at]
		}
		message = inner
	}
}

// isCode reports whether err is an Exception with one of the codes.
func isCode(err error, codes ...int) bool {
	var exception *Exception
	return errors.As(err, &exception) && slices.Contains(codes, exception.Code)
}

// httpStatuses is ClickHouse's table of the HTTP status for an error's code (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp). What is not
// in it is 500. Two entries differ: 202, too many queries, is 503 so that a client knows to come again; and so is 236, aborted, which here
// means that the engine is closing.
func httpStatuses() map[int]int {
	statuses := map[int]int{
		codeNotImplemented:     http.StatusNotImplemented,
		159:                    http.StatusRequestTimeout, // TIMEOUT_EXCEEDED
		194:                    http.StatusUnauthorized,   // REQUIRED_PASSWORD
		codeTooManyQueries:     http.StatusServiceUnavailable,
		codeQueryTooLarge:      http.StatusRequestEntityTooLarge,
		codeTooManyBytes:       http.StatusRequestEntityTooLarge,
		codeAborted:            http.StatusServiceUnavailable,
		381:                    http.StatusLengthRequired, // HTTP_LENGTH_REQUIRED
		76:                     http.StatusServiceUnavailable,
		209:                    http.StatusServiceUnavailable,
		439:                    http.StatusServiceUnavailable,
		192:                    http.StatusForbidden, // UNKNOWN_USER
		193:                    http.StatusForbidden, // WRONG_PASSWORD
		512:                    http.StatusForbidden, // SET_NON_GRANTED_ROLE
		codeAccessDenied:       http.StatusForbidden,
		codeAuthenticationFail: http.StatusForbidden,
	}
	for _, code := range []int{46, 47, 50, 56, 60, 63, codeUnknownFormat, 78, 81, 115, 152, 336, 511} { // UNKNOWN_…
		statuses[code] = http.StatusNotFound
	}
	for _, code := range []int{ // What the client wrote is wrong.
		6, 8, 15, 25, 26, 27, codeBadArguments, 37, 38, 41, 44, 53, codeSyntaxError, 72, codeUnknownCompression, 117, 123, 167, 168, 223, 321,
		codeOutfileNotAllowed, 376, codeBadRequestParameter, 427, 441, 675, 676,
	} {
		statuses[code] = http.StatusBadRequest
	}
	return statuses
}
