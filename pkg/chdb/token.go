package chdb

import (
	"bytes"
	"strings"
)

// tokenKind tells tokens of ClickHouse SQL apart as far as it matters for finding where a statement's parts are.
type tokenKind int

const (
	tokenEnd        tokenKind = iota // The text has ended.
	tokenWord                        // A keyword or an identifier without quotes.
	tokenIdentifier                  // An identifier in quotes.
	tokenLiteral                     // A string or a number.
	tokenSymbol                      // One byte of anything else.
	tokenBroken                      // A string, identifier or comment that does not end.
)

// token is a piece of the text, as positions in it.
type token struct {
	kind       tokenKind
	start, end int
}

// scanner cuts ClickHouse SQL into tokens, following the engine's own lexer (src/Parsers/Lexer.cpp). It reads no further than it is asked
// to, because binary data may follow the statement.
type scanner struct {
	text []byte
	at   int
}

func (s *scanner) is(t token, keyword string) bool {
	return t.kind == tokenWord && len(keyword) == t.end-t.start && strings.EqualFold(string(s.text[t.start:t.end]), keyword)
}

func (s *scanner) isSymbol(t token, symbol byte) bool {
	return t.kind == tokenSymbol && s.text[t.start] == symbol
}

func (s *scanner) string(t token) string { return string(s.text[t.start:t.end]) }

// peek returns the next token and stays before it.
func (s *scanner) peek() token {
	at := s.at
	next := s.next()
	s.at = at
	return next
}

// next returns the next token that is not white space or a comment.
func (s *scanner) next() token {
	if !s.skipBlank() {
		start := s.at
		s.at = len(s.text)
		return token{tokenBroken, start, len(s.text)}
	}
	start := s.at
	if start == len(s.text) {
		return token{tokenEnd, start, start}
	}
	switch c := s.text[start]; {
	case c == '\'':
		return s.quoted(tokenLiteral, c)
	case c == '"' || c == '`':
		return s.quoted(tokenIdentifier, c)
	case isDigit(c):
		for s.at < len(s.text) && (isWordByte(s.text[s.at]) || s.text[s.at] == '.') {
			s.at++
		}
		return token{tokenLiteral, start, s.at}
	case c == '$' && s.heredocEnd() > 0:
		s.at = s.heredocEnd()
		return token{tokenLiteral, start, s.at}
	case isWordByte(c):
		for s.at < len(s.text) && isWordByte(s.text[s.at]) {
			s.at++
		}
		return token{tokenWord, start, s.at}
	}
	s.at++
	return token{tokenSymbol, start, s.at}
}

// skipBlank moves past white space and comments. It reports false at a comment that does not end.
func (s *scanner) skipBlank() bool {
	for s.at < len(s.text) {
		rest := s.text[s.at:]
		switch {
		case isBlank(rest[0]):
			s.at++
		case bytes.HasPrefix(rest, []byte("\u00a0")):
			s.at += len("\u00a0")
		case bytes.HasPrefix(rest, []byte("--")), bytes.HasPrefix(rest, []byte("#!")), bytes.HasPrefix(rest, []byte("# ")):
			line := bytes.IndexByte(rest, '\n')
			if line < 0 {
				s.at = len(s.text)
				return true
			}
			s.at += line + 1
		case bytes.HasPrefix(rest, []byte("/*")):
			end := bytes.Index(rest[2:], []byte("*/"))
			if end < 0 {
				return false
			}
			s.at += end + 4
		default:
			return true
		}
	}
	return true
}

// quoted reads up to the closing quote. A backslash takes the next byte with it, and a doubled quote stands for itself.
func (s *scanner) quoted(kind tokenKind, quote byte) token {
	start := s.at
	for s.at++; s.at < len(s.text); s.at++ {
		switch s.text[s.at] {
		case '\\':
			s.at++
		case quote:
			if s.at+1 < len(s.text) && s.text[s.at+1] == quote {
				s.at++
				continue
			}
			s.at++
			return token{kind, start, s.at}
		}
	}
	s.at = len(s.text)
	return token{tokenBroken, start, s.at}
}

// heredocEnd returns where the string that begins here as $tag$ ends, or 0 if none begins.
func (s *scanner) heredocEnd() int {
	rest := s.text[s.at:]
	tag := 1
	for tag < len(rest) && rest[tag] != '$' && isWordByte(rest[tag]) {
		tag++
	}
	if tag == len(rest) || rest[tag] != '$' {
		return 0
	}
	end := bytes.Index(rest[tag+1:], rest[:tag+1])
	if end < 0 {
		return 0
	}
	return s.at + tag + 1 + end + tag + 1
}

func isBlank(c byte) bool {
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isWordByte(c byte) bool {
	return c == '_' || c == '$' || isDigit(c) || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
