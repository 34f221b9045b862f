package engine

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"
)

// away answers on the listener while there is no engine.
type away struct {
	server *http.Server
	done   chan struct{}
}

const awayReadTimeout = 5 * time.Second

// startAway accepts connections until close. The listener stays open.
func startAway(listener *os.File, log *slog.Logger) (*away, error) {
	accepting, err := net.FileListener(listener)
	if err != nil {
		return nil, fmt.Errorf("answer for the engine: %w", err)
	}
	a := &away{done: make(chan struct{}), server: &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
			w.Header().Set("X-ClickHouse-Exception-Code", "236")
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, "Code: 236. DB::Exception: The embedded ClickHouse is not running and is being started; the log says why. (ABORTED)\n")
		}),
		ReadTimeout: awayReadTimeout, WriteTimeout: awayReadTimeout,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}
	go func() {
		defer close(a.done)
		if err := a.server.Serve(accepting); !errors.Is(err, http.ErrServerClosed) {
			log.Error("cannot answer for the ClickHouse engine while it is away", "error", err)
		}
	}()
	return a, nil
}

// close stops accepting. A client that was just accepted is cut off, and connects again.
func (a *away) close(log *slog.Logger) {
	if a == nil {
		return
	}
	if err := a.server.Close(); err != nil {
		log.Debug("closing the listener of the ClickHouse engine", "error", err)
	}
	<-a.done
}
