package telemetry

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/sendhouse/sendhouse/pkg/config"
)

// The formats of the log.
const (
	LogText = "text" // key=value, for people
	LogJSON = "json" // one object a line, for machines
)

// LogConfig says how to log. Embed it in the command line.
type LogConfig struct {
	LogLevel  slog.Level `help:"Least level that is logged: debug, info, warn or error. Can be changed at run time: PUT /loglevel." default:"info"`
	LogFormat string     `help:"Format of the log: text or json." enum:"text,json" default:"text"`
}

// NewLogger makes a logger that writes to w, and the level that it obeys from then on. Credentials in URLs are not written.
func NewLogger(cfg LogConfig, w io.Writer) (*slog.Logger, *slog.LevelVar, error) {
	level := new(slog.LevelVar)
	level.Set(cfg.LogLevel)
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: redact}
	switch cfg.LogFormat {
	case LogJSON:
		return slog.New(slog.NewJSONHandler(w, opts)), level, nil
	case LogText:
		return slog.New(slog.NewTextHandler(w, opts)), level, nil
	default:
		return nil, nil, fmt.Errorf("log format %q: must be %q or %q", cfg.LogFormat, LogText, LogJSON)
	}
}

// redact takes the credentials out of the URLs in texts and errors, the message included.
func redact(_ []string, a slog.Attr) slog.Attr {
	var text string
	switch a.Value.Kind() {
	case slog.KindString:
		text = a.Value.String()
	case slog.KindAny:
		err, ok := a.Value.Any().(error)
		if !ok || err == nil {
			return a
		}
		text = err.Error()
	default:
		return a
	}
	if shown := config.RedactText(text); shown != text {
		a.Value = slog.StringValue(shown)
	}
	return a
}
