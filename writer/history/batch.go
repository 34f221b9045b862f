package history

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/go-faster/jx"

	"github.com/sendhouse/sendhouse/pkg/api"
)

const (
	// batchItemsMax is the number of channels in a batch, that of WuKongIM v3.
	batchItemsMax = 200
	// batchBodyBytesMax limits the body of a batch; an item of the longest names has some 700 bytes.
	batchBodyBytesMax = 256 << 10
)

// batchItem is one channel of a batch.
type batchItem struct {
	syncRequest
	asked string // the channel_id as the request has it
}

// syncBatch serves POST /channel/messagesyncbatch.
func (s *Service) syncBatch(w http.ResponseWriter, r *http.Request) ([]byte, *api.Problem) {
	items, problem := readBatch(w, r)
	if problem != nil {
		return nil, problem
	}
	pages, problem := reading(s, r, func(ctx, client context.Context) ([]batchPage, *api.Problem) { return s.pages(ctx, client, items) })
	if problem != nil {
		return nil, problem
	}
	return appendBatch(items, pages), nil
}

// batchPage is a page of a batch, or why it could not be read.
type batchPage struct {
	page
	problem *api.Problem
}

// pages reads a page of each channel, one after the other. Together they are as large as one page may be, and take as long. What has no room has the
// more field, and what cannot be read a problem; if nothing can be read, that of the first is the reply.
func (s *Service) pages(ctx, client context.Context, items []batchItem) ([]batchPage, *api.Problem) {
	pages := make([]batchPage, len(items))
	room, failed := int(s.cfg.HistoryPageBytesMax), 0
	for i := range items {
		sp, some := items[i].span()
		if !some {
			continue
		}
		if room <= 0 {
			pages[i].more = true
			continue
		}
		p, problem := s.pageOfBatch(ctx, client, &items[i], sp, room)
		switch {
		case problem != nil && client.Err() != nil:
			return nil, problem
		case problem != nil:
			pages[i].problem, pages[i].more = problem, true
			failed++
		case p.bytes > room && i > 0: // a page takes its first message whatever the size
			room = 0
			pages[i].more = true
		default:
			room -= p.bytes
			pages[i].page = p
		}
	}
	if failed == len(items) {
		return nil, pages[0].problem
	}
	return pages, nil
}

func (s *Service) pageOfBatch(ctx, client context.Context, item *batchItem, sp span, room int) (page, *api.Problem) {
	if err := ctx.Err(); err != nil { // an earlier item took all of the time
		return page{}, unavailable(ctx, client, err)
	}
	return s.rowsWithin(ctx, client, item.channel, sp, item.limit, room)
}

// readBatch reads and validates the body of a batch.
func readBatch(w http.ResponseWriter, r *http.Request) ([]batchItem, *api.Problem) {
	var bad issues
	var login string
	var fields []syncFields
	var wrong []issues // of the fields
	if problem := readObject(w, r, batchBodyBytesMax, func(d *jx.Decoder, key []byte) error {
		switch string(key) {
		case "login_uid":
			return text(d, &bad, "login_uid", &login)
		case "items":
			fields, wrong = nil, nil
			return eachItem(d, &bad, func(d *jx.Decoder) error {
				fields, wrong = append(fields, syncFields{}), append(wrong, issues{})
				f, bad := &fields[len(fields)-1], &wrong[len(wrong)-1]
				return d.ObjBytes(func(d *jx.Decoder, key []byte) error { return f.field(d, bad, key) })
			})
		default:
			return d.Skip()
		}
	}); problem != nil {
		return nil, problem
	}
	if len(fields) == 0 {
		bad.add("items", "is required")
	}
	items := make([]batchItem, len(fields))
	for i := range fields {
		fields[i].loginUID = login // an item's own does not count
		items[i] = batchItem{syncRequest: fields[i].request(&wrong[i]), asked: fields[i].channelID}
		bad.addOf(fmt.Sprintf("items[%d].", i), &wrong[i])
	}
	return items, bad.problem()
}

// eachItem reads the items of a batch.
func eachItem(d *jx.Decoder, bad *issues, item func(d *jx.Decoder) error) error {
	const rule = "must be a list of objects"
	switch d.Next() {
	case jx.Null:
		return d.Null()
	case jx.Array:
	default:
		bad.add("items", rule)
		return d.Skip()
	}
	items := 0
	return d.Arr(func(d *jx.Decoder) error {
		if items++; items > batchItemsMax {
			bad.add("items", "is too long: a batch may have 200")
			return d.Skip()
		}
		if d.Next() != jx.Object {
			bad.add("items", rule)
			return d.Skip()
		}
		return item(d)
	})
}

// appendBatch returns the reply to a batch, in WuKongIM's format. An item that could not be read has an error and, for programs, its code.
func appendBatch(items []batchItem, pages []batchPage) []byte {
	size := 64
	for i := range pages {
		size += pages[i].bytes + 256
	}
	dst := append(make([]byte, 0, size), `{"items":[`...)
	for i := range items {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"channel_id":`...)
		dst = api.AppendString(dst, items[i].asked)
		dst = append(dst, `,"channel_type":`...)
		dst = strconv.AppendUint(dst, uint64(items[i].channel.Type), 10)
		dst = append(dst, ',')
		dst = appendPageFields(dst, &items[i].syncRequest, pages[i].page)
		if problem := pages[i].problem; problem != nil {
			dst = append(dst, `,"code":`...)
			dst = api.AppendString(dst, problem.Code)
			dst = append(dst, `,"error":`...)
			dst = api.AppendString(dst, problem.Msg)
		}
		dst = append(dst, '}')
	}
	return append(dst, "]}\n"...)
}
