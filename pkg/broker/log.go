package broker

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"
)

// serverLogger hands the embedded server's log to ours. Its notices are start-up
// chatter, so they are debug lines here. Any client can cause errors and warnings, so repeated ones are limited.
type serverLogger struct {
	log              *slog.Logger
	warnings, errors lifecycle.Repeated
}

func (l *serverLogger) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *serverLogger) Warnf(format string, v ...any) {
	if skipped, due := l.warnings.Due(format); due {
		l.log.Warn(fmt.Sprintf(format, v...), "skipped", skipped)
	}
}
func (l *serverLogger) Errorf(format string, v ...any) {
	if strings.Contains(format, "Violation") { // a client has tried what it may not
		l.Warnf(format, v...)
		return
	}
	if skipped, due := l.errors.Due(format); due {
		l.log.Error(fmt.Sprintf(format, v...), "skipped", skipped)
	}
}
func (l *serverLogger) Fatalf(format string, v ...any) { l.log.Error(fmt.Sprintf(format, v...)) }
func (l *serverLogger) Debugf(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *serverLogger) Tracef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
