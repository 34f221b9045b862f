package telemetry

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"os"
	"strconv"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/config"
)

// profileSecondsMax is how long a profile or a trace may be taken.
const profileSecondsMax = 60

// profiles serves what is below /debug/pprof/: one profile at a time, since each costs time of the process, and of at most
// profileSecondsMax.
func profiles() http.Handler {
	taking := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if text := r.FormValue("seconds"); text != "" {
			if seconds, err := strconv.ParseFloat(text, 64); err != nil || !(seconds >= 0 && seconds <= profileSecondsMax) {
				http.Error(w, fmt.Sprintf("seconds: want 0 to %d", profileSecondsMax), http.StatusBadRequest)
				return
			}
		}
		var serve http.HandlerFunc
		switch name := strings.TrimPrefix(r.URL.Path, "/debug/pprof/"); name {
		case "": // the index
			pprof.Index(w, r)
			return
		case "cmdline":
			commandLine(w, r)
			return
		case "symbol":
			pprof.Symbol(w, r)
			return
		case "profile":
			serve = pprof.Profile
		case "trace":
			serve = pprof.Trace
		default:
			serve = pprof.Index // the named ones: heap, goroutine, block, mutex and so on
		}
		select {
		case taking <- struct{}{}:
			defer func() { <-taking }()
			serve(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "another profile is being taken; try again when it has ended", http.StatusServiceUnavailable)
		}
	})
}

// commandLine is pprof.Cmdline without the credentials that an argument holds.
func commandLine(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(strings.Join(config.RedactArguments(os.Args), "\x00"))) // a caller that has gone need not know
}
