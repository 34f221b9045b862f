// Command generate writes the dashboards in deploy/grafana/dashboards. `make generate` runs it, and `make check` verifies that
// its output is committed. Each board has its own file here; board.go and panel.go define their elements.
//
//	go run ./deploy/grafana/generate FOLDER
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: generate FOLDER")
	}
	for _, b := range boards() {
		text, err := b.encode()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(args[0], b.uid+".json"), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func boards() []board {
	return []board{overview(), ingest(), sequencer(), writer(), jetStream(), messages()}
}

func (b board) encode() ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // queries stay legible
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(b.json()); err != nil {
		return nil, fmt.Errorf("dashboard %s: %w", b.uid, err)
	}
	return text.Bytes(), nil
}
