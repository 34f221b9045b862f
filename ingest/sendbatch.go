package ingest

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sendhouse/sendhouse/pkg/api"
	"github.com/sendhouse/sendhouse/pkg/message"
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
func (s *Service) sendBatch(w http.ResponseWriter, r *http.Request, _ time.Time, _ uint64) problem {
	req := s.requests.get()
	defer s.requests.put(req)
	p := s.receive(w, r, req)
	if p.ok() {
		p = req.decode()
	}
	var uids []string
	if p.ok() {
		uids = req.takeReceivers()
		p = s.checkBatch(req)
	}
	f := s.newFlight()
	defer f.end()
	if p.ok() && !f.reserve(len(uids)*receiverBytes) {
		p = problem{outcome: outcomeOverloaded, msg: "no memory for so many receivers at this time; nothing was written"}
	}
	if !p.ok() {
		p.write(w)
		return p
	}

	s.extend(w)
	ctx := r.Context()
	for _, uid := range uids {
		p := req.address(uid, int(s.cfg.PayloadBytesMax))
		if p.ok() {
			p = s.permit(req)
		}
		f.place(ctx, req, p)
	}
	out, reasons := append([]byte(nil), `{"fail_uids":[`...), []byte(nil)
	for i, uid := range uids {
		it := f.at(ctx, i)
		if it.problem.outcome == outcomeAccepted || it.problem.outcome == outcomeDuplicate {
			continue
		}
		if len(reasons) > 0 {
			out, reasons = append(out, ','), append(reasons, ',')
		}
		out = api.AppendString(out, uid)
		reasons = api.AppendString(reasons, it.problem.message())
	}
	out = append(out, `],"reason":[`...)
	out = append(out, reasons...)
	out = append(out, "]}\n"...)
	s.extend(w)
	w.Header()["Content-Type"] = s.contentType
	_, _ = w.Write(out) // a caller that has gone asks again
	return problem{sends: len(uids)}
}

// takeReceivers takes the receivers out of the request: empty ones left out, sorted, each
// once.
func (r *request) takeReceivers() []string {
	f := &r.fields
	uids := make([]string, 0, len(f.subscribers))
	for _, uid := range f.subscribers {
		if uid != "" {
			uids = append(uids, uid)
		}
	}
	f.subscribers = f.subscribers[:0]
	slices.Sort(uids)
	uids = slices.Compact(uids)
	if len(uids) == 0 {
		r.bad(fieldSubscribers, isRequired)
	}
	return uids
}

// checkBatch checks what is the same for all receivers: everything but the channel.
func (s *Service) checkBatch(req *request) problem {
	f := &req.fields
	f.channelType = int64(message.ChannelPerson)
	// A wrong channel is none of ours, so what decode noted of it does not count.
	req.issues = slices.DeleteFunc(req.issues, func(i issue) bool { return i.field == fieldChannelID || i.field == fieldChannelType })
	f.channelID = "somebody"
	if p := req.validate(int(s.cfg.PayloadBytesMax)); !p.ok() {
		return p
	}
	return s.checkPayloadRules(req)
}

// address makes the send to one receiver. What else is in the request has been checked.
func (r *request) address(uid string, payloadBytesMax int) problem {
	r.issues = r.issues[:0]
	if strings.Contains(uid, "@") {
		r.bad(fieldSubscribers, "must be uids, which hold no '@'")
		return r.problem()
	}
	r.fields.channelID = uid
	return r.validate(payloadBytesMax)
}
