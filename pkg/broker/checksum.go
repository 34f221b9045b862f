package broker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// ErrChecksum says that a record is not the one that was written.
var ErrChecksum = errors.New("its checksum is wrong")

const (
	checksumStart = `,"crc32c":"`
	checksumEnd   = `"}`
	checksumBytes = len(checksumStart) + 8 + len(checksumEnd)
)

// WithChecksum adds a CRC32C to a JSON object that has a field at least, as its last field: a reader that does not know it
// passes it over.
func WithChecksum(object []byte) []byte {
	body := bytes.TrimSuffix(object, []byte("}"))
	return fmt.Appendf(bytes.Clone(body), "%s%08x%s", checksumStart, checksumOf(body), checksumEnd)
}

// UnmarshalChecked reads what WithChecksum made. An object without a checksum, as versions of before wrote it, may
// have no fields but those of v: one that has is damaged, be it in the checksum's own name. The error wraps ErrChecksum if
// the object has another content than was written.
func UnmarshalChecked(data []byte, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if n := len(data) - checksumBytes; n > 0 && bytes.HasPrefix(data[n:], []byte(checksumStart)) && bytes.HasSuffix(data, []byte(checksumEnd)) {
		said := data[n+len(checksumStart) : len(data)-len(checksumEnd)]
		if have := fmt.Sprintf("%08x", checksumOf(data[:n])); have != string(said) {
			return fmt.Errorf("%w: %s, recorded is %q", ErrChecksum, have, said)
		}
	} else {
		decoder.DisallowUnknownFields()
	}
	if err := decoder.Decode(v); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decode: something follows the object")
	}
	return nil
}

func checksumOf(body []byte) uint32 {
	return crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))
}
