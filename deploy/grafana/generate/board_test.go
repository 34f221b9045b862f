package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const folder = "../dashboards"

// TestBoardsAreUpToDate compares what is generated with what is there.
func TestBoardsAreUpToDate(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	require.NoError(t, err)
	require.Len(t, files, len(boards()), "a stale dashboard file")
	for _, b := range boards() {
		want, err := b.encode()
		require.NoError(t, err)
		have, err := os.ReadFile(filepath.Join(folder, b.uid+".json"))
		require.NoError(t, err)
		require.Equal(t, string(want), string(have), "run 'make generate'")
	}
}

// TestSourcesAreProvisioned: what the boards choose at first is there.
func TestSourcesAreProvisioned(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../provisioning/datasources/sendhouse.yaml")
	require.NoError(t, err)
	var provisioned struct {
		Sources []struct {
			UID  string `yaml:"uid"`
			Type string `yaml:"type"`
		} `yaml:"datasources"`
	}
	require.NoError(t, yaml.Unmarshal(text, &provisioned))
	types := map[string]string{}
	for _, s := range provisioned.Sources {
		types[s.UID] = s.Type
	}
	require.Equal(t, map[string]string{prometheusUID: "prometheus", clickHouseUID: "grafana-clickhouse-datasource"}, types)
	require.Equal(t, types[prometheusUID], prometheus["type"])
	require.Equal(t, types[clickHouseUID], clickHouse["type"])

	text, err = os.ReadFile("../provisioning/dashboards/sendhouse.yaml")
	require.NoError(t, err)
	var providers struct {
		Providers []struct {
			Type string `yaml:"type"`
		} `yaml:"providers"`
	}
	require.NoError(t, yaml.Unmarshal(text, &providers))
	require.Len(t, providers.Providers, 1)
	require.Equal(t, "file", providers.Providers[0].Type)
}

// TestPanelsExplainThemselves: who looks at a panel for the first time is in trouble.
func TestPanelsExplainThemselves(t *testing.T) {
	t.Parallel()
	uids := map[string]bool{}
	for _, b := range boards() {
		require.False(t, uids[b.uid], b.uid)
		uids[b.uid] = true
	}
	for _, b := range boards() {
		require.NotEmpty(t, b.description, b.title)
		titles := map[string]bool{}
		for _, r := range b.rows {
			require.NotEmpty(t, r.title, b.title)
			for _, p := range r.panels {
				at := b.title + ": " + p.title
				require.False(t, titles[r.title+p.title], "%s is there twice", at)
				titles[r.title+p.title] = true
				require.Regexp(t, `^[A-Z0-9][^.]*[\s\S]*\.$`, p.description, at)
				require.NotEmpty(t, p.unit, at)
				require.NotEmpty(t, p.targets, at)
				require.LessOrEqual(t, p.width, gridWidth, at)
				require.True(t, p.link == "" || uids[p.link], "%s links to %s", at, p.link)
			}
		}
	}
}

// TestQueriesFollowTheVariables: every series of ours is chosen by job and instance, so that a board of several deployments shows one.
func TestQueriesFollowTheVariables(t *testing.T) {
	t.Parallel()
	series := regexp.MustCompile(`(sendhouse_[a-z0-9_]+|process_[a-z_]+|go_[a-z_]+)(\{[^}]*\})?`)
	for _, b := range boards() {
		for _, r := range b.rows {
			for _, p := range r.panels {
				for _, target := range p.targets {
					expr, ok := target["expr"].(string)
					if !ok {
						continue // of ClickHouse
					}
					for _, found := range series.FindAllStringSubmatch(expr, -1) {
						if regexp.MustCompile(`_max(_seconds)?$`).MatchString(found[1]) && found[2] == "" {
							continue // matched to its other side by instance and job
						}
						require.Contains(t, found[2], `job=~"$job",instance=~"$instance"`, "%s: %s: %s", b.title, p.title, expr)
					}
					require.NotContains(t, expr, "$at")
					require.NotContains(t, expr, "$part,")
				}
			}
		}
	}
}
