// Package docs_test checks the links between the pages, and that pages and code agree.
package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

var (
	fence   = regexp.MustCompile("(?ms)^```.*?^```|^    .*?$")
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	link    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	named   = regexp.MustCompile("`(?:(Test|Fuzz|Benchmark)([A-Z]\\w*)|([\\w.-]+(?:/[\\w.-]+)+\\.(?:go|sh|sql|conf|xml|proto)))")
	quote   = regexp.MustCompile("\\*\\*`([^`]+)`\\*\\*")
	value   = regexp.MustCompile(`…|<p>|SENDHOUSE_PERMISSIONS`)
	row     = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\d+) \\| \\S")
	header  = regexp.MustCompile(`"(Sendhouse-[\w-]+)"`)
	mention = regexp.MustCompile(`\bdocs/[\w/-]+\.md(#[\w-]+)?`)
)

// files lists the files of the repository that match any of the patterns of git.
func files(t *testing.T, patterns ...string) []string {
	t.Helper()
	args := append([]string{"-C", "..", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "--"}, patterns...)
	out, err := exec.CommandContext(t.Context(), "git", args...).Output()
	require.NoError(t, err)
	var found []string
	for name := range strings.FieldsSeq(string(out)) {
		if _, err := os.Stat(filepath.Join("..", name)); err == nil { // else it is removed and not committed yet
			found = append(found, name)
		}
	}
	require.NotEmpty(t, found)
	return found
}

// slug is the anchor that GitHub makes of a heading.
func slug(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, strings.TrimSpace(heading))
}

// anchors are those of a page, by its path in the repository.
func anchors(t *testing.T, page string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", page))
	require.NoError(t, err)
	all := map[string]bool{"": true}
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(string(text), ""), -1) {
		all[slug(h[1])] = true
	}
	return all
}

// TestLinks follows every link from a page to a file of the repository, and to a heading in it.
func TestLinks(t *testing.T) {
	t.Parallel()
	for _, page := range files(t, "*.md") {
		text, err := os.ReadFile(filepath.Join("..", page))
		require.NoError(t, err)
		for _, found := range link.FindAllStringSubmatch(fence.ReplaceAllString(string(text), ""), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(found[1], "#")
			target := page
			if path != "" {
				target = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(filepath.Join("..", target)); err != nil {
				t.Errorf("%s links to %s, which does not exist", page, found[1])
				continue
			}
			if anchor != "" && !anchors(t, target)[anchor] {
				t.Errorf("%s links to %s, and %s has no such heading", page, found[1], target)
			}
		}
	}
}

// TestMentions looks up every page that code, rules and units name, such as the runbook of an alert.
func TestMentions(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, "*.go", "*.yaml", "*.yml", "*.json", "*.service", "*.md", "*.html", "Makefile", ":!docs/docs_test.go") {
		text, err := os.ReadFile(filepath.Join("..", file))
		require.NoError(t, err)
		for _, name := range mention.FindAllString(string(text), -1) {
			page, anchor, _ := strings.Cut(name, "#")
			if _, err := os.Stat(filepath.Join("..", page)); err != nil {
				t.Errorf("%s names %s, which does not exist", file, name)
			} else if !anchors(t, page)[anchor] {
				t.Errorf("%s names %s, and the page has no such heading", file, name)
			}
		}
	}
}

// TestNames looks up every test, benchmark and source file that a page names. Records of decisions and of changes
// name what there was.
func TestNames(t *testing.T) {
	t.Parallel()
	var code strings.Builder
	for _, file := range files(t, "*_test.go") {
		text, err := os.ReadFile(filepath.Join("..", file))
		require.NoError(t, err)
		code.Write(text)
	}
	for _, page := range files(t, "*.md", ":!docs/adr", ":!CHANGELOG.md") {
		text, err := os.ReadFile(filepath.Join("..", page))
		require.NoError(t, err)
		for _, name := range named.FindAllStringSubmatch(string(text), -1) {
			if name[3] == "" {
				if !strings.Contains(code.String(), "func "+name[1]+name[2]+"(") {
					t.Errorf("%s names %s%s, which does not exist", page, name[1], name[2])
				}
			} else if _, err := os.Stat(filepath.Join("..", name[3])); err != nil {
				t.Errorf("%s names %s, which does not exist", page, name[3])
			}
		}
	}
}

// TestTranslation holds the README in Chinese against the README: the same commands, the same links.
func TestTranslation(t *testing.T) {
	t.Parallel()
	const original, translation = "README.md", "README.zh-CN.md"
	read := func(page string) (commands, links []string) {
		text, err := os.ReadFile(filepath.Join("..", page))
		require.NoError(t, err)
		commands = fence.FindAllString(string(text), -1)
		for _, found := range link.FindAllStringSubmatch(string(text), -1) {
			if found[1] != original && found[1] != translation {
				links = append(links, found[1])
			}
		}
		return commands, links
	}
	commands, links := read(original)
	require.NotEmpty(t, commands)
	translated, translatedLinks := read(translation)
	require.Equal(t, commands, translated)
	require.Equal(t, links, translatedLinks)
}

// TestRunbookQuotes looks up the messages by which the runbook is entered: each is one that the program prints.
// Values are written as … or <p> there.
func TestRunbookQuotes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("runbook.md")
	require.NoError(t, err)
	var code strings.Builder
	for _, file := range files(t, "*.go", ":!*_test.go") {
		source, err := os.ReadFile(filepath.Join("..", file))
		require.NoError(t, err)
		code.Write(source)
	}
	entries := quote.FindAllStringSubmatch(string(text), -1)
	require.NotEmpty(t, entries)
	for _, entry := range entries {
		for _, part := range value.Split(strings.Join(strings.Fields(entry[1]), " "), -1) {
			if part = strings.TrimSpace(part); !strings.Contains(code.String(), part) {
				t.Errorf("runbook.md has the message %q, and no source file has %q", entry[1], part)
			}
		}
	}
}

// TestFormats compares the page of formats with the fields of a message, and looks up every header of a record there.
func TestFormats(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("reference/formats.md")
	require.NoError(t, err)
	documented := map[string]string{}
	for _, found := range row.FindAllStringSubmatch(string(text), -1) {
		documented[found[1]] = found[2]
	}
	have := map[string]string{}
	fields := new(message.Message).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		have[string(fields.Get(i).Name())] = strconv.Itoa(int(fields.Get(i).Number()))
	}
	require.Equal(t, have, documented)
	for _, file := range files(t, "*.go", ":!*_test.go") {
		source, err := os.ReadFile(filepath.Join("..", file))
		require.NoError(t, err)
		for _, found := range header.FindAllStringSubmatch(string(source), -1) {
			require.Contains(t, string(text), "`"+found[1]+"`", "%s uses the header", file)
		}
	}
}

// The table of /message/send names every field of a send that message.Fields describes.
func TestEveryFieldOfASendIsInThePage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("reference/api.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(page), "\n## POST /message/send\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	for _, f := range message.Fields() {
		name := f.Name
		if f.Kind == message.Flag {
			name = "header." + name
		}
		if f.Origin == message.FromSend {
			require.Contains(t, section, "\n| `"+name+"` |", "docs/reference/api.md does not describe %s", name)
		}
	}
}
