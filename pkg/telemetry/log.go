package telemetry

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

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

// levelBytesMax bounds the body of PUT /loglevel.
const levelBytesMax = 1 << 10

type levelBody struct {
	Level string `json:"level"`
}

// getLevel answers {"level":"info"}.
func getLevel(level *slog.LevelVar) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { writeLevel(w, level) }
}

// putLevel takes {"level":"debug"} or the bare word, sets the level, and answers as getLevel does.
func putLevel(level *slog.LevelVar, log *slog.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, levelBytesMax))
		if err != nil {
			http.Error(w, "the body could not be read: "+err.Error(), http.StatusBadRequest)
			return
		}
		word := strings.TrimSpace(string(text))
		var body levelBody
		if json.Unmarshal(text, &body) == nil {
			word = body.Level
		}
		var wanted slog.Level
		if err := wanted.UnmarshalText([]byte(word)); err != nil {
			http.Error(w, `want {"level":"debug"}, "info", "warn" or "error"`, http.StatusBadRequest)
			return
		}
		was := level.Level()
		level.Set(wanted)
		log.Warn("log level changed", "was", was.String(), "now", wanted.String())
		writeLevel(w, level)
	}
}

func writeLevel(w http.ResponseWriter, level *slog.LevelVar) {
	w.Header().Set("Content-Type", "application/json")
	// A failure to write means that the caller has gone.
	_ = json.NewEncoder(w).Encode(levelBody{Level: strings.ToLower(level.Level().String())})
}
