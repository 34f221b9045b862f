package history

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/writer/clickhouse"
	"github.com/sendhouse/sendhouse/writer/history/recent"
)

// This file is how the routes read. A route that returns the messages of a span of a channel calls rows. One that looks for certain
// messages calls lookup. Both take the tail first and ask ClickHouse only then: what a writer inserts in between is in one of the
// two. newestSeq is the channel's last message_seq, unless ClickHouse has to be asked for that.
//
// ctx limits the read, and client is the request's own context.

// latest is what the logs know of a read beyond ClickHouse.
type latest struct {
	recent.Part
	// unfolded: a send that the read is about is in the write-ahead log, and what becomes of it is not known yet.
	unfolded bool
	// searched: all of the write-ahead log that the tail was not made from was looked at.
	searched bool
	err      error // the logs could not be read
}

// certain reports whether everything that was answered before the read began is in the tail or in ClickHouse.
func (l *latest) certain() bool {
	return l.err == nil && l.Complete && l.searched && !l.unfolded
}

// problem is the reply if the read depends on what is not certain.
func (l *latest) problem(client context.Context) *api.Problem {
	switch {
	case l.certain():
		return nil
	case l.err != nil:
		return logsUnavailable(client)
	default:
		return behind()
	}
}

// latest takes what it needs of the tail, within a third of the remaining time: NATS may hang while ClickHouse is healthy. If the
// tail does not reach the end of the write-ahead log by then, as when a partition has no sequencer, it looks for sends of
// the read there.
func (s *Service) latest(ctx context.Context, partition int, take func(context.Context) (recent.Part, error), concerns func(send *message.Send, unixMilli int64) bool) latest {
	waiting, cancel := part(ctx, 3)
	defer cancel()
	var l latest
	if l.Part, l.err = take(waiting); l.err == nil {
		if l.searched = l.Reached; !l.Reached {
			searching, cancel := part(ctx, 3)
			defer cancel()
			l.unfolded, l.searched, l.err = s.logs.findSend(searching, partition, l.End, concerns)
		}
	}
	if l.err != nil {
		s.log.Debug("cannot read the logs", "error", l.err, "partition", partition)
	}
	return l
}

// ofChannel takes part of a channel's tail.
func (s *Service) ofChannel(ctx context.Context, channel clickhouse.Channel, sp span, limit int) latest {
	return s.latest(ctx, s.partitions.Of(channel.ID, channel.Type), func(ctx context.Context) (recent.Part, error) {
		return s.recent.Channel(ctx, channel, recent.Span{First: sp.first, Last: sp.last, NewestFirst: sp.newestFirst}, limit)
	}, func(send *message.Send, _ int64) bool { return isOf(send, channel) })
}

func isOf(send *message.Send, channel clickhouse.Channel) bool {
	return send.GetChannelId() == channel.ID && send.GetChannelType() == uint32(channel.Type) && !send.GetNoPersist()
}

// newestSeq returns the highest message_seq of a channel in the tail, 0 if ClickHouse has to be asked for it.
func (s *Service) newestSeq(ctx, client context.Context, channel clickhouse.Channel) (uint64, *api.Problem) {
	l := s.ofChannel(ctx, channel, span{}, 0)
	if l.Highest > 0 && l.searched && !l.unfolded {
		return l.Highest, nil
	}
	return 0, l.problem(client)
}

// latestByNo takes the latest message of a channel that has this client_msg_no and is wanted.
func (s *Service) latestByNo(ctx context.Context, channel clickhouse.Channel, clientMsgNo string, wanted func(*message.Message) bool, concerns func(*message.Send) bool) latest {
	return s.latest(ctx, s.partitions.Of(channel.ID, channel.Type), func(ctx context.Context) (recent.Part, error) {
		return s.recent.Find(ctx, channel, clientMsgNo, wanted)
	}, func(send *message.Send, unixMilli int64) bool {
		return concerns(send) && (send.GetExpire() == 0 || unixMilli/1000+int64(send.GetExpire()) > s.now().Unix())
	})
}

// row returns the single message that was looked for, nil if there is none.
func (l *latest) row() *clickhouse.Row {
	if l.err != nil || len(l.Messages) == 0 {
		return nil
	}
	row, err := clickhouse.RowOf(l.Messages[0].Data)
	if err != nil { // the tail has none of these
		return nil
	}
	return &row
}

// page holds messages in the order of message_seq.
type page struct {
	rows  []clickhouse.Row
	more  bool
	bytes int // their approximate size in a reply

	bytesMax int // of bytes, unless the first message alone is larger
}

// The number of rows per query: at first, and again after small ones. The size of the next rows is unknown: with the
// largest payload that is allowed by default, these are 128 and 256 MiB; rows beyond the page's limit are not kept.
const (
	firstRowsMax = 256
	nextRowsMax  = 512
)

// errFull stops reading when a page is full.
var errFull = errors.New("the page is full")

// rows returns up to limit messages of a span, fewer if they are large, each once; the page's more field reports whether others
// follow. It has everything that was answered before the call. The tail of the message log comes first and ClickHouse
// second, because the tail loses what the writers have inserted. The messages below the channel's lowest one in the tail are
// those that only ClickHouse has.
//
// If the logs cannot tell what was answered, a page whose messages follow one another without a gap is complete all the same; any
// other is a problem.
func (s *Service) rows(ctx, client context.Context, channel clickhouse.Channel, sp span, limit int) (page, *api.Problem) {
	return s.rowsWithin(ctx, client, channel, sp, limit, int(s.cfg.HistoryPageBytesMax))
}

