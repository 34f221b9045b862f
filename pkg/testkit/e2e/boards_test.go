package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

const (
	deployDir = "../../../deploy"
	// dataTimeout bounds how long Prometheus may take to have an answer to every question.
	dataTimeout = 3 * time.Minute
)

// dashboard is what is looked at of one of Grafana's.
type dashboard struct {
	Title      string `json:"title"`
	Templating struct {
		List []struct {
			Name       string `json:"name"`
			Type       string `json:"type"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
	Panels []struct {
		Title   string `json:"title"`
		Targets []struct {
			Expr   string `json:"expr"`
			RawSQL string `json:"rawSql"`
		} `json:"targets"`
	} `json:"panels"`
}

// rests are the queries that have nothing to show while all is well.
var rests = map[string]string{
	"Sendhouse / Messages: Twice":                            "no message is there twice",
	"Sendhouse / Ingest: Days until the certificate expires": "there is no TLS",
}

// TestEndToEndBoards starts everything under light load, and a Prometheus with the configuration that is shipped, and asks every question
// that a board or an alert asks: it must be one that Prometheus or ClickHouse understands, and a panel must have something to show.
func TestEndToEndBoards(t *testing.T) {
	t.Parallel()
	up := newUp(t)
	up.Start()
	// Prometheus first: of what happens before it looks it would see no change.
	prometheus := startPrometheus(t, asShipped, up.admin)
	prometheus.requireData(t, map[string]string{"sendhouse_sequencer_checkpoint_seconds_count": "the first look"})
	load := startLoad(t, up.api, loadConfig{seed: newSeed(t), clients: 1})
	endUse := useOtherRoutes(t, up.api)
	load.await(200)

	questions := map[string]string{} // what asks, by the expression
	for _, d := range dashboards(t) {
		for _, v := range d.Templating.List {
			if v.Type == "query" {
				prometheus.requireLabelValues(t, v.Definition)
			}
		}
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				at := d.Title + ": " + p.Title
				switch {
				case target.RawSQL != "":
					requireRows(t, up, at, target.RawSQL)
				default:
					require.NotEmpty(t, target.Expr, at)
					if _, ok := rests[at]; ok {
						prometheus.requireParses(t, exprOf(target.Expr))
						continue
					}
					questions[exprOf(target.Expr)] = at
				}
			}
		}
	}
	prometheus.requireData(t, questions)
	prometheus.requireRules(t)
	endUse()
	load.finish()
	require.Equal(t, 0, up.Stop())
}

// useOtherRoutes changes a channel and reads from it, once in a while until the test ends, so that those routes have figures too. It ends
// with the answer, or with the test.
func useOtherRoutes(t *testing.T, api string) (end func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var user sync.WaitGroup
	user.Go(func() {
		pause := time.NewTicker(time.Second)
		defer pause.Stop()
		for {
			postTo(ctx, t, "http://"+api+"/channel", `{"channel_id":"board","channel_type":2,"subscribers":["u"]}`)
			postTo(ctx, t, "http://"+api+"/message/send", `{"from_uid":"u","channel_id":"board","channel_type":2,"payload":"aGk=","expire":86400}`)
			postTo(ctx, t, "http://"+api+"/channel/messagesync", `{"login_uid":"u","channel_id":"board","channel_type":2}`)
			select {
			case <-pause.C:
			case <-ctx.Done():
				return
			}
		}
	})
	end = func() {
		stop()
		user.Wait()
	}
	t.Cleanup(end)
	return end
}

func postTo(ctx context.Context, t *testing.T, address, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(body))
	if err == nil {
		req.Header.Set("Content-Type", "application/json")
		var resp *http.Response
		if resp, err = http.DefaultClient.Do(req); err == nil {
			if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable { // a slow disk is no fault here
				t.Errorf("%s: answered %d", address, resp.StatusCode)
			}
			err = resp.Body.Close()
		}
	}
	if err != nil && ctx.Err() == nil {
		t.Errorf("%s: %v", address, err)
	}
}

// dashboards reads all.
func dashboards(t *testing.T) (all []dashboard) {
	t.Helper()
	files, err := filepath.Glob(deployDir + "/grafana/dashboards/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var d dashboard
		require.NoError(t, json.Unmarshal(text, &d), file)
		all = append(all, d)
	}
	return all
}

// requireRows waits until ClickHouse answers a query with something: rows come a second after their messages.
func requireRows(t *testing.T, up *node, what, text string) {
	t.Helper()
	testkit.WaitFor(t, arriveTimeout, what+": "+text, func(context.Context) error {
		if _, ok := rests[what]; strings.TrimSpace(up.query(t, sqlOf(text))) == "" && !ok {
			return errors.New("no rows")
		}
		return nil
	})
}

// exprOf puts values in for Grafana's variables, as it does where everything is chosen.
func exprOf(expr string) string {
	return strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$instance", ".*", "$partition", ".*").Replace(expr)
}

// sqlOf does the same for the macros of the ClickHouse plugin.
func sqlOf(text string) string {
	return strings.NewReplacer(
		"$__timeFilter(timestamp)", fmt.Sprintf("timestamp >= toDateTime(%d) AND timestamp <= toDateTime(%d)", time.Now().Add(-time.Hour).Unix(), time.Now().Add(time.Hour).Unix()),
		"$__timeInterval(timestamp)", "toStartOfInterval(toDateTime(timestamp), INTERVAL 60 second)",
	).Replace(text)
}

// requireRules wants every rule to have been evaluated without an error, every recording that can have one to have a value, and no alert to fire.
func (s *prometheusServer) requireRules(t *testing.T) {
	t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct {
				Name, Query, Health, LastError, State, Type string
			} `json:"rules"`
		} `json:"groups"`
	}
	testkit.WaitFor(t, dataTimeout, "the rules", func(ctx context.Context) error {
		if err := s.get(ctx, "rules", nil, &data); err != nil {
			return err
		}
		for _, group := range data.Groups {
			for _, rule := range group.Rules {
				if rule.Health == "unknown" {
					return fmt.Errorf("%s was not evaluated yet", rule.Name)
				}
			}
		}
		return nil
	})
	seen := 0
	recorded := map[string]string{}
	for _, group := range data.Groups {
		for _, rule := range group.Rules {
			seen++
			require.Equal(t, "ok", rule.Health, "%s: %s", rule.Name, rule.LastError)
			if !strings.Contains(rule.Name, "Budget") { // how fast a machine is that runs tests is not the test's business
				require.NotEqual(t, "firing", rule.State, rule.Name)
			}
			if rule.Type == "recording" {
				recorded[rule.Name] = "a recording"
			}
		}
	}
	s.requireData(t, recorded)
	require.Greater(t, seen, 40)
}
