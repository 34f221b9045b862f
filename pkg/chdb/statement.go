package chdb

import (
	"slices"
	"strings"
)

// statementKind says by which of the engine's ways a statement is run.
type statementKind int

const (
	kindOther      statementKind = iota // Its output is small: SHOW, DESCRIBE, CREATE, INSERT … SELECT and so on.
	kindRead                            // A SELECT in one of its forms.
	kindInsertData                      // An INSERT whose rows follow it.
)

// statement is what must be known of a statement's text. The engine parses it again and has the last word on whether it is right: this
// parser only has to be right about right statements, and must never take data for SQL.
type statement struct {
	text string
	kind statementKind
	// format is the name of the output format that the text gives, or of the data's format for kindInsertData.
	format string
	// outputAt is where the text's FORMAT clause begins, or where one would.
	outputAt int
	// sourceAt and tailAt frame what stands between an INSERT's table and its VALUES or FORMAT: nothing, or SETTINGS.
	sourceAt, tailAt int
	// dataAt is where the data of an INSERT begins.
	dataAt int
}

// parseStatement looks at one statement. For an INSERT with data, text may continue with the data or any part of it. The error is an *Exception.
func parseStatement(text []byte) (statement, error) {
	scan := &scanner{text: text}
	first := scan.peek()
	if scan.is(first, "INSERT") {
		if parsed, err := parseInsert(scan); err != nil || parsed.kind == kindInsertData {
			return parsed, err
		}
		scan = &scanner{text: text}
	}
	parsed, err := parseWhole(scan)
	if err != nil {
		return statement{}, err
	}
	if parsed.text == "" {
		return statement{}, &Exception{Code: codeSyntaxError, Message: "Syntax error: failed at position 1 (end of query): . Empty query. (SYNTAX_ERROR)"}
	}
	if slices.ContainsFunc([]string{"SELECT", "WITH", "FROM"}, func(word string) bool { return scan.is(first, word) }) ||
		scan.isSymbol(first, '(') {
		parsed.kind = kindRead
	}
	return parsed, nil
}

// parseWhole goes through a statement that has no data after it. It finds the end, refuses a second statement and INTO OUTFILE, and looks
// for a FORMAT clause: the last word FORMAT outside of brackets that a name follows, and after it nothing or SETTINGS.
func parseWhole(scan *scanner) (statement, error) {
	end, depth := 0, 0
	format, outputAt := "", -1
	var before token
	for {
		this := scan.next()
		switch {
		case this.kind == tokenEnd:
			return wholeStatement(scan, end, format, outputAt), nil
		case this.kind == tokenBroken:
			return wholeStatement(scan, this.end, "", -1), nil // The engine will say what is wrong with it.
		case scan.isSymbol(this, ';'):
			if err := nothingFollows(scan); err != nil {
				return statement{}, err
			}
			return wholeStatement(scan, end, format, outputAt), nil
		case scan.isSymbol(this, '(') || scan.isSymbol(this, '['):
			depth++
		case scan.isSymbol(this, ')') || scan.isSymbol(this, ']'):
			depth--
		case depth == 0 && scan.is(this, "OUTFILE") && scan.is(before, "INTO"),
			depth == 0 && scan.is(this, "INFILE") && scan.is(before, "FROM"):
			return statement{}, &Exception{Code: codeOutfileNotAllowed, Message: "INTO OUTFILE and FROM INFILE are not allowed over HTTP. (INTO_OUTFILE_NOT_ALLOWED)"}
		case depth == 0 && scan.is(this, "FORMAT"):
			if name := formatName(scan); name != "" {
				format, outputAt = name, this.start
			}
		}
		before, end = this, this.end
	}
}

// formatName returns the name after FORMAT if a clause can end with it, and stays where it is.
func formatName(scan *scanner) string {
	at := scan.at
	defer func() { scan.at = at }()
	name := scan.next()
	if name.kind != tokenWord {
		return ""
	}
	if after := scan.next(); after.kind != tokenEnd && !scan.isSymbol(after, ';') && !scan.is(after, "SETTINGS") {
		return ""
	}
	return scan.string(name)
}

func nothingFollows(scan *scanner) error {
	for {
		next := scan.next()
		if next.kind == tokenEnd {
			return nil
		}
		if !scan.isSymbol(next, ';') {
			return &Exception{Code: codeSyntaxError, Message: "Syntax error (Multi-statements are not allowed). (SYNTAX_ERROR)"}
		}
	}
}

func wholeStatement(scan *scanner, end int, format string, outputAt int) statement {
	if outputAt < 0 {
		outputAt = end
	}
	return statement{text: string(scan.text[:end]), format: format, outputAt: outputAt}
}

// withOutfile is the statement with its output sent to a file, which the engine can write in any format without holding it all.
func (s statement) withOutfile(path, format string) string {
	head, tail := s.text[:s.outputAt], s.text[s.outputAt:]
	if tail == "" {
		tail = "FORMAT " + format
	}
	return head + "\nINTO OUTFILE " + quoteString(path) + " TRUNCATE " + tail
}

// withInfile is the INSERT with its data taken from a file.
func (s statement) withInfile(path string) string {
	var text strings.Builder
	text.WriteString(s.text[:s.sourceAt])
	text.WriteString(" FROM INFILE " + quoteString(path) + " COMPRESSION 'none' ")
	text.WriteString(s.text[s.sourceAt:s.tailAt])
	text.WriteString(" FORMAT " + s.format)
	return text.String()
}
