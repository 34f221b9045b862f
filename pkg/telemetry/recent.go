package telemetry

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sendhouse/sendhouse/pkg/config"
)

const (
	// recentLinesMax is how many lines are kept, and recentBytesMax how much of each, so that they take some 100 KiB at most.
	recentLinesMax = 50
	recentBytesMax = 2 << 10
)

// Recent keeps the latest warnings and errors of a log.
type Recent struct {
	mu    sync.Mutex
	lines []Line // a ring once it is full
	next  int    // where the next line goes
	text  bytes.Buffer
}

// Line is a line of the log.
type Line struct {
	Time    time.Time `json:"time"`
	Level   string    `json:"level"` // WARN or ERROR
	Message string    `json:"message"`
	// Attrs are the attributes, as the text format has them: key=value key="a value". Long ones are cut off.
	Attrs string `json:"attrs"`
}

// KeepLines makes a logger that keeps its latest warnings and errors, for those who look at the process and not at its log. Lines below the
// level of the log are not kept.
func KeepLines(log *slog.Logger) (*slog.Logger, *Recent) {
	recent := &Recent{}
	attrs := slog.NewTextHandler(&recent.text, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
			return slog.Attr{}
		}
		return redact(groups, a)
	}})
	return slog.New(&keepingHandler{Handler: log.Handler(), attrs: attrs, recent: recent}), recent
}

// Lines returns what is kept, the newest first.
func (r *Recent) Lines() []Line {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := make([]Line, 0, len(r.lines))
	for i := range r.lines {
		lines = append(lines, r.lines[(r.next-1-i+2*len(r.lines))%len(r.lines)])
	}
	return lines
}

type keepingHandler struct {
	slog.Handler
	attrs  slog.Handler // writes to recent.text, under recent.mu
	recent *Recent
}

// Handle implements slog.Handler.
func (h *keepingHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		h.keep(ctx, r)
	}
	return h.Handler.Handle(ctx, r)
}

func (h *keepingHandler) keep(ctx context.Context, record slog.Record) {
	r := h.recent
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text.Reset()
	_ = h.attrs.Handle(ctx, record) // a buffer takes everything
	line := Line{Time: record.Time, Level: record.Level.String(), Message: cutOff(config.RedactText(record.Message)), Attrs: cutOff(strings.TrimSpace(r.text.String()))}
	if r.text.Cap() > 16*recentBytesMax {
		r.text = bytes.Buffer{} // a stack, for example
	}
	if len(r.lines) < recentLinesMax {
		r.lines = append(r.lines, line)
	} else {
		r.lines[r.next] = line
	}
	r.next = (r.next + 1) % recentLinesMax
}

func cutOff(s string) string {
	if len(s) <= recentBytesMax {
		return s
	}
	return strings.ToValidUTF8(s[:recentBytesMax], "") + "…"
}

// WithAttrs implements slog.Handler.
func (h *keepingHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &keepingHandler{Handler: h.Handler.WithAttrs(attrs), attrs: h.attrs.WithAttrs(attrs), recent: h.recent}
}

// WithGroup implements slog.Handler.
func (h *keepingHandler) WithGroup(name string) slog.Handler {
	return &keepingHandler{Handler: h.Handler.WithGroup(name), attrs: h.attrs.WithGroup(name), recent: h.recent}
}
