package ingest

import (
	"errors"
	"io"
	"unsafe"

	"github.com/go-faster/jx"
)

// depthMax bounds the nesting of a body. Ours has two levels; the rest is for
// fields that are ignored.
const depthMax = 64

var (
	errDepth    = errors.New("nested too deep")
	errTrailing = errors.New("something follows the object")
)

// atEnd checks that nothing but white space follows.
func atEnd(d *jx.Decoder) error {
	if d.Next() != jx.Invalid {
		return errTrailing
	}
	if err := d.Skip(); !errors.Is(err, io.EOF) {
		return errTrailing
	}
	return nil
}

// skip passes over a value that stands at the given depth. jx's own Skip recurses
// 10,000 deep.
func skip(d *jx.Decoder, depth int) error {
	if depth > depthMax {
		return errDepth
	}
	switch d.Next() {
	case jx.Object:
		it, err := d.ObjIter()
		if err != nil {
			return err
		}
		for it.Next() {
			if err := skip(d, depth+1); err != nil {
				return err
			}
		}
		return it.Err()
	case jx.Array:
		it, err := d.ArrIter()
		if err != nil {
			return err
		}
		for it.Next() {
			if err := skip(d, depth+1); err != nil {
				return err
			}
		}
		return it.Err()
	default:
		return d.Skip()
	}
}

// alias is a string over b, without a copy. It lives as long as b is not changed.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// isSpace says whether JSON knows a byte as white space.
func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// trimLeft cuts white space off the front.
func trimLeft(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	return b
}

// trimSpace cuts it off both ends.
func trimSpace(b []byte) []byte {
	b = trimLeft(b)
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}
