package ingest

import (
	"net/http"
	"strconv"
	"time"
)

// window is GET /message/window: how far back a send is surely known by its client_msg_no, in all partitions, as their sequencers say in their
// leases. It is left out while one of them has not said it. What a lease says holds for seconds after it, since only half of the window is
// counted (fold.State.Remembers), and while a sequencer is away nothing is forgotten.
func (s *Service) window(w http.ResponseWriter, _ *http.Request, _ time.Time, _ uint64) problem {
	remembers := int64(-1)
	for _, p := range s.partitions {
		said := int64(0)
		if o := p.owner.Load(); o != nil {
			said = o.RemembersMS
		}
		if remembers < 0 || said < remembers {
			remembers = said
		}
	}
	answer := []byte(`{`)
	if remembers > 0 {
		answer = strconv.AppendInt(append(answer, `"remembers_ms":`...), remembers, 10)
		answer = append(answer, ',')
	}
	answer = append(answer, `"ordered_bulks":true}`+"\n"...)
	w.Header()["Content-Type"] = s.contentType
	_, _ = w.Write(answer) // a caller that has gone asks again
	return problem{}
}
