package history

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
)

// The number of rows per query: at first, and again after small ones. The size of the next rows is unknown: with the
// largest payload that is allowed by default, these are 16 and 32 MiB.
const (
	firstRowsMax = 256
	nextRowsMax  = 512
)

// sync serves POST /channel/messagesync.
func (s *Service) sync(w http.ResponseWriter, r *http.Request) (answer, *api.Problem) {
	q, problem := readSyncRequest(w, r)
	if problem != nil {
		return nil, problem
	}
	span, some := q.span()
	if !some {
		return appendPage(nil, &q, page{}), nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.HistoryTimeout)
	defer cancel()
	leave, problem := s.admit(ctx)
	if problem != nil {
		return nil, problem
	}
	defer leave()
	p, err := s.page(ctx, q.channel, span, q.limit)
	if err != nil {
		problem := unavailable(ctx, r.Context(), err)
		if problem.Status != clientGone().Status {
			s.tableFailed(err)
		}
		return nil, problem
	}
	s.tableWorks()
	return appendPage(make([]byte, 0, p.bytes+512), &q, p), nil
}

// span is the part of a channel to read: First to Last, and from which end.
type span struct {
	first, last uint64
	newestFirst bool
}

// span returns the part of the channel that a request selects, by WuKongIM's rules; some is false if it must be empty.
//
//	start and end 0      the newest, in both modes
//	older (mode 0)       end < message_seq <= start, the newest of these; a start of 0 is no bound
//	newer (mode 1)       start <= message_seq < end, the oldest of these; an end of 0 is no bound
func (q *syncRequest) span() (sp span, some bool) {
	sp = span{first: 1, last: math.MaxUint64, newestFirst: q.pullMode == pullOlder || q.start == 0 && q.end == 0}
	switch {
	case sp.newestFirst:
		if q.start > 0 {
			sp.last = q.start
		}
		if q.end == math.MaxUint64 {
			return sp, false
		}
		sp.first = q.end + 1
	default:
		sp.first = max(q.start, 1)
		if q.end > 0 {
			sp.last = q.end - 1
		}
	}
	return sp, sp.first <= sp.last
}

// page holds messages in the order of message_seq.
type page struct {
	rows  []clickhouse.Row
	more  bool
	bytes int // their approximate size in a reply
}

// errFull stops reading when a page is full.
var errFull = errors.New("the page is full")

// page reads up to limit messages, fewer if they are large; its more field reports whether others follow.
func (s *Service) page(ctx context.Context, channel clickhouse.Channel, sp span, limit int) (page, error) {
	return s.pageWithin(ctx, channel, sp, limit, int(s.cfg.HistoryPageBytesMax))
}

// pageWithin is page with another limit of the size. The first message is taken whatever its size.
func (s *Service) pageWithin(ctx context.Context, channel clickhouse.Channel, sp span, limit, bytesMax int) (page, error) {
	var p page
	for {
		ask := p.nextRows(limit, bytesMax)
		came := 0
		err := s.table.Page(ctx, channel, clickhouse.Range{First: sp.first, Last: sp.last, NewestFirst: sp.newestFirst, LimitRows: ask}, func(row *clickhouse.Row) error {
			came++
			return p.take(row, limit, bytesMax)
		})
		switch {
		case errors.Is(err, errFull):
			p.more = true
		case err != nil:
			return page{}, err //nolint:wrapcheck // a clickhouse.Error says it all
		}
		if p.more || came < ask || !sp.behind(p.rows[len(p.rows)-1].MessageSeq) {
			break
		}
	}
	if sp.newestFirst {
		slices.Reverse(p.rows)
	}
	return p, nil
}

// nextRows returns the number of rows to query: one more than wanted, to detect whether more follow, within the memory limit.
func (p *page) nextRows(limit, bytesMax int) int {
	want := limit + 1 - len(p.rows)
	if len(p.rows) == 0 {
		return min(want, firstRowsMax)
	}
	room := (bytesMax - p.bytes) / (p.bytes / len(p.rows))
	return max(1, min(want, room+1, nextRowsMax))
}

// take adds a row unless it repeats the previous one.
func (p *page) take(row *clickhouse.Row, limit, bytesMax int) error {
	if n := len(p.rows); n > 0 && p.rows[n-1].MessageSeq == row.MessageSeq {
		return nil
	}
	bytes := replyBytes(row)
	if len(p.rows) == limit || len(p.rows) > 0 && p.bytes+bytes > bytesMax {
		return errFull
	}
	p.rows = append(p.rows, *row)
	p.bytes += bytes
	return nil
}

// behind moves the span past a message, and reports whether any of it remains.
func (sp *span) behind(seq uint64) bool {
	if sp.newestFirst {
		sp.last = seq - 1
	} else {
		sp.first = seq + 1
	}
	return sp.first <= sp.last && sp.first > 0
}
