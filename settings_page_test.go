package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/config"
)

const (
	// settingsPage lists every command and flag; see TestSettingsAreDocumented.
	settingsPage = "docs/reference/settings.md"
	// settingsMark begins the part of the page that is made from the command line.
	settingsMark = "<!-- From here on `make generate` writes this page. -->\n"
	// settingsVariable, set to "write", makes the test write the page.
	settingsVariable = "SETTINGS_PAGE"
)

// TestSettingsAreDocumented compares the page with the command line that it is made from.
func TestSettingsAreDocumented(t *testing.T) {
	t.Parallel()
	parsed, err := config.Parse([]string{"version"}, new(cli))
	require.NoError(t, err)
	text, err := os.ReadFile(settingsPage)
	require.NoError(t, err)
	head, _, found := strings.Cut(string(text), settingsMark)
	require.True(t, found, "%s has no line %s", settingsPage, settingsMark)
	want := head + settingsMark + describeSettings(parsed.Model.Node)
	if os.Getenv(settingsVariable) == "write" {
		require.NoError(t, os.WriteFile(settingsPage, []byte(want), 0o600))
		return
	}
	require.Equal(t, want, string(text), "%s is out of date: run 'make generate'", settingsPage)
}

// describeSettings lists the commands, and each flag with the commands that have it. Flags of one name that differ
// between commands are listed apart.
func describeSettings(root *kong.Node) string {
	var commands, flags []string
	users := map[string][]string{} // commands, by the flag's entry
	var walk func(node *kong.Node, path string)
	walk = func(node *kong.Node, path string) {
		for _, flag := range node.Flags {
			if flag.Name == "help" || flag.Hidden {
				continue
			}
			entry := describeFlag(flag)
			if users[entry] == nil {
				flags = append(flags, entry)
			}
			users[entry] = append(users[entry], path)
		}
		for _, child := range node.Children {
			if child.Hidden {
				continue
			}
			name := strings.TrimSpace(path + " " + child.Name)
			commands = append(commands, wrapItem(fmt.Sprintf("`sendhouse %s`: %s", name, child.Help)))
			walk(child, name)
		}
	}
	walk(root, "")
	slices.Sort(flags)
	var b strings.Builder
	b.WriteString("\n## Commands\n\n" + strings.Join(commands, ""))
	b.WriteString("\n## Flags\n\n")
	for _, entry := range flags {
		of := "every command"
		if users[entry][0] != "" {
			of = "`" + strings.Join(users[entry], "`, `") + "`"
		}
		b.WriteString(wrapItem(strings.Replace(entry, "\x00", of, 1)))
	}
	return b.String()
}

// describeFlag is the entry of a flag, with \x00 in place of its commands.
func describeFlag(flag *kong.Flag) string {
	value := ""
	switch {
	case flag.Default != "":
		value = ", default `" + flag.Default + "`"
	case flag.IsBool():
	case flag.PlaceHolder != "":
		value = " `" + flag.PlaceHolder + "`"
	}
	return fmt.Sprintf("`--%s`%s (\x00): %s", flag.Name, value, flag.Help)
}

// wrapItem is text as an item of a list, in lines of at most 100 characters.
func wrapItem(text string) string {
	var b strings.Builder
	width := 0
	for i, word := range strings.Fields(text) {
		switch n := len([]rune(word)); {
		case i == 0:
			b.WriteString("- " + word)
			width = 2 + n
		case width+1+n > 100:
			b.WriteString("\n  " + word)
			width = 2 + n
		default:
			b.WriteString(" " + word)
			width += 1 + n
		}
	}
	b.WriteByte('\n')
	return b.String()
}
