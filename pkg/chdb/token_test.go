package chdb

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestScannerSkipsWhatIsNotSQL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a b":                         "a b",
		" a\n\t-- rest\nb":            "a b",
		"a /* ; */ b":                 "a b",
		"a # comment\nb #! more":      "a b",
		"'it''s; \\' fine' x":         "'it''s; \\' fine' x",
		"`a``;\\`b` \"c;\"":           "`a``;\\`b` \"c;\"",
		"$tag$ ; ' $tag$ x":           "$tag$ ; ' $tag$ x",
		"$1 x":                        "$1 x",
		"f(1.5e3, 0xFF)":              "f ( 1.5e3 , 0xFF )",
		"a\u00a0b":                    "a b",
		"--":                          "",
		"a--":                         "a",
		"x = 'caf\u00e9; \u2603' + 1": "x = 'caf\u00e9; \u2603' + 1",
	} {
		scan := &scanner{text: []byte(text)}
		var got []string
		for {
			next := scan.next()
			if next.kind == tokenEnd {
				break
			}
			require.NotEqual(t, tokenBroken, next.kind, "in %q", text)
			got = append(got, scan.string(next))
		}
		require.Equal(t, want, strings.Join(got, " "), "tokens of %q", text)
	}
}

func TestScannerReportsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"'abc", "`abc", `"abc\"`, "/* abc", `'abc\`} {
		scan := &scanner{text: []byte(text)}
		require.Equal(t, tokenBroken, scan.next().kind, "of %q", text)
		require.Equal(t, tokenEnd, scan.next().kind, "after %q", text)
	}
}

// FuzzParseStatement checks that no text whatever makes the parser panic, loop, or point outside of the text.
func FuzzParseStatement(f *testing.F) {
	for _, seed := range []string{
		"SELECT 1 FORMAT JSON", "INSERT INTO t (a) VALUES (1)", "INSERT INTO FUNCTION file('x') PARTITION BY a (b) SETTINGS c = {'d': [1]} FORMAT CSV\n1",
		"INSERT INTO t FORMAT Native\n\x00\xff'\"`", "(SELECT '$a$') UNION ALL SELECT $a$;$a$", "WITH x AS (SELECT 1) SELECT * FROM x;--",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		parsed, err := parseStatement(text)
		if err != nil {
			return
		}
		if parsed.kind == kindInsertData {
			require.LessOrEqual(t, parsed.sourceAt, parsed.tailAt)
			require.LessOrEqual(t, parsed.tailAt, parsed.dataAt)
			require.LessOrEqual(t, parsed.dataAt, len(text))
			require.NotEmpty(t, parsed.withInfile("/x"))
			return
		}
		require.LessOrEqual(t, parsed.outputAt, len(parsed.text))
		require.NotEmpty(t, parsed.withOutfile("/x", "CSV"))
	})
}
