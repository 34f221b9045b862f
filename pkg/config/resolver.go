package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// File is the type of the field that names the configuration file:
//
//	Config config.File `help:"Read settings from this YAML file." placeholder:"PATH"`
//
// Put it into the root of the command line, so that every command has it.
type File string

// BeforeResolve is called by kong once the flags and the environment are known, and before
// anything else is looked up. It loads the file and checks all of it.
func (File) BeforeResolve(ctx *kong.Context, trace *kong.Path, found *faults) error {
	path, ok := ctx.FlagValue(trace.Flag).(File)
	if !ok || path == "" {
		return nil
	}
	entries, err := readFile(string(path))
	found.good = &resolver{path: string(path), own: trace.Flag.Name, entries: entries}
	found.file = errors.Join(err, found.good.keepGood(ctx.Model, found.refused))
	ctx.AddResolver(found.good)
	return nil
}

// resolver supplies kong with the values of the file for the flags that neither the command line nor the
// environment has set. kong's own file resolver lets the file beat the environment and lets
// unknown keys pass.
type resolver struct {
	path    string
	own     string // the flag that names the file itself, which cannot stand in it
	entries []entry
}

var _ kong.Resolver = (*resolver)(nil)

// keepGood reports every key that no command has a flag for, and every value that a flag of that
// name refuses, all together, and drops them. The flags that are left without a value are noted in refused.
func (r *resolver) keepGood(app *kong.Application, refused map[string]bool) error {
	flags := flagsByName(app.Node)
	delete(flags, r.own)
	delete(flags, "help")

	var errs []error
	r.entries = slices.DeleteFunc(r.entries, func(e entry) bool {
		known, ok := flags[e.key]
		if !ok {
			errs = append(errs, r.fault(e, ErrUnknownKey, suggest(e.key, flags)))
			return true
		}
		for _, flag := range known {
			if err := try(flag, e); err != nil {
				errs = append(errs, r.fault(e, err, ""))
				refused[e.key] = true
				for _, flag := range known {
					flag.Set = true // so that it does not count as missing
				}
				return true // the same name means the same thing in every command: one report is enough
			}
		}
		return false
	})
	return errors.Join(errs...)
}

// Validate implements kong.Resolver. All has been checked before.
func (*resolver) Validate(*kong.Application) error { return nil }

// Resolve returns the text that the file has for the flag, or nil when it has none or when the
// environment goes before it.
func (r *resolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, env := range flag.Tag.Envs {
		if _, ok := os.LookupEnv(env); ok {
			return nil, nil //nolint:nilnil // kong's way to say "not here"
		}
	}
	for _, e := range r.entries {
		if e.key != flag.Name || flag.Tag.Get("env") == "-" {
			continue
		}
		text, err := flagText(flag, e.value)
		if err != nil {
			return nil, r.fault(e, err, "")
		}
		return text, nil
	}
	return nil, nil //nolint:nilnil // kong's way to say "not here"
}

func (r *resolver) fault(e entry, err error, hint string) error {
	return &KeyError{File: r.path, Line: e.line, Key: e.key, Hint: hint, Err: err}
}

// flagsByName collects the flags of a node and of all commands below it.
func flagsByName(node *kong.Node) map[string][]*kong.Flag {
	flags := make(map[string][]*kong.Flag)
	for _, flag := range node.Flags {
		if flag.Tag.Get("env") == "-" { // of the command line alone
			continue
		}
		flags[flag.Name] = append(flags[flag.Name], flag)
	}
	for _, child := range node.Children {
		for name, more := range flagsByName(child) {
			flags[name] = append(flags[name], more...)
		}
	}
	return flags
}

// try parses the value as the flag would, into a place of its own.
func try(flag *kong.Flag, e entry) error {
	text, err := flagText(flag, e.value)
	if err != nil {
		return err
	}
	target := reflect.New(flag.Target.Type()).Elem()
	if target.Kind() == reflect.Pointer {
		target.Set(reflect.New(target.Type().Elem()))
	}
	scan := kong.Scan().PushTyped(text, kong.FlagValueToken)
	plain := flag.Mapper
	switch m := plain.(type) { // not the one that notes faults
	case mapper:
		plain = m.Mapper
	case boolMapper:
		plain = m.Mapper
	}
	if err := plain.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, target); err != nil {
		return err
	}
	if flag.Enum != "" && e.value.Kind == yaml.ScalarNode && !slices.Contains(flag.EnumSlice(), text) {
		return fmt.Errorf("must be one of %s, but is %q", strings.Join(flag.EnumSlice(), ", "), text)
	}
	return nil
}

// flagText writes a YAML value as one would write it after the flag, so that the file and the
// command line are read by one and the same parser.
func flagText(flag *kong.Flag, value *yaml.Node) (string, error) {
	switch {
	case value.Kind == yaml.ScalarNode && value.Tag == "!!null":
		return "", errors.New("has no value")
	case value.Kind == yaml.ScalarNode:
		return value.Value, nil
	case value.Kind == yaml.SequenceNode && flag.IsSlice() && flag.Tag.Sep != -1:
		return joinList(value, flag.Tag.Sep)
	case value.Kind == yaml.MappingNode && flag.IsMap() && flag.Tag.MapSep != -1:
		return joinMap(value, flag.Tag.MapSep)
	case value.Kind == yaml.SequenceNode:
		return "", errors.New("wants one value, but has a list")
	default:
		return "", errors.New("wants one value, but has keys below it: the file is flat, with flag names as keys")
	}
}

func joinList(list *yaml.Node, sep rune) (string, error) {
	items := make([]string, 0, len(list.Content))
	for _, item := range list.Content {
		if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
			return "", errors.New("wants a list of plain values")
		}
		items = append(items, item.Value)
	}
	return kong.JoinEscaped(items, sep), nil
}

func joinMap(mapping *yaml.Node, sep rune) (string, error) {
	items := make([]string, 0, len(mapping.Content)/2)
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		if value.Kind != yaml.ScalarNode || value.Tag == "!!null" {
			return "", fmt.Errorf("wants a plain value for %q", key.Value)
		}
		items = append(items, key.Value+"="+value.Value)
	}
	return kong.JoinEscaped(items, sep), nil
}
