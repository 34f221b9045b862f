// Package prometheus_test checks the configuration that Prometheus is given: that it is one, that the alerts fire when they
// should, and that each can be looked up.
package prometheus_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// promtool runs Prometheus' own checker; Debian's package prometheus has it.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), testkit.Program(t, "promtool", "prometheus"), args...).CombinedOutput()
	require.NoError(t, err, "promtool %s\n%s", strings.Join(args, " "), output)
}

func TestConfigurationIsOne(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "config", "prometheus.yml")
}

// TestAlertsFire runs the unit tests of the rules.
func TestAlertsFire(t *testing.T) {
	t.Parallel()
	for _, file := range glob(t, "tests/*.yml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			promtool(t, "test", "rules", file)
		})
	}
}

type alert struct {
	Name        string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// alerts are those of all files of rules.
func alerts(t *testing.T) (all []alert) {
	t.Helper()
	for _, file := range glob(t, "rules/*.yml") {
		var rules struct {
			Groups []struct {
				Rules []alert `yaml:"rules"`
			} `yaml:"groups"`
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(text, &rules))
		for _, group := range rules.Groups {
			all = append(all, slices.DeleteFunc(group.Rules, func(a alert) bool { return a.Name == "" })...)
		}
	}
	require.NotEmpty(t, all)
	return all
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.NotEmpty(t, files, pattern)
	return files
}

// TestAlertsHaveARunbook requires a runbook entry for the link of each alert, and an alert for each entry.
func TestAlertsHaveARunbook(t *testing.T) {
	t.Parallel()
	const page = "https://github.com/sendhouse/sendhouse/blob/main/docs/runbook.md#"
	text, err := os.ReadFile("../../docs/runbook.md")
	require.NoError(t, err)
	entries := map[string]string{} // by anchor
	for _, heading := range regexp.MustCompile(`(?m)^### (Sendhouse\w+)$`).FindAllStringSubmatch(string(text), -1) {
		require.NotContains(t, entries, strings.ToLower(heading[1]), "two entries of docs/runbook.md have one name")
		entries[strings.ToLower(heading[1])] = heading[1]
	}
	names := map[string]bool{}
	for _, a := range alerts(t) {
		require.False(t, names[a.Name], "two alerts are named %s", a.Name)
		names[a.Name] = true
		anchor, ok := strings.CutPrefix(a.Annotations["runbook_url"], page)
		require.True(t, ok, "%s: runbook_url must begin with %s", a.Name, page)
		require.Equal(t, a.Name, entries[anchor], "docs/runbook.md needs the entry '### %s' under Alerts: what it means, what to do", a.Name)
		require.NotEmpty(t, a.Annotations["summary"], a.Name)
		require.NotEmpty(t, a.Annotations["description"], a.Name)
		require.Contains(t, []string{"page", "ticket", "critical", "warning"}, a.Labels["severity"], a.Name)
		delete(entries, anchor)
	}
	require.Empty(t, entries, "entries of docs/runbook.md without an alert")
}

// TestAlertsAreTested wants, of each alert, a unit test in which it fires, and one that has what it looks at and in which it does not.
func TestAlertsAreTested(t *testing.T) {
	t.Parallel()
	metric := regexp.MustCompile(`sendhouse_\w+|\bup\b`)
	type unit struct {
		Name   string `yaml:"name"`
		Series []struct {
			Series string `yaml:"series"`
		} `yaml:"input_series"`
		Checks []struct {
			Samples []struct {
				Labels string `yaml:"labels"`
			} `yaml:"exp_samples"`
		} `yaml:"promql_expr_test"`
	}
	var units []unit
	for _, file := range glob(t, "tests/*.yml") {
		var tests struct {
			Tests []unit `yaml:"tests"`
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(text, &tests))
		units = append(units, tests.Tests...)
	}
	recorded := recordings(t)
	for _, a := range alerts(t) {
		needs := metric.FindAllString(expand(a.Expr, recorded), -1)
		fires, rests := false, false
		for _, u := range units {
			fired := false
			for _, check := range u.Checks {
				for _, sample := range check.Samples {
					fired = fired || strings.Contains(sample.Labels, `alertname="`+a.Name+`"`)
				}
			}
			concerns := false
			for _, s := range u.Series {
				concerns = concerns || slices.Contains(needs, metric.FindString(s.Series))
			}
			fires = fires || fired
			rests = rests || (concerns && !fired)
		}
		require.True(t, fires, "no test lets %s fire", a.Name)
		require.True(t, rests, "no test with metrics of %s lets it rest", a.Name)
	}
}

// recordings are the expressions of the recording rules, by name.
func recordings(t *testing.T) map[string]string {
	t.Helper()
	var rules struct {
		Groups []struct {
			Rules []struct{ Record, Expr string } `yaml:"rules"`
		} `yaml:"groups"`
	}
	text, err := os.ReadFile("rules/recording.yml")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &rules))
	all := map[string]string{}
	for _, group := range rules.Groups {
		for _, r := range group.Rules {
			all[r.Record] = r.Expr
		}
	}
	return all
}

// expand appends what the recorded series in an expression are made from.
func expand(expr string, recorded map[string]string) string {
	for name, from := range recorded {
		if strings.Contains(expr, name) {
			expr += " " + from
		}
	}
	return expr
}
