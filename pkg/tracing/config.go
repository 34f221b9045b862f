package tracing

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Config reports whether and where to. Embed it in the command line.
type Config struct {
	OTLPEndpoint string  `name:"otlp-endpoint" help:"URL of an OpenTelemetry collector that traces are sent to, by OTLP over HTTP in protobuf (http://localhost:4318); without a path, /v1/traces is meant. By default nothing is traced." placeholder:"URL"`
	TraceRatio   float64 `name:"trace-ratio" help:"Share of the requests that are traced, from 0 to 1, among those that come without a traceparent; one that has it is traced if it says so." default:"0.01"`
}

// tracesPath is where a collector takes traces (OTLP specification, OTLP/HTTP request).
const tracesPath = "/v1/traces"

// Check reports everything that is wrong with the settings.
func (c Config) Check() error {
	var errs []error
	if c.OTLPEndpoint != "" {
		if _, err := c.endpoint(); err != nil {
			errs = append(errs, err)
		}
	}
	if !(c.TraceRatio >= 0 && c.TraceRatio <= 1) { // so that NaN is refused too
		errs = append(errs, fmt.Errorf("trace-ratio %v: must be from 0 to 1", c.TraceRatio))
	}
	return errors.Join(errs...)
}

// endpoint is the whole URL. Errors do not show what was given: it may hold a password.
func (c Config) endpoint() (string, error) {
	u, err := url.Parse(c.OTLPEndpoint)
	switch {
	case err != nil:
		return "", errors.New("otlp-endpoint: not a URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return "", errors.New("otlp-endpoint: must begin with http:// or https:// and name a host")
	case u.User != nil:
		return "", errors.New("otlp-endpoint: must hold no user; give credentials as headers, with OTEL_EXPORTER_OTLP_HEADERS")
	case u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("otlp-endpoint: must have no query and no fragment")
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = tracesPath
	}
	return u.String(), nil
}
