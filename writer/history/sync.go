package history

import (
	"context"
	"math"
	"net/http"

	"github.com/sendhouse/sendhouse/pkg/api"
)

// sync serves POST /channel/messagesync.
func (s *Service) sync(w http.ResponseWriter, r *http.Request) ([]byte, *api.Problem) {
	q, problem := readSyncRequest(w, r)
	if problem != nil {
		return nil, problem
	}
	span, some := q.span()
	if !some {
		return appendPage(nil, &q, page{}), nil
	}
	p, problem := reading(s, r, func(ctx, client context.Context) (page, *api.Problem) {
		return s.rows(ctx, client, q.channel, span, q.limit)
	})
	if problem != nil {
		return nil, problem
	}
	return appendPage(make([]byte, 0, p.bytes+512), &q, p), nil
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
