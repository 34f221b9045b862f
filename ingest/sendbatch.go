package ingest

import (
	"net/http"
	"time"

	"github.com/sendhouse/sendhouse/ingest/outcome"
	"github.com/sendhouse/sendhouse/pkg/api"
)

// receiverBytes is what a receiver of sendBatch counts in the budget: its item, and client_msg_no or its reason in the answer. The
// names in the answer are no more than the body, which counts for itself.
const receiverBytes = itemBytes + 128

// sendBatch is POST /message/sendbatch: one message to each of many persons, as
// WuKongIM v2 has it. What is wrong for all is one error; a receiver to whom it could not
// be sent is named in the answer, with the reason.
//
// All messages have the request's client_msg_no. Their channels differ, so that is no
// duplicate, and the whole request can be sent again.
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
		p = outcome.Problem{Outcome: outcome.Overloaded, Msg: "no memory for so many receivers at this time; nothing was written"}
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
	_, _ = w.Write(out) // a caller that has gone asks again
	return outcome.Problem{Sends: len(uids)}
}