// rowsWithin is rows with another limit of the page's size.
func (s *Service) rowsWithin(ctx, client context.Context, channel clickhouse.Channel, sp span, limit, bytesMax int) (page, *api.Problem) {
	l := s.ofChannel(ctx, channel, sp, limit)
	p := page{bytesMax: bytesMax}
	stored, some := sp.below(l.Lowest)
	var err error
	if sp.newestFirst {
		s.takeRecent(&p, &l, limit)
		if !p.more && some {
			err = s.older(ctx, channel, stored, limit, &p)
		}
		slices.Reverse(p.rows)
	} else {
		if some {
			err = s.stored(ctx, channel, stored, limit, &p)
		}
		if err == nil && !p.more {
			s.takeRecent(&p, &l, limit)
		}
	}
	switch problem := l.problem(client); {
	case err != nil:
		return page{}, s.tableProblem(ctx, client, err)
	case problem != nil && !p.certain(sp, l.highestKnown()):
		return page{}, problem
	default:
		return p, nil
	}
}

// takeRecent adds messages of the tail to a page.
func (s *Service) takeRecent(p *page, l *latest, limit int) {
	for i := range l.Messages {
		row, err := clickhouse.RowOf(l.Messages[i].Data)
		if err != nil {
			continue // the tail has none of these
		}
		if p.take(&row, limit) != nil {
			p.more = true
			return
		}
	}
	p.more = l.More
}

// older adds stored messages to a page that may be full of newer ones. Without ClickHouse such a page is still right; that there
// are older messages is then assumed.
func (s *Service) older(ctx context.Context, channel clickhouse.Channel, sp span, limit int, p *page) error {
	full := len(p.rows) == limit
	err := s.stored(ctx, channel, sp, limit, p)
	if err != nil && full {
		s.tableFailed(err)
		p.more = true
		return nil
	}
	return err
}

// stored adds messages of ClickHouse to a page until it is full.
func (s *Service) stored(ctx context.Context, channel clickhouse.Channel, sp span, limit int, p *page) error {
	for {
		ask := p.nextRows(limit)
		came, last := 0, uint64(0)
		err := s.table.Page(ctx, channel, clickhouse.Range{First: sp.first, Last: sp.last, NewestFirst: sp.newestFirst, LimitRows: ask}, func(row *clickhouse.Row) error {
			came, last = came+1, row.MessageSeq
			return p.take(row, limit)
		})
		switch {
		case errors.Is(err, errFull):
			p.more = true
		case err != nil:
			return err //nolint:wrapcheck // a clickhouse.Error says it all
		}
		if p.more || came < ask || !sp.after(last) {
			s.tableWorks()
			return nil
		}
	}
}

// nextRows returns the number of rows to query: one more than wanted, to detect whether more follow, within the memory limit.
func (p *page) nextRows(limit int) int {
	want := limit + 1 - len(p.rows)
	if len(p.rows) == 0 {
		return min(want, firstRowsMax)
	}
	room := (p.bytesMax - p.bytes) / (p.bytes / len(p.rows))
	return max(1, min(want, room+1, nextRowsMax))
}

// take adds a row unless it repeats the previous one.
func (p *page) take(row *clickhouse.Row, limit int) error {
	if n := len(p.rows); n > 0 && p.rows[n-1].MessageSeq == row.MessageSeq {
		return nil
	}
	bytes := replyBytes(row)
	if len(p.rows) == limit || len(p.rows) > 0 && p.bytes+bytes > p.bytesMax {
		return errFull
	}
	p.rows = append(p.rows, *row)
	p.bytes += bytes
	return nil
}

// highestKnown is the channel's last message_seq if the logs tell it although the tail is incomplete; else 0.
func (l *latest) highestKnown() uint64 {
	if l.err != nil || !l.searched || l.unfolded {
		return 0
	}
	return l.Highest
}

// certain reports whether a page is surely complete although not all messages are known: message_seq has no gaps, so nothing
// is between messages that follow one another. The page must begin at an end of the span, or at the channel's last message if
// that is known, and be full or reach the other end.
func (p *page) certain(sp span, highest uint64) bool {
	if highest > 0 {
		sp.last = min(sp.last, highest)
	}
	if sp.first > sp.last {
		return true
	}
	if len(p.rows) == 0 {
		return false
	}
	lowest, newest := p.rows[0].MessageSeq, p.rows[len(p.rows)-1].MessageSeq
	if newest-lowest != uint64(len(p.rows)-1) {
		return false
	}
	if sp.newestFirst {
		return newest == sp.last && (p.more || lowest == sp.first)
	}
	return lowest == sp.first && (p.more || newest == sp.last)
}

// span is the part of a channel to read: First to Last, and from which end.
type span struct {
	first, last uint64
	newestFirst bool
}

// after moves the span past a message, and reports whether any of it remains.
func (sp *span) after(seq uint64) bool {
	if sp.newestFirst {
		sp.last = seq - 1
	} else {
		sp.first = seq + 1
	}
	return sp.first <= sp.last && sp.first > 0
}

// below returns what of the span precedes a message_seq, and whether that is anything; all of it if the number is 0.
func (sp span) below(seq uint64) (span, bool) {
	if seq > 0 {
		sp.last = min(sp.last, seq-1)
	}
	return sp, sp.first <= sp.last
}

// tableProblem is the reply to an error of ClickHouse, which it logs.
func (s *Service) tableProblem(ctx, client context.Context, err error) *api.Problem {
	problem := unavailable(ctx, client, err)
	if problem.Status != clientGone().Status {
		s.tableFailed(err)
	}
	return problem
}

// part returns a context with the n-th part of ctx's remaining time.
func part(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(n))
}
