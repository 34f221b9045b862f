package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Outcome is what became of one send of a bulk.
type Outcome struct {
	// Result counts where Err is nil.
	Result Result
	// Err is nil, or an error as Send returns it.
	Err error
}

// itemRetryAfter is how long an item of a bulk waits that is told to come later: an element of the answer has no headers, and docs/reference/api.md says
// this.
const itemRetryAfter = time.Second

// errUnanswered says that the answer to a bulk ended before an item's.
var errUnanswered = errors.New("the answer to the bulk ends before this item's")

// SendBulk sends many messages in few requests. It returns an outcome for each, in the order of the sends, and an error if any of them is
// one: it wraps the first and says how many there are.
//
// The sends need not belong together, and one that fails spoils no other. Those that got no answer, or are told to come later, are sent
// again with their client_msg_no. Sends to one channel keep their order, except that one which had to be sent again comes behind those that
// had not. A request that is too large for the server, or for something in between, is made again in smaller ones; a send that is too
// large by itself is refused alone.
func (c *Client) SendBulk(ctx context.Context, sends []Send) ([]Outcome, error) {
	b := &bulk{c: c, bytesMax: c.cfg.BulkBytesMax, outcomes: make([]Outcome, len(sends)), failures: make([]SendError, len(sends)), lines: make([][]byte, len(sends))}
	for i, s := range sends {
		err := s.Prepare()
		if err == nil {
			b.lines[i], err = json.Marshal(s)
		}
		if err != nil {
			b.outcomes[i].Err = err
			continue
		}
		b.failures[i].ClientMsgNo = s.ClientMsgNo
		b.open = append(b.open, i)
	}
	b.run(ctx)
	var first error
	count := 0
	for _, o := range b.outcomes {
		if o.Err == nil {
			continue
		}
		if count++; first == nil {
			first = o.Err
		}
	}
	if first != nil {
		return b.outcomes, fmt.Errorf("client: %d of %d sends failed, the first so: %w", count, len(sends), first)
	}
	return b.outcomes, nil
}

// bulk is one call of SendBulk.
type bulk struct {
	c        *Client
	bytesMax int      // of a request
	lines    [][]byte // the sends' JSON
	outcomes []Outcome
	failures []SendError // of each send, so far
	open     []int       // sends without an outcome, in their order
}

// run sends in rounds: each goes once through what is open. A request that fails as a whole ends its round, since the next would too, unless
// it was refused: that says nothing about the next.
func (b *bulk) run(ctx context.Context) {
	inVain := 0 // rounds in a row in which the first request failed as a whole
	for round := 1; len(b.open) > 0; round++ {
		todo := b.open
		b.open = nil
		var failure error
		progress := false
		for len(todo) > 0 && failure == nil {
			var n int
			n, failure = b.try(ctx, todo[:b.chunk(todo)])
			todo = todo[n:]
			progress = progress || n > 0 && failure == nil
		}
		b.open = append(b.open, todo...)
		if inVain++; progress {
			inVain = 0
		}
		if len(b.open) == 0 {
			return
		}
		if failure == nil {
			failure = b.longest()
		}
		if inVain >= b.c.cfg.TriesMax || !b.c.pause(ctx, max(1, min(round, b.c.cfg.TriesMax)), failure) {
			b.giveUp(failure)
			return
		}
	}
}

// chunk is how many of the sends go into the next request.
func (b *bulk) chunk(todo []int) int {
	size := 0
	for n, i := range todo {
		size += len(b.lines[i]) + 1
		if n == b.c.cfg.BulkItemsMax || n > 0 && size > b.bytesMax {
			return n
		}
	}
	return len(todo)
}

// longest is, of the failures of the open sends, the one after which to wait longest.
func (b *bulk) longest() error {
	failure := b.failures[b.open[0]].Err
	for _, i := range b.open {
		if err := b.failures[i].Err; RetryAfter(err) > RetryAfter(failure) {
			failure = err
		}
	}
	return failure
}

// giveUp makes outcomes of what is open. Sends that were never tried fail as the last request did, which was not refused.
func (b *bulk) giveUp(failure error) {
	for _, i := range b.open {
		if b.failures[i].Err == nil {
			b.failures[i].Err = failure
		}
		b.outcomes[i].Err = &b.failures[i]
	}
	b.open = nil
}

// fail notes that a try of a send that began at start failed, and keeps the send open where another can help.
func (b *bulk) fail(i int, start time.Time, err error) {
	f := &b.failures[i]
	f.add(start, err)
	if f.Tries < b.c.cfg.TriesMax && IsRetryable(err) {
		b.open = append(b.open, i)
		return
	}
	b.outcomes[i].Err = f
}

// try makes one request, and says how many sends it was about: none where they are too large together and smaller requests are to follow.
// It returns an error where the request failed as a whole and was not refused.
func (b *bulk) try(ctx context.Context, chunk []int) (int, error) {
	var body bytes.Buffer
	var todo []int
	for _, i := range chunk {
		if f := &b.failures[i]; f.late(b.c.cfg) {
			b.outcomes[i].Err = f
		}
		if b.outcomes[i].Err != nil {
			continue // since it is late now, or was before the requests became smaller
		}
		todo = append(todo, i)
		body.Write(b.lines[i])
		body.WriteByte('\n')
	}
	if len(todo) == 0 {
		return len(chunk), nil
	}
	start := time.Now()
	answered, err := b.ask(ctx, todo, body.Bytes())
	if answered == 0 && len(todo) > 1 && tooLarge(err) {
		b.bytesMax = body.Len() / 2
		return 0, nil
	}
	for _, i := range todo[answered:] {
		b.fail(i, start, err)
	}
	if answered > 0 || IsRefused(err) {
		return len(chunk), nil
	}
	return len(chunk), err
}

// tooLarge says whether a request was refused for its size, by the server or something in between.
func tooLarge(err error) bool {
	answered := (*Error)(nil)
	return errors.As(err, &answered) && answered.Status == http.StatusRequestEntityTooLarge
}

// ask posts a body and reads the answers to the first sends of todo, as many as there are. The error says why there are not all.
func (b *bulk) ask(ctx context.Context, todo []int, body []byte) (answered int, err error) {
	start := time.Now()
	res, err := b.c.request(ctx, b.c.cfg.BulkTryTimeout, http.MethodPost, "/message/sendbulk", "application/x-ndjson", body)
	if err != nil {
		return 0, err
	}
	defer res.close()
	if res.status != http.StatusOK {
		text, err := res.all()
		if err != nil {
			return 0, err
		}
		return 0, res.problem(text)
	}
	lines := bufio.NewScanner(res.body)
	lines.Buffer(nil, answerBytesMax)
	for answered < len(todo) && lines.Scan() {
		var a answerJSON
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return answered, &tryError{written: true, err: fmt.Errorf("a line of the answer is no JSON object: %w: %s", err, excerpt(lines.Bytes()))}
		}
		i := todo[answered]
		if a.Status != http.StatusOK {
			answered++
			e := a.problem()
			if e.Retryable() {
				e.RetryAfter = itemRetryAfter
			}
			b.fail(i, start, e)
			continue
		}
		r, err := a.result(b.failures[i].ClientMsgNo)
		if err != nil {
			return answered, err // the answers are out of step
		}
		answered++
		b.outcomes[i].Result = r
	}
	if answered == len(todo) {
		return answered, nil
	}
	if err := lines.Err(); err != nil {
		return answered, &tryError{written: true, err: fmt.Errorf("read the answers: %w", err)}
	}
	return answered, &tryError{written: true, err: errUnanswered}
}
