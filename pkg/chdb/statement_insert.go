package chdb

// parseInsert reads an INSERT up to where its data begins. If no data follows (INSERT … SELECT), or the text is not an INSERT as the
// engine's parser knows it (src/Parsers/ParserInsertQuery.cpp), it returns a statement of kindOther.
//
//	INSERT [INTO] [TABLE] [FUNCTION name(…)] [database.]table [PARTITION BY …] [(columns)] [SETTINGS …] VALUES | FORMAT name
func parseInsert(scan *scanner) (statement, error) {
	scan.next() // INSERT
	end, ok := skipTarget(scan)
	if !ok {
		return statement{}, nil
	}
	if scan.isSymbol(scan.peek(), '(') {
		at := scan.at
		scan.next()
		if first := scan.peek(); scan.is(first, "SELECT") || scan.is(first, "WITH") || scan.isSymbol(first, '(') {
			return statement{}, nil
		}
		scan.at = at
		if end, ok = skipBrackets(scan); !ok {
			return statement{}, nil
		}
	}
	if scan.is(scan.peek(), "FROM") {
		scan.next()
		if scan.is(scan.peek(), "INFILE") {
			return statement{}, &Exception{Code: codeOutfileNotAllowed, Message: "FROM INFILE is not allowed over HTTP. (INTO_OUTFILE_NOT_ALLOWED)"}
		}
		return statement{}, nil
	}
	return parseInsertData(scan, end)
}

// parseInsertData reads from after the table and its columns, which end at sourceAt, to the data.
func parseInsertData(scan *scanner, sourceAt int) (statement, error) {
	tail := scan.next()
	if scan.is(tail, "SETTINGS") {
		for depth := 0; ; {
			tail = scan.next()
			if tail.kind == tokenEnd || tail.kind == tokenBroken {
				return statement{}, nil
			}
			depth += bracket(scan, tail)
			if depth == 0 && (scan.is(tail, "VALUES") || scan.is(tail, "FORMAT") || scan.is(tail, "SELECT") || scan.is(tail, "WITH")) {
				break
			}
		}
	}
	parsed := statement{kind: kindInsertData, sourceAt: sourceAt, tailAt: tail.start}
	switch {
	case scan.is(tail, "VALUES"):
		parsed.format = "Values"
		parsed.dataAt = tail.end
	case scan.is(tail, "FORMAT"):
		name := scan.next()
		if name.kind != tokenWord {
			return statement{}, nil
		}
		parsed.format = scan.string(name)
		at, err := dataStart(scan.text, name.end)
		if err != nil {
			return statement{}, err
		}
		parsed.dataAt = at
	default:
		return statement{}, nil
	}
	parsed.text = string(scan.text[:tail.start])
	return parsed, nil
}

// dataStart is where the data begins after a format's name that ends at at: after the first line break, if only blanks come before it, else
// after those blanks.
func dataStart(text []byte, at int) (int, error) {
	if at < len(text) && text[at] == ';' {
		return 0, &Exception{Code: codeSyntaxError, Message: "You have excessive ';' symbol before data for INSERT. (SYNTAX_ERROR)"}
	}
	for at < len(text) && (text[at] == ' ' || text[at] == '\t' || text[at] == '\f') {
		at++
	}
	if at < len(text) && text[at] == '\r' {
		at++
	}
	if at < len(text) && text[at] == '\n' {
		at++
	}
	return at, nil
}

// skipTarget moves past what is inserted into and returns its end.
func skipTarget(scan *scanner) (end int, ok bool) {
	for _, optional := range []string{"INTO", "TABLE"} {
		if scan.is(scan.peek(), optional) {
			scan.next()
		}
	}
	if scan.is(scan.peek(), "FUNCTION") {
		scan.next()
		if name := scan.next(); name.kind != tokenWord {
			return 0, false
		}
		if end, ok = skipBrackets(scan); !ok {
			return 0, false
		}
		return skipPartition(scan, end)
	}
	for {
		name := scan.next()
		if name.kind != tokenWord && name.kind != tokenIdentifier {
			return 0, false
		}
		if !scan.isSymbol(scan.peek(), '.') {
			return name.end, true
		}
		scan.next()
	}
}

// skipPartition moves past PARTITION BY and its expression, which ends before the columns or the data.
func skipPartition(scan *scanner, before int) (end int, ok bool) {
	if !scan.is(scan.peek(), "PARTITION") {
		return before, true
	}
	end = before
	for {
		next := scan.peek()
		if next.kind == tokenEnd || next.kind == tokenBroken {
			return 0, false
		}
		if scan.is(next, "VALUES") || scan.is(next, "FORMAT") || scan.is(next, "SETTINGS") || scan.is(next, "SELECT") || scan.is(next, "WITH") {
			return end, true
		}
		if scan.isSymbol(next, '(') {
			if end, ok = skipBrackets(scan); !ok {
				return 0, false
			}
			continue
		}
		scan.next()
		end = next.end
	}
}

// skipBrackets moves past a pair of round brackets and what is in them, and returns their end.
func skipBrackets(scan *scanner) (end int, ok bool) {
	for depth := 0; ; {
		this := scan.next()
		if this.kind == tokenEnd || this.kind == tokenBroken {
			return 0, false
		}
		depth += bracket(scan, this)
		if depth == 0 {
			return this.end, scan.isSymbol(this, ')')
		}
	}
}

func bracket(scan *scanner, t token) int {
	switch {
	case scan.isSymbol(t, '('), scan.isSymbol(t, '['), scan.isSymbol(t, '{'):
		return 1
	case scan.isSymbol(t, ')'), scan.isSymbol(t, ']'), scan.isSymbol(t, '}'):
		return -1
	}
	return 0
}
