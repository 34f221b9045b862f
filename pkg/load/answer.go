package load

import (
	"fmt"
	"net/http"

	"github.com/go-faster/jx"
)

// answer is what the API said of one send.
type answer struct {
	status   int
	code     string // of an error
	text     string // of an error
	id       int64
	seq      uint64
	key      []byte // client_msg_no; good until the parser's next call
	replayed bool
}

func (a *answer) ok() bool { return a.status == http.StatusOK }

// again reports whether the same send may be answered otherwise later.
func (a *answer) again() bool {
	return a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable
}

// parser reads answers without an allocation for each.
type parser struct {
	decoder jx.Decoder
	key     []byte
}

// one reads the answer to a single send.
func (p *parser) one(r response) (answer, error) {
	p.decoder.ResetBytes(r.body)
	a := answer{replayed: r.replayed}
	p.key = p.key[:0]
	if err := p.object(&a); err != nil {
		return a, fmt.Errorf("answer %d: %w: %.200q", r.status, err, r.body)
	}
	a.status = r.status
	return a, nil
}

// each reads the lines of the answer to a bulk.
func (p *parser) each(r response, handle func(i int, a *answer) error) error {
	p.decoder.ResetBytes(r.body)
	for i := 0; ; i++ {
		if p.decoder.Next() == jx.Invalid {
			return nil // the end, or what the caller's count will notice
		}
		var a answer
		p.key = p.key[:0]
		if err := p.object(&a); err != nil {
			return fmt.Errorf("element %d of the answer: %w", i, err)
		}
		if err := handle(i, &a); err != nil {
			return err
		}
	}
}

func (p *parser) object(a *answer) error {
	d := &p.decoder
	return d.ObjBytes(func(d *jx.Decoder, key []byte) (err error) {
		switch string(key) {
		case "status":
			a.status, err = d.Int()
		case "message_id":
			a.id, err = d.Int64()
		case "message_seq":
			a.seq, err = d.UInt64()
		case "client_msg_no":
			p.key, err = d.StrAppend(p.key)
			a.key = p.key
		case "idempotent_replayed":
			a.replayed, err = d.Bool()
		case "code":
			a.code, err = d.Str()
		case "msg":
			a.text, err = d.Str()
		default:
			err = d.Skip()
		}
		return err
	})
}
