package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// faults collects all that is wrong with the settings of one run. kong stops at the first value that its flag refuses, so the
// mappers are wrapped: a refused value is noted, its flag gets the default, and parsing continues.
type faults struct {
	source  source // that kong reads values from at the moment
	values  []fault
	file    error           // what is wrong with the configuration file
	good    *resolver       // the entries of the file that are not; nil without a file
	refused map[string]bool // flags whose value was refused: they have their defaults, to which no rule need apply
}

// fault is a value that its flag or argument refuses.
type fault struct {
	value *kong.Value
	from  source
	err   error
}

// source is where kong reads values from. Those of the file were all tried before it asks for them.
type source int

const (
	fromCommandLine source = iota
	fromEnvironment
	fromFile
	applied // all values are in the structs
)

// options follow kong from source to source, and let File report here.
func (f *faults) options() []kong.Option {
	enter := func(s source) func() error { return func() error { f.source = s; return nil } }
	return []kong.Option{
		kong.Bind(f),
		kong.WithBeforeReset(enter(fromEnvironment)), kong.WithBeforeResolve(enter(fromFile)), kong.WithBeforeApply(enter(applied)),
	}
}

// collectFrom wraps the mappers of a node and of all below it.
func (f *faults) collectFrom(node *kong.Node) {
	values := slices.Clone(node.Positional)
	for _, flag := range node.Flags {
		values = append(values, flag.Value)
	}
	for _, value := range values {
		if value.IsBool() {
			value.Mapper = boolMapper{mapper{value.Mapper, f}}
		} else {
			value.Mapper = mapper{value.Mapper, f}
		}
	}
	for _, child := range node.Children {
		f.collectFrom(child)
	}
}

type mapper struct {
	kong.Mapper
	faults *faults
}

// boolMapper tells kong that the flag needs no value.
type boolMapper struct{ mapper }

// IsBool implements kong.BoolMapper.
func (boolMapper) IsBool() bool { return true }

// Decode notes a value that is refused. That there is no value remains an error, since what follows is then read differently.
func (m mapper) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	before := ctx.Scan.Len()
	text := ctx.Scan.Peek().String()
	err := m.Mapper.Decode(ctx, target)
	if err == nil && ctx.Value.Enum != "" && target.Kind() == reflect.String && !slices.Contains(ctx.Value.EnumSlice(), target.String()) {
		err = fmt.Errorf("must be one of %s, but is %q", strings.Join(ctx.Value.EnumSlice(), ", "), text)
	}
	if err == nil || ctx.Scan.Len() == before {
		return err //nolint:wrapcheck // kong adds the flag
	}
	m.faults.values = append(m.faults.values, fault{ctx.Value, m.faults.source, err})
	target.SetZero()
	if !ctx.Value.HasDefault {
		return nil
	}
	scan := kong.Scan().PushTyped(ctx.Value.Default, kong.FlagValueToken)
	return m.Mapper.Decode(&kong.DecodeContext{Value: ctx.Value, Scan: scan}, target) //nolint:wrapcheck // kong adds the flag
}

// all returns everything that is wrong, with the error of kong, if any.
func (f *faults) all(ctx *kong.Context, parsing error) error {
	if ctx == nil {
		return parsing
	}
	errs := []error{checkVariables(ctx.Model), f.file}
	flags, given := make(map[string]*kong.Flag), make(map[*kong.Value]bool)
	for _, part := range ctx.Path {
		for _, flag := range part.Flags {
			flags[flag.Name] = flag
		}
		if part.Flag != nil && !part.Resolved {
			given[part.Flag.Value] = true
		}
	}
	for _, one := range f.values {
		name := "<" + one.value.Name + ">"
		if one.value.Flag != nil {
			name = "--" + one.value.Name
			// The same variable may be of another command, or a flag may come before it.
			if one.from == fromEnvironment && (flags[one.value.Name] != one.value.Flag || given[one.value]) {
				continue
			}
			f.refused[one.value.Name] = true
		}
		if one.from == fromEnvironment && len(one.value.Tag.Envs) > 0 {
			errs = append(errs, fmt.Errorf("%s: %w (from %s)", name, one.err, one.value.Tag.Envs[0]))
		} else {
			errs = append(errs, fmt.Errorf("%s: %w", name, one.err))
		}
	}
	errs = append(errs, parsing)
	errs = append(errs, secretsKept(ctx)...)
	if f.source == applied {
		for _, err := range rulesBroken(ctx) {
			if flag := flags[leadingFlag(err)]; flag == nil || !f.refused[flag.Name] {
				errs = append(errs, f.located(err, flag, given))
			}
		}
	}
	return joinOnce(errs)
}

// rulesBroken asks the chosen command, and what it is below.
func rulesBroken(ctx *kong.Context) (errs []error) {
	for _, part := range ctx.Path {
		node := part.Command
		if part.App != nil {
			node = part.App.Node
		}
		if node == nil || !node.Target.CanAddr() {
			continue
		}
		if checked, ok := node.Target.Addr().Interface().(Checker); ok {
			errs = append(errs, apart(checked.Check())...)
		}
	}
	return errs
}

// located adds to an error about a flag where its value is from, unless from the command line or the default.
func (f *faults) located(err error, flag *kong.Flag, given map[*kong.Value]bool) error {
	if flag == nil {
		return err
	}
	dashes := "--"
	if strings.HasPrefix(err.Error(), dashes) {
		dashes = ""
	}
	from := ""
	if !given[flag.Value] {
		from = f.origin(flag)
	}
	return fmt.Errorf("%s%w%s", dashes, err, from)
}

func (f *faults) origin(flag *kong.Flag) string {
	for _, name := range flag.Tag.Envs {
		if _, set := os.LookupEnv(name); set {
			return fmt.Sprintf(" (from %s)", name)
		}
	}
	if f.good != nil {
		for _, e := range f.good.entries {
			if e.key == flag.Name {
				return fmt.Sprintf(" (from %s:%d)", f.good.path, e.line)
			}
		}
	}
	return ""
}

// leadingPattern is the name of a flag that an error begins with.
var leadingPattern = regexp.MustCompile(`^(?:--)?([a-z0-9-]+)(?:[: =,]|$)`)

func leadingFlag(err error) string {
	if found := leadingPattern.FindStringSubmatch(err.Error()); found != nil {
		return found[1]
	}
	return ""
}

// apart takes joined errors apart.
func apart(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || errors.Join(joined.Unwrap()...).Error() != err.Error() {
		return []error{err}
	}
	var all []error
	for _, one := range joined.Unwrap() {
		all = append(all, apart(one)...)
	}
	return all
}

// joinOnce joins errors, each text once.
func joinOnce(errs []error) error {
	seen := make(map[string]bool)
	var once []error
	for _, err := range errs {
		for _, one := range apart(err) {
			if text := one.Error(); !seen[text] {
				seen[text] = true
				once = append(once, one)
			}
		}
	}
	return errors.Join(once...)
}
