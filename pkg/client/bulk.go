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

// itemRetryAfter is the pause before an item that the server asks to send later: an element of the answer has no Retry-After header, and
// docs/reference/api.md names one second.
const itemRetryAfter = time.Second

// errUnanswered says that the answer to a bulk ended before an item's.
var errUnanswered = errors.New("the answer to the bulk ends before this item's")

// SendBulk sends many messages in few requests. It returns an outcome for each, in the order of the sends, and an error if any of them is
// one: it wraps the first and says how many there are.
//
// The sends need not belong together, and one that fails spoils no other. Those without an answer, and those that the server asks to
// send later, are sent again with their client_msg_no. Sends to one channel keep their order, but one that is sent again comes after those
// that are not. A request that is too large for the server, or for something in between, is made again in smaller ones; a send that is too
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

// try makes one request, and returns how many sends it was about: none if they are too large together and smaller requests are to follow.
// It returns an error if the request failed as a whole and was not refused.
func (b *bulk) try(ctx context.Context, chunk []int) (int, error) {
	timeout, err := b.timeout(ctx, chunk)
	if err != nil {
		return 0, err
	}
	var todo []int
	var encoded []Encoded
	size := 0
	for _, i := range chunk {
		if b.outcomes[i].Err != nil {
			continue // since it is late now, or was before the requests became smaller
		}
		todo = append(todo, i)
		encoded = append(encoded, Encoded{ClientMsgNo: b.failures[i].ClientMsgNo, JSON: b.lines[i]})
		size += len(b.lines[i]) + 1
	}
	if len(todo) == 0 {
		return len(chunk), nil
	}
	start := time.Now()
	outcomes := make([]Outcome, len(todo))
	answered, err := b.c.ask(ctx, encoded, outcomes, outgoing{timeout: timeout})
	if answered == 0 && len(todo) > 1 && tooLarge(err) {
		b.bytesMax = size / 2
		return 0, nil
	}
	for n, i := range todo {
		switch {
		case n >= answered:
			b.fail(i, start, err)
		case outcomes[n].Err != nil:
			b.fail(i, start, outcomes[n].Err)
		default:
			b.outcomes[i] = outcomes[n]
		}
	}
	if answered > 0 || IsRefused(err) {
		return len(chunk), nil
	}
	return len(chunk), err
}

// timeout is how long a request may take. Sends of it that the server may have forgotten fail.
func (b *bulk) timeout(ctx context.Context, chunk []int) (time.Duration, error) {
	timeout := b.c.cfg.BulkTryTimeout
	for _, i := range chunk {
		f := &b.failures[i]
		if !f.MaybeStored || b.outcomes[i].Err != nil {
			continue
		}
		left, err := b.c.resendable(ctx, f.since)
		if err != nil {
			return 0, err
		}
		if left <= 0 {
			b.outcomes[i].Err = f
			continue
		}
		timeout = min(timeout, left)
	}
	return timeout, nil
}

// tooLarge reports whether a request was refused for its size, by the server or something in between.
func tooLarge(err error) bool {
	answered := (*Error)(nil)
	return errors.As(err, &answered) && answered.Status == http.StatusRequestEntityTooLarge
}

// Encoded is a send in the form in which the API takes it, for callers that keep it so.
type Encoded struct {
	ClientMsgNo string // of the send
	JSON        []byte // of the send, on one line
}

// TryOptions are how [Client.TryEncoded] tries.
type TryOptions struct {
	// Ordered asks that a send is not stored unless those of its channel before it are. Not every server can: see [Window].
	Ordered bool
	// Timeout bounds the try; 0 means Config.TryTimeout for one send and Config.BulkTryTimeout for more.
	Timeout time.Duration
}

