package telemetry

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
)

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
