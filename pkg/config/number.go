package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
)

// wholePattern and fractionPattern are numbers as people write them. Go's own 0x10, 0o10, 010 (which is 8),
// 1_000, Inf and NaN are refused.
var (
	wholePattern    = regexp.MustCompile(`^[+-]?(0|[1-9][0-9]*)$`)
	fractionPattern = regexp.MustCompile(`^[+-]?(0|[1-9][0-9]*|)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)
)

// decimalNumbers are the mappers of numbers, in place of kong's, which take every form of a Go literal.
func decimalNumbers() []kong.Option {
	var options []kong.Option
	for kind, decode := range map[reflect.Kind]func(string, reflect.Value) error{
		reflect.Int: decimalInt, reflect.Int8: decimalInt, reflect.Int16: decimalInt, reflect.Int32: decimalInt, reflect.Int64: decimalInt,
		reflect.Uint: decimalUint, reflect.Uint8: decimalUint, reflect.Uint16: decimalUint, reflect.Uint32: decimalUint, reflect.Uint64: decimalUint,
		reflect.Float32: decimalFloat, reflect.Float64: decimalFloat,
	} {
		options = append(options, kong.KindMapper(kind, kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
			var text string
			if err := ctx.Scan.PopValueInto("number", &text); err != nil {
				return err //nolint:wrapcheck // kong adds the flag
			}
			return decode(text, target)
		})))
	}
	return options
}

func decimalInt(text string, target reflect.Value) error {
	if err := checkDecimal(text, wholePattern, "a whole number"); err != nil {
		return err
	}
	n, err := strconv.ParseInt(text, 10, target.Type().Bits())
	if err != nil {
		return numberFault(text, err)
	}
	target.SetInt(n)
	return nil
}

func decimalUint(text string, target reflect.Value) error {
	if err := checkDecimal(text, wholePattern, "a whole number"); err != nil {
		return err
	}
	if strings.HasPrefix(text, "-") {
		return fmt.Errorf("%q is negative: want 0 or more", text)
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 10, target.Type().Bits())
	if err != nil {
		return numberFault(text, err)
	}
	target.SetUint(n)
	return nil
}

func decimalFloat(text string, target reflect.Value) error {
	if err := checkDecimal(text, fractionPattern, "a number"); err != nil {
		return err
	}
	n, err := strconv.ParseFloat(text, target.Type().Bits())
	if err != nil {
		return numberFault(text, err)
	}
	target.SetFloat(n)
	return nil
}

// checkDecimal refuses a text that is no decimal number, and suggests how to write one with zeros in front.
func checkDecimal(text string, pattern *regexp.Regexp, want string) error {
	if pattern.MatchString(text) {
		return nil
	}
	sign, digits := "", text
	if strings.HasPrefix(text, "-") || strings.HasPrefix(text, "+") {
		sign, digits = text[:1], text[1:]
	}
	if trimmed := strings.TrimLeft(digits, "0"); trimmed != digits && trimmed != "" && pattern.MatchString(sign+trimmed) {
		return fmt.Errorf("%q begins with a zero: numbers are decimal, write %s%s", text, sign, trimmed)
	}
	return fmt.Errorf("%q is not %s: want decimal digits, as in 16", text, want)
}

// numberFault is the error about a number that the pattern lets pass and strconv does not.
func numberFault(text string, err error) error {
	if errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("%q is out of range", text)
	}
	return fmt.Errorf("%q is not a number: %w", text, err)
}
