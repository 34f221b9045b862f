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
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/sendhouse/sendhouse/pkg/testkit"
)

// prometheusServer is a real Prometheus.
type prometheusServer struct {
	url     string
	targets string               // the file that names them
	seen    map[string]time.Time // when an alert was first seen to fire
}

// haste is what a test changes in the rules, to see in seconds what takes minutes.
type haste int

const (
	// asShipped leaves the alerts as they are.
	asShipped haste = iota
	// atOnce lets an alert fire when its condition has held for a second, instead of for minutes. The conditions stay as they are.
	atOnce
)

// startPrometheus runs it on a copy of the shipped configuration, with other targets and a faster clock: it scrapes, records and
// evaluates every second.
func startPrometheus(t *testing.T, how haste, targets ...string) *prometheusServer {
	t.Helper()
	binary := testkit.Program(t, "prometheus", "prometheus")
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
	changeFile(t, filepath.Join(dir, "rules", "recording.yml"), `interval: 2m`, "interval: 1s")
	if how == atOnce {
		for _, rules := range []string{"causes.yml", "slo.yml"} {
			changeFile(t, filepath.Join(dir, "rules", rules), `for: \d+m`, "for: 1s")
		}
	}

	addr := testkit.FreeAddr(t)
	s := &prometheusServer{url: "http://" + addr, targets: filepath.Join(dir, "targets", "sendhouse.yml"), seen: make(map[string]time.Time)}
	s.scrape(t, targets...)
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

// changeFile puts something else in all the places of a file that match, of which there must be one.
func changeFile(t *testing.T, file, pattern, with string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	places := regexp.MustCompile(pattern)
	require.True(t, places.Match(text), "%s has no %s", file, pattern)
	require.NoError(t, os.WriteFile(file, places.ReplaceAll(text, []byte(with)), 0o600))
}

// scrape says who is scraped. Prometheus sees the change.
func (s *prometheusServer) scrape(t *testing.T, targets ...string) {
	t.Helper()
	text, err := yaml.Marshal([]map[string]any{{"targets": targets}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.targets, text, 0o600))
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
