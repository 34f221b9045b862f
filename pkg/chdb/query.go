package chdb

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// deliver takes a piece of a statement's output. In a format made of blocks (Native) each piece holds whole blocks. The piece is gone when
// deliver returns; an error ends the statement and is given back.
type deliver func(piece io.Reader) error

func discard(piece io.Reader) error {
	_, err := io.Copy(io.Discard, piece)
	return err
}

// streamable are the formats in which documents put one after another are one document, so that the engine's block-by-block output is what
// a server would send. In the others each block would come with a head of its own (names, brackets, row numbers).
func streamable(format string) bool {
	switch strings.ToLower(format) {
	case "native", "tabseparated", "tsv", "tabseparatedraw", "tsvraw", "raw", "csv", "tskv", "jsoneachrow", "jsonlines", "ndjson",
		"jsonstringseachrow", "jsoncompacteachrow", "jsoncompactstringseachrow", "lineasstring":
		return true
	}
	return false
}

// query runs a statement that brings no data, in one of three ways. A SELECT in a streamable format goes out block by block, so that its
// size is bounded by nothing and its memory by one block. A SELECT in another format is written by the engine to a private file, which then
// goes out. The rest has small output and is held in memory.
func (e *Engine) query(ctx context.Context, req request, parsed statement, out deliver) (stats, error) {
	limit := e.queries
	format := parsed.format
	if format == "" {
		format = req.format
	}
	if req.reader {
		limit = e.readers
		if !streamable(format) || req.wholly { // The output goes to the disk first.
			req.settings = req.settings.with("max_result_bytes", strconv.FormatInt(e.config.SpoolBytesMax/4, 10))
		}
	}
	s, err := e.begin(ctx, limit, req)
	if err != nil {
		return stats{}, err
	}
	defer s.end()
	s.endWith(e.ending)
	var counted stats
	if parsed.kind == kindRead {
		s.endWith(ctx)
	}
	switch {
	case parsed.kind != kindRead || strings.EqualFold(format, "Null"):
		counted, err = s.whole(parsed, format, out)
	case streamable(format) && !req.wholly:
		counted, err = s.stream(parsed, format, out)
	default:
		counted, err = s.viaFile(parsed, format, out)
	}
	if isCode(err, codeBadArguments) && strings.Contains(err.Error(), "Streaming query is not supported") {
		counted, err = s.whole(parsed, format, out) // WITH … INSERT and the like.
	}
	return counted, s.cause(ctx, err)
}

func (s *session) stream(parsed statement, format string, out deliver) (stats, error) {
	blocks, err := s.conn.start(parsed.text, format)
	if err != nil {
		return stats{}, err
	}
	defer blocks.close()
	var counted stats
	for {
		block, err := blocks.next()
		if block == nil || err != nil {
			return counted, err
		}
		counted.add(block.stats())
		err = out(bytes.NewReader(block.data()))
		block.free()
		if err != nil {
			return counted, err
		}
	}
}

func (s *session) whole(parsed statement, format string, out deliver) (stats, error) {
	res, err := s.conn.exec(parsed.text, format)
	if err != nil {
		return stats{}, err
	}
	defer res.free()
	return res.stats(), out(bytes.NewReader(res.data()))
}

func (s *session) viaFile(parsed statement, format string, out deliver) (stats, error) {
	dir, err := os.MkdirTemp(s.engine.folder.spoolPath, "select-*")
	if err != nil {
		return stats{}, fmt.Errorf("make room for the output: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "output")
	res, err := s.conn.exec(parsed.withOutfile(path, format), format)
	if err != nil {
		return stats{}, err
	}
	counted := res.stats()
	res.free()
	file, err := os.Open(path)
	if err != nil {
		return counted, fmt.Errorf("read the output: %w", err)
	}
	defer func() { _ = file.Close() }()
	return counted, out(file)
}