// TryEncoded makes one request for all sends, once, and returns an outcome for each. It is for callers that try again themselves.
func (c *Client) TryEncoded(ctx context.Context, sends []Encoded, opt TryOptions) []Outcome {
	outcomes := make([]Outcome, len(sends))
	timeout := c.cfg.BulkTryTimeout
	if len(sends) == 1 {
		timeout = c.cfg.TryTimeout
	}
	if opt.Timeout > 0 {
		timeout = min(timeout, opt.Timeout)
	}
	if len(sends) == 1 {
		outcomes[0].Result, outcomes[0].Err = c.trySend(ctx, sends[0].ClientMsgNo, sends[0].JSON, timeout)
		return outcomes
	}
	answered, err := c.ask(ctx, sends, outcomes, outgoing{timeout: timeout, ordered: opt.Ordered})
	for i := answered; i < len(outcomes); i++ {
		outcomes[i].Err = err
	}
	return outcomes
}

// ask posts sends and reads the answers to the first of them, as many as there are. The error is why there are not all.
func (c *Client) ask(ctx context.Context, sends []Encoded, outcomes []Outcome, out outgoing) (answered int, err error) {
	size := 0
	for _, s := range sends {
		size += len(s.JSON) + 1
	}
	out.body = make([]byte, 0, size)
	for _, s := range sends {
		out.body = append(append(out.body, s.JSON...), '\n')
	}
	out.method, out.route, out.contentType = http.MethodPost, "/message/sendbulk", "application/x-ndjson"
	res, err := c.request(ctx, out)
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
	lines.Buffer(make([]byte, 0, 64<<10), answerBytesMax)
	for answered < len(sends) && lines.Scan() {
		no := sends[answered].ClientMsgNo
		if r, ok := plainResult(lines.Bytes(), no); ok {
			outcomes[answered].Result = r
			answered++
			continue
		}
		var a answerJSON
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return answered, &tryError{written: true, err: fmt.Errorf("a line of the answer is no JSON object: %w: %s", err, excerpt(lines.Bytes()))}
		}
		if a.Status != http.StatusOK {
			e := a.problem()
			if e.Retryable() {
				e.RetryAfter = itemRetryAfter
			}
			outcomes[answered].Err = e
			answered++
			continue
		}
		r, err := a.result(no)
		if err != nil {
			return answered, err // the answers are out of step
		}
		outcomes[answered].Result = r
		answered++
	}
	if answered == len(sends) {
		return answered, nil
	}
	if err := lines.Err(); err != nil {
		return answered, &tryError{written: true, err: fmt.Errorf("read the answers: %w", err)}
	}
	return answered, &tryError{written: true, err: errUnanswered}
}

// plainResult reads the line of a send that was stored, exactly as the server writes it. Anything else is left to encoding/json, which takes ten
// times as long.
func plainResult(line []byte, clientMsgNo string) (r Result, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"status":200,"message_id":`))
	if !ok {
		return r, false
	}
	var id []byte
	if r.MessageID, id, rest, ok = digits(rest); !ok {
		return r, false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(`,"message_idstr":"`)); !ok {
		return r, false
	}
	if rest, ok = bytes.CutPrefix(rest, id); !ok {
		return r, false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(`","message_seq":`)); !ok {
		return r, false
	}
	if r.MessageSeq, _, rest, ok = digits(rest); !ok {
		return r, false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(`,"client_msg_no":"`)); !ok {
		return r, false
	}
	if len(rest) < len(clientMsgNo) || string(rest[:len(clientMsgNo)]) != clientMsgNo {
		return r, false // another's, or escaped
	}
	switch string(rest[len(clientMsgNo):]) {
	case `"}`:
	case `","idempotent_replayed":true}`:
		r.Replayed = true
	default:
		return r, false
	}
	r.ClientMsgNo = clientMsgNo
	return r, r.MessageID > 0
}

// digits reads a number of up to 18 digits, which fits 63 bits.
func digits(text []byte) (n int64, read, rest []byte, ok bool) {
	i := 0
	for ; i < len(text) && text[i] >= '0' && text[i] <= '9'; i++ {
		n = n*10 + int64(text[i]-'0')
	}
	return n, text[:i], text[i:], i > 0 && i <= 18
}
