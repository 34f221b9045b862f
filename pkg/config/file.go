package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// fileBytesMax bounds what is read of a configuration file. Every flag with a
// generous value fits many times over.
const fileBytesMax = 1 << 20

// ErrUnknownKey is wrapped by a [KeyError] whose key is no flag of any command.
var ErrUnknownKey = errors.New("unknown key")

// KeyError says which key of a configuration file is wrong, and where it stands.
type KeyError struct {
	File string
	Line int
	Key  string
	// Hint is what to do about it; empty when there is nothing to suggest.
	Hint string
	Err  error
}

// Error returns file, line, key, what is wrong, and the hint.
func (e *KeyError) Error() string {
	msg := fmt.Sprintf("%s:%d: %s: %v", e.File, e.Line, e.Key, e.Err)
	if e.Hint != "" {
		msg += " (" + e.Hint + ")"
	}
	return msg
}

// Unwrap returns what is wrong with the key.
func (e *KeyError) Unwrap() error { return e.Err }

// entry is one top-level key of the file with its value, not yet interpreted.
type entry struct {
	key   string
	line  int
	value *yaml.Node
}

// readFile reads the top level of a YAML file in the order of its lines.
func readFile(path string) ([]entry, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("read the configuration file: %w", err)
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing is lost

	text, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration file: %w", err)
	}
	if len(text) > fileBytesMax {
		return nil, fmt.Errorf("configuration file %s is larger than %s", path, ByteSize(fileBytesMax))
	}
	return parseFile(path, text)
}

// parseFile takes apart the text of a YAML file; path only serves the errors.
func parseFile(path string, text []byte) ([]entry, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	err := decoder.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, nil // empty, or comments only
	}
	if err != nil {
		return nil, fmt.Errorf("configuration file %s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if !errors.Is(decoder.Decode(new(yaml.Node)), io.EOF) {
		return nil, fmt.Errorf("configuration file %s: has more than one YAML document", path)
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("configuration file %s:%d: want lines of the form \"flag-name: value\"", path, root.Line)
	}

	var entries []entry
	var errs []error
	seen := make(map[string]int)
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if first, twice := seen[key.Value]; twice {
			errs = append(errs, &KeyError{
				File: path, Line: key.Line, Key: key.Value,
				Err: fmt.Errorf("is given twice, first on line %d", first),
			})
			continue
		}
		seen[key.Value] = key.Line
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		entries = append(entries, entry{key: key.Value, line: key.Line, value: value})
	}
	return entries, errors.Join(errs...)
}
