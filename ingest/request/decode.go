package request

import (
	"encoding/base64"
	"errors"
	"strconv"
	"unicode/utf8"

	"github.com/go-faster/jx"

	"github.com/sendhouse/sendhouse/ingest/outcome"
)

// subscribersMax is the largest number of receivers in a request.
const subscribersMax = 10_000

// Decode parses r.body into r.fields. It returns a problem only if the body is not a single JSON object. A field of a
// wrong type is recorded and decoding continues, so that one error can name every bad field.
//
// It accepts and rejects what encoding/json does for a struct with pointer fields and exact names, except:
//   - Bytes that are not UTF-8, and unpaired surrogates in a field that is used, are rejected: replacing them could make
//     two names equal.
//   - An element of subscribers must not be null.
//   - The payload must be a string; encoding/json also accepts an array of numbers.
//   - Nesting deeper than depthMax is rejected.
//
// For a duplicate key the last value wins, null included, which means absent; but a wrong type is an error in any of the
// values.
func (r *Request) Decode() outcome.Problem {
	if p := r.checkText(); !p.OK() || r.scan() {
		return p
	}
	return r.decodeText(r.object)
}

// decodeWith checks that the body is a single JSON object, which the function object parses.
func (r *Request) decodeWith(object func(d *jx.Decoder) error) outcome.Problem {
	if p := r.checkText(); !p.OK() {
		return p
	}
	return r.decodeText(object)
}

// checkText checks that the body is neither empty nor invalid UTF-8.
func (r *Request) checkText() outcome.Problem {
	if len(r.body) == 0 {
		return outcome.Problem{Outcome: outcome.InvalidJSON, Msg: "the body is empty; it must be a JSON object"}
	}
	if !utf8.Valid(r.body) {
		return outcome.Problem{Outcome: outcome.InvalidJSON, Msg: "the body is not valid UTF-8"}
	}
	return outcome.Problem{}
}

// decodeText is decodeWith after checkText.
func (r *Request) decodeText(object func(d *jx.Decoder) error) outcome.Problem {
	d := &r.json
	d.ResetBytes(r.body)
	if d.Next() != jx.Object {
		return outcome.Problem{Outcome: outcome.InvalidJSON, Msg: "the body must be a JSON object"}
	}
	err := object(d)
	if err == nil {
		err = atEnd(d)
	}
	if err != nil {
		return outcome.Problem{Outcome: outcome.InvalidJSON, Msg: "the body is not valid JSON: " + err.Error()}
	}
	return outcome.Problem{}
}

// object parses the top-level object.
func (r *Request) object(d *jx.Decoder) error {
	it, err := d.ObjIter()
	if err != nil {
		return err
	}
	for it.Next() {
		f := fieldOf(it.Key())
		switch text, integer := r.fields.text(f), r.fields.integer(f); {
		case text != nil:
			err = r.string(d, f, text)
		case integer != nil:
			err = r.integer(d, f, integer)
		case f == fieldPayload:
			err = r.base64(d)
		case f == fieldHeader:
			err = r.header(d)
		case f == FieldSubscribers:
			err = r.uids(d, f)
		default:
			err = skip(d, 2)
		}
		if err != nil {
			return err
		}
	}
	return it.Err()
}

func (r *Request) header(d *jx.Decoder) error {
	f := &r.fields
	switch d.Next() {
	case jx.Object:
	case jx.Null:
		for flag := range f.headerFlags {
			f.given.remove(fieldHeaderNoPersist + Field(flag))
			f.headerFlags[flag] = 0
		}
		return d.Null()
	default:
		r.bad(fieldHeader, "must be an object")
		return skip(d, 2)
	}
	it, err := d.ObjIter()
	if err != nil {
		return err
	}
	for it.Next() {
		switch string(it.Key()) {
		case "no_persist":
			err = r.integer(d, fieldHeaderNoPersist, &f.headerFlags[flagNoPersist])
		case "red_dot":
			err = r.integer(d, fieldHeaderRedDot, &f.headerFlags[flagRedDot])
		case "sync_once":
			err = r.integer(d, fieldHeaderSyncOnce, &f.headerFlags[flagSyncOnce])
		default:
			err = skip(d, 3)
		}
		if err != nil {
			return err
		}
	}
	return it.Err()
}

