package audit

import (
	"log/slog"
	"time"
)

// progressInterval is how often a check says how far it is.
const progressInterval = 5 * time.Second

// Progress logs now and then how far a check of a partition is.
type Progress struct {
	log  *slog.Logger
	last time.Time
	n    uint
}

// NewProgress logs for a check of a partition.
func NewProgress(log *slog.Logger, check string, partition int) *Progress {
	return &Progress{log: log.With("check", check, "partition", partition), last: time.Now()}
}

// At says that it is at one of so many messages. It may be called for each.
func (p *Progress) At(at, of uint64) {
	if p.n++; p.n%1024 != 0 {
		return
	}
	if now := time.Now(); now.Sub(p.last) >= progressInterval {
		p.last = now
		p.log.Info("auditing", "at", at, "of", of)
	}
}
