package ingest

import (
	"net/http"
	"time"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/message"
)

// receiverBytes is what a receiver of sendBatch is charged to the budget: its item, and client_msg_no or its reason in the
// response. The names in the response are no longer than the body, which is charged separately.
const receiverBytes = itemBytes + message.ClientMsgNoBytesMax

// sendBatch serves POST /message/sendbatch: one message to each of many persons, as in WuKongIM v2. A problem that
// concerns all receivers is a single error; otherwise the response names each receiver to whom the message could not be
// sent, with the reason.
//
// All messages have the request's client_msg_no. Their channels differ, so they are not duplicates of each other, and the
// whole request can be repeated.
func (s *Service) sendBatch(w http.ResponseWriter, r *http.Request, _ time.Time, _ uint64) outcome.Problem {
	req := s.requests.Get()
	defer s.requests.Put(req)
	p := s.requests.Receive(w, r, req)
	if p.OK() {
		p = req.Decode()
	}
	var uids []string
	if p.OK() {
		uids = req.TakeReceivers()
		p = req.ValidateBatch(int(s.cfg.PayloadBytesMax))
	}
	if p.OK() {
		p = s.rules.Apply(req)
	}
	f := s.newFlight()
	defer f.end()
	if p.OK() && !f.reserve(len(uids)*receiverBytes) {
		p = outcome.Problem{Outcome: outcome.Overloaded, Msg: "not enough memory for so many receivers now; nothing was written"}
	}
	if !p.OK() {
		p.Write(w)
		return p
	}

	s.extend(w)
	ctx := r.Context()
	for _, uid := range uids {
		p := req.Address(uid, int(s.cfg.PayloadBytesMax))
		if p.OK() {
			p = s.permit(req)
		}
		f.push(ctx, req, p)
	}
	out, reasons := append([]byte(nil), `{"fail_uids":[`...), []byte(nil)
	for i, uid := range uids {
		it := f.at(ctx, i)
		if it.problem.Outcome == outcome.Accepted || it.problem.Outcome == outcome.Duplicate {
			continue
		}
		if len(reasons) > 0 {
			out, reasons = append(out, ','), append(reasons, ',')
		}
		out = api.AppendString(out, uid)
		reasons = api.AppendString(reasons, it.problem.Message())
	}
	out = append(out, `],"reason":[`...)
	out = append(out, reasons...)
	out = append(out, "]}\n"...)
	s.extend(w)
	w.Header()["Content-Type"] = s.contentType
	_, _ = w.Write(out) // a disconnected caller repeats the request
	return outcome.Problem{Sends: len(uids)}
}
