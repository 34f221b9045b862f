// Package docs_test checks the links between the pages, and from the code to the pages.
package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

var (
	fence   = regexp.MustCompile("(?ms)^```.*?^```|^    .*?$")
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	link    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
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
