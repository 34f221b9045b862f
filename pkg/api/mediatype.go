package api

import (
	"mime"
	"net/http"
	"strings"
)

// MediaTypeRule says what is wrong with the headers of a request whose body must be application/json, in UTF-8 and not compressed; it is
// empty where nothing is.
func MediaTypeRule(h http.Header) string {
	contentType, encoding := first(h, "Content-Type"), first(h, "Content-Encoding")
	switch {
	case contentType != "application/json" && !isJSON(contentType):
		return "Content-Type must be application/json (charset utf-8, if any)"
	case encoding != "" && !strings.EqualFold(encoding, "identity"):
		return "Content-Encoding is not taken: send the body as it is"
	default:
		return ""
	}
}

func isJSON(contentType string) bool {
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err != nil || mediaType != "application/json" {
		return false
	}
	charset, given := params["charset"]
	return !given || strings.EqualFold(charset, "utf-8") || strings.EqualFold(charset, "utf8")
}

// first is h.Get for a key that is in canonical form.
func first(h http.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}
