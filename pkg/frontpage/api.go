package frontpage

import (
	"net/http"
	"strings"
)

// The routes of the API that the page uses, and the prefix that it finds them below.
const (
	apiPrefix  = "/frontpage/api"
	pathSend   = "/message/send"
	pathStatus = "/message/status"
	pathSync   = "/channel/messagesync"
)

const (
	// headerPage must be on what the page asks of the API. A page of another origin cannot set it.
	headerPage = "X-Sendhouse-Front-Page"
	// bodyBytesMax is the largest body that is handed to the API.
	bodyBytesMax = 256 << 10
)

// API is the HTTP API of this process, for the form.
type API struct {
	// Handler is the API with all its rules.
	Handler http.Handler
	// Tokens says that it takes only those who have one.
	Tokens bool
	// ClientCertificates says that it takes only connections with a certificate.
	ClientCertificates bool
}

// form reports whether the form is offered. What the API keeps to those with a certificate must not be had through the admin listener, which
// serves the page to this machine only.
func (p *Page) form() form {
	switch {
	case p.api == nil:
		return form{Why: "This process has no API. The process with the role ingest has the form."}
	case p.api.ClientCertificates:
		return form{Why: "The API takes only clients with a certificate, and this listener cannot ask for one."}
	default:
		return form{Offered: true, Token: p.api.Tokens}
	}
}

// forward hands a request of the page to the API, as the person who looks at it: with his token and his address.
func (p *Page) forward(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get(headerPage) == "" {
		http.Error(w, "only the front page itself may ask this", http.StatusForbidden)
		return
	}
	if f := p.form(); !f.Offered {
		http.Error(w, f.Why, http.StatusForbidden)
		return
	}
	asked := r.Clone(r.Context())
	asked.URL.Path = strings.TrimPrefix(r.URL.Path, apiPrefix)
	asked.URL.RawPath = ""
	asked.RequestURI = asked.URL.RequestURI()
	asked.Header = http.Header{}
	for _, name := range []string{"Authorization", "Content-Type", "Content-Length"} {
		if given := r.Header.Values(name); len(given) > 0 {
			asked.Header[name] = given
		}
	}
	asked.Body = http.MaxBytesReader(w, r.Body, bodyBytesMax)
	p.api.Handler.ServeHTTP(w, asked)
}