// string reads a string field into dst.
func (r *Request) string(d *jx.Decoder, f Field, dst *string) error {
	r.fields.given.remove(f)
	*dst = ""
	switch d.Next() {
	case jx.String:
	case jx.Null:
		return d.Null()
	default:
		r.bad(f, "must be a string")
		return skip(d, 2)
	}
	raw, err := d.Raw()
	if err != nil {
		return err
	}
	text, ok := r.unquote(raw)
	if !ok {
		r.bad(f, unpairedSurrogate)
		return nil
	}
	r.fields.given.add(f)
	*dst = alias(text)
	return nil
}

// integer reads an integer field into dst. A value that is not a 64-bit integer is recorded as an issue; validation checks
// the range.
func (r *Request) integer(d *jx.Decoder, f Field, dst *int64) error {
	r.fields.given.remove(f)
	*dst = 0
	switch d.Next() {
	case jx.Number:
	case jx.Null:
		return d.Null()
	default:
		r.bad(f, "must be an integer")
		return skip(d, 2)
	}
	raw, err := d.Raw()
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(alias(raw), 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		r.bad(f, "is out of range")
	case err != nil:
		r.bad(f, "must be an integer")
	default:
		r.fields.given.add(f)
		*dst = n
	}
	return nil
}

// base64 reads the payload into r.payload.
func (r *Request) base64(d *jx.Decoder) error {
	f := &r.fields
	f.given.remove(fieldPayload)
	switch d.Next() {
	case jx.String:
	case jx.Null:
		return d.Null()
	default:
		r.bad(fieldPayload, "must be a string in base64")
		return skip(d, 2)
	}
	raw, err := d.Raw()
	if err != nil {
		return err
	}
	text, ok := r.unquote(raw)
	if !ok {
		r.bad(fieldPayload, unpairedSurrogate)
		return nil
	}
	if !r.decodePayload(text) {
		r.bad(fieldPayload, "must be in standard base64 with padding")
	}
	return nil
}

// decodePayload decodes the payload into r.payload. Like encoding/json, it ignores line breaks in the text.
func (r *Request) decodePayload(text []byte) bool {
	most := base64.StdEncoding.DecodedLen(len(text))
	if cap(r.payload) < most {
		r.payload = make([]byte, most)
	}
	n, err := base64.StdEncoding.Decode(r.payload[:most], text)
	if err != nil {
		return false
	}
	r.fields.given.add(fieldPayload)
	r.fields.payload = r.payload[:n]
	return true
}

// uids reads an array of uids into r.fields.subscribers. A body has only one such field.
func (r *Request) uids(d *jx.Decoder, name Field) error {
	f := &r.fields
	f.given.remove(name)
	f.subscribers = f.subscribers[:0]
	switch d.Next() {
	case jx.Array:
	case jx.Null:
		return d.Null()
	default:
		r.bad(name, "must be an array of strings")
		return skip(d, 2)
	}
	it, err := d.ArrIter()
	if err != nil {
		return err
	}
	for it.Next() {
		if d.Next() != jx.String {
			r.bad(name, "must be an array of strings")
			if err := skip(d, 3); err != nil {
				return err
			}
			continue
		}
		raw, err := d.Raw()
		if err != nil {
			return err
		}
		text, ok := r.unquote(raw)
		switch {
		case !ok:
			r.bad(name, unpairedSurrogate)
		case len(f.subscribers) == subscribersMax:
			r.bad(name, "must be at most 10000")
		default:
			f.subscribers = append(f.subscribers, alias(text))
		}
	}
	f.given.add(name)
	return it.Err()
}
