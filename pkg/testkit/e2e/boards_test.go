package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

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
	prometheus := startPrometheus(t, up.admin)
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
func requireRows(t *testing.T, up *house, what, text string) {
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

// prometheusServer is a real Prometheus.
type prometheusServer struct{ url string }

// startPrometheus runs it on a copy of the shipped configuration, with another target, and with a clock that is faster, so that the test need
// not wait for minutes.
func startPrometheus(t *testing.T, target string) *prometheusServer {
	t.Helper()
	binary, err := exec.LookPath("prometheus")
	require.NoError(t, err, "install it with: apt-get install prometheus")
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(deployDir+"/prometheus")))
	file := filepath.Join(dir, "prometheus.yml")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var config map[string]any
	require.NoError(t, yaml.Unmarshal(text, &config))
	config["global"] = map[string]any{"scrape_interval": "1s", "evaluation_interval": "1s"}
	text, err = yaml.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, text, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "targets", "sendhouse.yml"), fmt.Appendf(nil, "- targets: ['%s']\n", target), 0o600))

	recording := filepath.Join(dir, "rules", "recording.yml")
	text, err = os.ReadFile(recording)
	require.NoError(t, err)
	require.Contains(t, string(text), "interval: 2m")
	require.NoError(t, os.WriteFile(recording, []byte(strings.ReplaceAll(string(text), "interval: 2m", "interval: 1s")), 0o600))

	addr := testkit.FreeAddr(t)
	s := &prometheusServer{url: "http://" + addr}
	testkit.StartProcess(t, testkit.ProcessConfig{
		Path: binary,
		Args: []string{"--config.file=" + file, "--storage.tsdb.path=" + t.TempDir(), "--web.listen-address=" + addr, "--log.level=warn"},
		Ready: func(ctx context.Context) error {
			status, body, err := ask(ctx, s.url+"/-/ready")
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("/-/ready: %d %s", status, body)
			}
			return err
		},
	})
	return s
}

// get asks the API of Prometheus, and decodes the data of the answer.
func (s *prometheusServer) get(ctx context.Context, path string, parameters url.Values, into any) error {
	_, body, err := ask(ctx, s.url+"/api/v1/"+path+"?"+parameters.Encode())
	if err != nil {
		return err
	}
	answer := struct {
		Status string `json:"status"`
		Error  string `json:"error"`
		Data   any    `json:"data"`
	}{Data: into}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return fmt.Errorf("%w: %s", err, body)
	}
	if answer.Status != "success" {
		return errors.New(answer.Error)
	}
	return nil
}

type sample struct {
	Metric map[string]string `json:"metric"`
	Value  [2]any            `json:"value"`
}

func (s *prometheusServer) query(ctx context.Context, expr string) ([]sample, error) {
	var data struct {
		Result []sample `json:"result"`
	}
	err := s.get(ctx, "query", url.Values{"query": {expr}}, &data)
	return data.Result, err
}

// requireData waits until every question has been answered with a number. They are by expression, with what asks.
func (s *prometheusServer) requireData(t *testing.T, questions map[string]string) {
	t.Helper()
	open := maps.Clone(questions)
	testkit.WaitFor(t, dataTimeout, "data", func(ctx context.Context) error {
		var missing []error
		for expr, what := range open {
			samples, err := s.query(ctx, expr)
			switch {
			case err != nil:
				missing = append(missing, fmt.Errorf("%s: %s: %w", what, expr, err))
			case !slices.ContainsFunc(samples, isNumber):
				missing = append(missing, fmt.Errorf("%s: %s: no data, but %v", what, expr, samples))
			default:
				delete(open, expr)
			}
		}
		return errors.Join(missing...)
	})
}

// requireParses wants Prometheus to understand a query.
func (s *prometheusServer) requireParses(t *testing.T, expr string) {
	t.Helper()
	_, err := s.query(t.Context(), expr)
	require.NoError(t, err, expr)
}

func isNumber(one sample) bool {
	text, _ := one.Value[1].(string)
	value, err := strconv.ParseFloat(text, 64)
	return err == nil && !math.IsNaN(value)
}

// requireLabelValues does what Grafana does with label_values(series, label).
func (s *prometheusServer) requireLabelValues(t *testing.T, definition string) {
	t.Helper()
	series, label, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(definition, "label_values("), ")"), ", ")
	require.True(t, ok, definition)
	testkit.WaitFor(t, arriveTimeout, definition, func(ctx context.Context) error {
		var values []string
		err := s.get(ctx, "label/"+label+"/values", url.Values{"match[]": {exprOf(series)}}, &values)
		if err == nil && len(values) == 0 {
			err = errors.New("no values")
		}
		return err
	})
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
