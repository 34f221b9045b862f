package load

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/sendhouse/sendhouse/pkg/lifecycle"

	"github.com/sendhouse/sendhouse/pkg/message"
)

const (
	// pastKept is how many answered sends a worker remembers to repeat.
	pastKept = 256
	// pastAgeMax keeps repeats well inside the shortest usual deduplication window.
	pastAgeMax = time.Minute

	backoffMin = 10 * time.Millisecond
	backoffMax = time.Second
)

// worker sends over one connection, one request after another.
type worker struct {
	number   int
	run      *Run
	client   *client
	timer    *time.Timer
	parser   parser
	items    []item
	todo     []*item
	body     []byte
	scratch  []byte
	past     []pastSend
	pastNext int
}

// item is a send of the request under way.
type item struct {
	send
	repeats *pastSend // the send is a repeated one; nil: it is new
	done    bool
	ok      bool
}

// pastSend is an answered send.
type pastSend struct {
	send
	id  message.ID
	seq uint64
	at  time.Time
}

func (w *worker) work(ctx context.Context) {
	defer w.client.close()
	w.timer = time.NewTimer(0)
	defer w.timer.Stop()
	size := max(w.run.cfg.Bulk, 1)
	for {
		first, n, due, ok := w.run.pace.take(ctx, size)
		if !ok || !w.await(ctx, due) {
			return
		}
		w.choose(first, n)
		w.run.recorder.add(w.number, w.deliver(ctx, due))
	}
}

// await waits until a send is due, if it is not yet. One timer serves all of them; a new one each time is garbage.
func (w *worker) await(ctx context.Context, due time.Time) bool {
	wait := time.Until(due)
	if wait <= 0 {
		return true
	}
	w.timer.Reset(wait)
	select {
	case <-w.timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// choose fills the items with the sends from first on, some of them replaced by earlier ones.
func (w *worker) choose(first uint64, n int) {
	w.items = w.items[:0]
	for i := range n {
		it := item{send: w.run.script.send(first + uint64(i))}
		if w.run.cfg.Duplicates > 0 && len(w.past) > 0 && rand.Float64() < w.run.cfg.Duplicates {
			p := w.past[rand.IntN(len(w.past))]
			if time.Since(p.at) < pastAgeMax {
				it.send, it.repeats = p.send, &p
			}
		}
		w.items = append(w.items, it)
	}
}

// deliver sends the items until each is answered, refused or given up.
func (w *worker) deliver(ctx context.Context, due time.Time) sample {
	m := sample{due: due, sent: time.Now()}
	giveUp := m.sent.Add(w.run.cfg.GiveUp)
	backoff, asked := lifecycle.Backoff{Min: backoffMin, Max: backoffMax}, time.Duration(0) // asked: by the server
	for {
		w.todo = w.todo[:0]
		for i := range w.items {
			if !w.items[i].done {
				w.todo = append(w.todo, &w.items[i])
			}
		}
		if len(w.todo) == 0 {
			break
		}
		if m.requests > 0 {
			if time.Now().After(giveUp) || !w.wait(ctx, max(asked, backoff.After(m.requests))) {
				break
			}
		}
		m.requests++
		asked = w.attempt(ctx)
	}
	m.answered = time.Now()
	for i := range w.items {
		it := &w.items[i]
		switch {
		case !it.done:
			w.run.checker.lose(it.send)
		case it.ok:
			m.sends++
			m.payload += it.size
			if it.repeats != nil {
				m.duplicates++
			}
		}
	}
	return m
}

func (w *worker) wait(ctx context.Context, pause time.Duration) bool {
	return lifecycle.Pause(ctx, pause/2+rand.N(pause)) == nil
}

// attempt sends what is to do once, and returns the pause that the server asks for. Requests are not
// cut short by ctx: their answers count.
func (w *worker) attempt(ctx context.Context) (after time.Duration) {
	w.body = w.body[:0]
	for _, it := range w.todo {
		w.body = w.run.script.appendJSON(w.body, it.send, &w.scratch)
		if w.run.cfg.Bulk > 0 {
			w.body = append(w.body, '\n')
		}
	}
	r, err := w.client.post(context.WithoutCancel(ctx), w.body)
	if err == nil {
		err = w.take(r)
	}
	if err != nil {
		w.run.broken(err)
		return 0
	}
	return r.retryAfter
}

// take handles an answer.
func (w *worker) take(r response) error {
	if w.run.cfg.Bulk > 0 && r.status == http.StatusOK {
		return w.parser.each(r, func(i int, a *answer) error {
			if i >= len(w.todo) {
				return fmt.Errorf("more elements than sends: %d %s %s", a.status, a.code, a.text)
			}
			w.takeOne(w.todo[i], a)
			return nil
		})
	}
	a, err := w.parser.one(r)
	if err != nil && !(&answer{status: r.status}).again() {
		return err
	}
	for _, it := range w.todo { // of a bulk: all refused together
		w.takeOne(it, &a)
	}
	return nil
}

func (w *worker) takeOne(it *item, a *answer) {
	if a.again() {
		w.run.recorder.againCount.Add(1)
		return
	}
	it.done, it.ok = true, a.ok()
	if !it.ok {
		w.run.recorder.refuse(it.send, a)
		if a.status == http.StatusConflict || a.status >= http.StatusInternalServerError {
			w.run.checker.violate("send %d: %d %s: %s", it.n, a.status, a.code, a.text)
		}
		return
	}
	w.scratch = w.run.script.appendKey(w.scratch[:0], it.send)
	if !bytes.Equal(a.key, w.scratch) {
		w.run.checker.violate("send %d: client_msg_no %q came back as %q", it.n, w.scratch, a.key)
	}
	id := message.ID(a.id)
	if p := it.repeats; p != nil {
		if id != p.id || a.seq != p.seq || !a.replayed {
			w.run.checker.violate("send %d repeated: answered %d, %d (replayed: %t), the first time %d, %d", it.n, id, a.seq, a.replayed, p.id, p.seq)
		}
		return
	}
	w.run.checker.accept(it.send, id, a.seq)
	if w.run.rows != nil {
		w.run.rows.expect(w.run.script, it.send, id, a.seq, &w.scratch)
	}
	if w.run.cfg.Duplicates > 0 {
		w.remember(pastSend{send: it.send, id: id, seq: a.seq, at: time.Now()})
	}
}

func (w *worker) remember(p pastSend) {
	if len(w.past) < pastKept {
		w.past = append(w.past, p)
		return
	}
	w.past[w.pastNext] = p
	w.pastNext = (w.pastNext + 1) % pastKept
}
