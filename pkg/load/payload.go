package load

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/config"
)

// payloadBytesMin is the smallest payload that is made: a text message with an empty content.
const payloadBytesMin = len(payloadHead) + len(payloadTail)

// payloadBytesLimit is the largest; the API has a limit of its own.
const payloadBytesLimit = 4 << 20

// PayloadSizes is a distribution of payload sizes in bytes.
type PayloadSizes struct {
	text  string
	parts []sizeRange
	total uint64 // of the weights
}

// sizeRange is a range of sizes, both ends included, all as likely.
type sizeRange struct {
	low, high int
	weight    uint64
}

// UnmarshalText reads "100B", "100B-32KiB", or several of them with weights, "100B:80,1KiB-4KiB:20".
func (p *PayloadSizes) UnmarshalText(text []byte) error {
	out := PayloadSizes{text: string(text)}
	for part := range strings.SplitSeq(string(text), ",") {
		r, err := parseSizeRange(part)
		if err != nil {
			return err
		}
		out.parts = append(out.parts, r)
		out.total += r.weight
	}
	*p = out
	return nil
}

func parseSizeRange(text string) (sizeRange, error) {
	text, weightText, weighted := strings.Cut(strings.TrimSpace(text), ":")
	r := sizeRange{weight: 1}
	if weighted {
		weight, err := strconv.ParseUint(strings.TrimSpace(weightText), 10, 32)
		if err != nil || weight == 0 {
			return r, fmt.Errorf("%q is not a weight: want a whole number above 0", weightText)
		}
		r.weight = weight
	}
	lowText, highText, ranged := strings.Cut(text, "-")
	if !ranged {
		highText = lowText
	}
	var low, high config.ByteSize
	if err := low.UnmarshalText([]byte(lowText)); err != nil {
		return r, err
	}
	if err := high.UnmarshalText([]byte(highText)); err != nil {
		return r, err
	}
	if low < config.ByteSize(payloadBytesMin) || high > payloadBytesLimit || low > high {
		return r, fmt.Errorf("payload sizes %q: must be %d bytes to %d, the smaller first", text, payloadBytesMin, payloadBytesLimit)
	}
	r.low, r.high = int(low), int(high)
	return r, nil
}

// String is what was read.
func (p PayloadSizes) String() string { return p.text }

// MarshalText is what was read.
func (p PayloadSizes) MarshalText() ([]byte, error) { return []byte(p.text), nil }

func (p PayloadSizes) max() int {
	most := 0
	for _, r := range p.parts {
		most = max(most, r.high)
	}
	return most
}

// pick returns the size for two random words.
func (p PayloadSizes) pick(a, b uint64) int {
	a %= p.total
	for _, r := range p.parts {
		if a < r.weight {
			return r.low + int(b%uint64(r.high-r.low+1))
		}
		a -= r.weight
	}
	panic("load: the weights of payload sizes do not add up")
}
