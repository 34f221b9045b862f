package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strconv"
	"strings"
	"time"
)

// ByteSize is a number of bytes, written as "65536", "64KiB" or "64MB".
// KiB, MiB, GiB and TiB are powers of 1024; kB, MB, GB and TB are powers of 1000.
type ByteSize int64

// The binary units.
const (
	KiB ByteSize = 1 << 10
	MiB ByteSize = 1 << 20
	GiB ByteSize = 1 << 30
	TiB ByteSize = 1 << 40
)

// byteUnits lists the units that may follow the number.
//
//nolint:gochecknoglobals // a table that is never written
var byteUnits = []struct {
	name string
	size ByteSize
}{
	{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

// UnmarshalText reads a size. Upper and lower case are the same, and a space may stand before the unit.
func (s *ByteSize) UnmarshalText(text []byte) error {
	in := strings.TrimSpace(string(text))
	digits := strings.TrimLeft(in, "0123456789")
	number, unit := in[:len(in)-len(digits)], strings.TrimSpace(digits)
	if number == "" {
		return fmt.Errorf("%q is not a size: want a whole number and a unit, as in 512KiB, 64MB or 65536", in)
	}
	factor := ByteSize(1)
	if unit != "" {
		factor = unitSize(unit)
		if factor == 0 {
			return fmt.Errorf("%q is not a size: %q is not a unit; known are B, kB, MB, GB, TB and KiB, MiB, GiB, TiB, "+
				"after a whole number", in, unit)
		}
	}
	if err := checkDecimal(number, wholePattern, "a whole number"); err != nil {
		return err
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n > math.MaxInt64/int64(factor) {
		return fmt.Errorf("%q is larger than a size can be (8 EiB)", in)
	}
	*s = ByteSize(n) * factor
	return nil
}

func unitSize(name string) ByteSize {
	for _, unit := range byteUnits {
		if strings.EqualFold(unit.name, name) {
			return unit.size
		}
	}
	return 0
}

// String writes the size with the unit that divides it and leaves the smallest number, so that it
// is read back unchanged: 64KiB, 64MB, 65537B.
func (s ByteSize) String() string {
	number, name := s, "B"
	for _, unit := range byteUnits {
		if s%unit.size == 0 && s/unit.size < number {
			number, name = s/unit.size, unit.name
		}
	}
	return strconv.FormatInt(int64(number), 10) + name
}

// MarshalText writes what String writes.
func (s ByteSize) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Addr is a TCP address to listen on or to reach, as "host:port". An empty host means every
// interface; port 0 lets the system choose when listening. IPv6 hosts stand in brackets.
type Addr string

// UnmarshalText takes an address whose port is a number and whose host could be one.
func (a *Addr) UnmarshalText(text []byte) error {
	in := string(text)
	if strings.Contains(in, "://") {
		return fmt.Errorf("%q is a URL: want host:port, as in 127.0.0.1:5001", in)
	}
	host, port, err := net.SplitHostPort(in)
	if err != nil {
		reason := err.Error()
		var addrErr *net.AddrError
		if errors.As(err, &addrErr) {
			reason = addrErr.Err
		}
		return fmt.Errorf("%q is not an address: %s; want host:port, as in 127.0.0.1:5001", in, reason)
	}
	if strings.ContainsAny(host, " \t\r\n/@?#") {
		return fmt.Errorf("%q is not an address: %q is not a host name", in, host)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q is not an address: the port must be a number from 0 to 65535", in)
	}
	*a = Addr(in)
	return nil
}

// String returns the address as net.Listen and net.Dial take it.
func (a Addr) String() string { return string(a) }

// Secret is a string that shows itself only to [Secret.Reveal]: a password, a token, or a URL that
// holds one. Printing, logging and encoding it yields a placeholder, or nothing if it is empty.
//
// The field is a pointer because fmt cannot call the methods of an unexported field and
// would print a plain string.
type Secret struct{ text *string }

// NewSecret hides text.
func NewSecret(text string) Secret { return Secret{text: &text} }

// Reveal returns the text itself.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether there is no text.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// UnmarshalText takes any text as it is.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

// String returns the placeholder.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// Format returns the placeholder for every verb, those that do not fit a string included.
func (s Secret) Format(state fmt.State, _ rune) {
	// fmt.State never fails: it collects in memory.
	_, _ = state.Write([]byte(s.String()))
}

// MarshalText returns the placeholder; JSON and YAML encoders use it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue returns the placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Moment is a point in time, given as such or as a duration before now.
type Moment struct{ time.Time }

// UnmarshalText reads 2026-01-31T12:00:00Z, 2026-01-31, or 15m.
func (m *Moment) UnmarshalText(text []byte) error {
	in := string(text)
	if before, err := time.ParseDuration(in); err == nil && before >= 0 {
		m.Time = time.Now().Add(-before)
		return nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if at, err := time.Parse(layout, in); err == nil {
			m.Time = at
			return nil
		}
	}
	return fmt.Errorf("%q is not a time: want 2026-01-31T12:00:00Z, 2026-01-31 (UTC), or a time before now as in 15m", in)
}
