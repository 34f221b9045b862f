package frontpage_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/deadletter"
	"github.com/sendhouse/sendhouse/pkg/frontpage"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/telemetry"
)

// bundle is a page and what it shows.
type bundle struct {
	*frontpage.Page
	registry *prometheus.Registry
	log      *slog.Logger
}

func setup(t *testing.T) bundle {
	t.Helper()
	log, recent := telemetry.KeepLines(slog.New(slog.NewTextHandler(io.Discard, nil))) //nolint:sloglint // one that is enabled
	b := bundle{registry: prometheus.NewRegistry(), log: log}
	var err error
	b.Page, err = frontpage.New(frontpage.Deps{
		Logger: log, Registry: b.registry, Readiness: new(lifecycle.Readiness), Recent: recent, Build: telemetry.ReadBuild(),
	})
	require.NoError(t, err)
	return b
}

// ask sends a request as a browser with the page would, unless headers say something else.
func (b bundle) ask(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1:5002"+path, strings.NewReader(body))
	r.Header.Set("X-Sendhouse-Front-Page", "1")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	return w
}

type state struct {
	Stages []struct {
		Name    string
		Here    bool
		Figures []struct {
			Label            string
			Value, Count, Of *float64
		}
	}
	Log  []telemetry.Line
	Form struct {
		Offered, Token bool
		Why            string
	}
}

func (b bundle) state(t *testing.T) (s state) {
	t.Helper()
	w := b.ask(http.MethodGet, "/frontpage/state", "")
	require.Equal(t, http.StatusOK, w.Code)
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &s))
	return s
}

func (s state) figure(t *testing.T, stage, label string) (value, count, of *float64) {
	t.Helper()
	for _, one := range s.Stages {
		for _, f := range one.Figures {
			if one.Name == stage && f.Label == label {
				return f.Value, f.Count, f.Of
			}
		}
	}
	require.Fail(t, "no such figure", "%s %s", stage, label)
	return nil, nil, nil
}

func TestNewReportsAll(t *testing.T) {
	t.Parallel()
	_, err := frontpage.New(frontpage.Deps{})
	for _, what := range []string{"logger", "registry", "readiness", "latest lines"} {
		require.ErrorContains(t, err, what)
	}
}

func TestFilesAndHeaders(t *testing.T) {
	t.Parallel()
	b := setup(t)
	total := 0
	for path, contentType := range map[string]string{"/": "text/html", "/frontpage/page.css": "text/css", "/frontpage/page.js": "text/javascript"} {
		w := b.ask(http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, w.Code, path)
		require.Contains(t, w.Header().Get("Content-Type"), contentType)
		require.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'")
		require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		require.NotRegexp(t, `(src|href)="(https?:)?//`, w.Body.String(), "nothing is from elsewhere")
		total += w.Body.Len()
	}
	require.Less(t, total, 40<<10)
	require.Equal(t, http.StatusNotFound, b.ask(http.MethodGet, "/frontpage/else", "").Code)
}

// TestMetricNames holds what the page uses against the list of metrics in docs/reference/metrics.md, which another test holds against the program.
func TestMetricNames(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("stage.go")
	require.NoError(t, err)
	docs, err := os.ReadFile("../../docs/reference/metrics.md")
	require.NoError(t, err)
	names := regexp.MustCompile(`"(sendhouse_\w+)"`).FindAllStringSubmatch(string(source), -1)
	require.Greater(t, len(names), 20)
	for _, name := range names {
		require.Contains(t, string(docs), "- `"+name[1]+"` (")
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, stage := range b.state(t).Stages {
		require.False(t, stage.Here)
		require.Empty(t, stage.Figures)
	}
	b.ShowAPI(frontpage.API{Handler: http.NotFoundHandler()})
	b.ShowWriter(func(context.Context) ([]frontpage.Partition, error) { return nil, nil })
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sendhouse_ingest_requests_total", Help: "h"}, []string{"code", "reason"})
	sends := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sendhouse_ingest_batch_sends", Help: "h"})
	lag := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sendhouse_writer_lag_seconds", Help: "h"}, []string{"partition"})
	b.registry.MustRegister(requests, sends, lag)
	requests.WithLabelValues("200", "ok").Add(5)
	requests.WithLabelValues("503", "overloaded").Add(2)
	requests.WithLabelValues("500", "internal").Inc()
	sends.Observe(4)
	sends.Observe(6)
	lag.WithLabelValues("0").Set(1)
	lag.WithLabelValues("1").Set(7)
	b.log.Error("it broke", "partition", 3)

	s := b.state(t)
	var here []string
	for _, stage := range s.Stages {
		if stage.Here {
			here = append(here, stage.Name)
		}
	}
	require.Equal(t, []string{"ingest", "writer", "ClickHouse"}, here)
	for _, one := range []struct {
		stage, label string
		want         float64
	}{{"ingest", "sends", 10}, {"ingest", "group commits", 2}, {"ingest", "failed (5xx)", 3}, {"ingest", "refused (4xx)", 0}, {"writer", "lag, oldest", 7}, {"writer", "partitions here", 0}} {
		value, _, _ := s.figure(t, one.stage, one.label)
		require.NotNil(t, value, one.label)
		require.InDelta(t, one.want, *value, 0, one.label)
	}
	value, _, _ := s.figure(t, "ClickHouse", "rows")
	require.Nil(t, value, "no metric has it")
	require.Len(t, s.Log, 1)
	require.Equal(t, "it broke", s.Log[0].Message)
	require.Equal(t, "partition=3", s.Log[0].Attrs)
}

func TestDeploymentIsAskedForSeldom(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.JSONEq(t, `{}`, b.ask(http.MethodGet, "/frontpage/deployment", "").Body.String())
	b = setup(t)
	var asked atomic.Int64
	b.ShowSequencer(func(ctx context.Context) ([]frontpage.Partition, error) {
		_, bounded := ctx.Deadline()
		require.True(t, bounded)
		asked.Add(1)
		return []frontpage.Partition{{Number: 0, Owner: "a", Epoch: 7, Lag: 2}}, nil
	})
	b.ShowWriter(func(context.Context) ([]frontpage.Partition, error) { return nil, errors.New("NATS does not answer") })
	b.ShowDeadLetters(func(context.Context) ([]deadletter.Group, error) {
		return []deadletter.Group{{Role: "writer", Reason: "refused", Count: 3}}, nil
	})
	for range 3 {
		require.JSONEq(t, `{"sequencer":{"partitions":[{"number":0,"owner":"a","epoch":7,"lag":2}]},
			"writer":{"partitions":[],"error":"NATS does not answer"},
			"dead_letters":{"groups":[{"role":"writer","reason":"refused","count":3}]}}`, b.ask(http.MethodGet, "/frontpage/deployment", "").Body.String())
	}
	require.EqualValues(t, 1, asked.Load())
}

func TestWhoMayAskTheAPI(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.Equal(t, http.StatusForbidden, b.ask(http.MethodPost, "/frontpage/api/message/send", "{}").Code, "there is no API")
	var got *http.Request
	var body string
	b.ShowAPI(frontpage.API{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		text, err := io.ReadAll(r.Body)
		body = string(text)
		if err != nil {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
	})})
	w := b.ask(http.MethodPost, "/frontpage/api/message/send", `{"a":1}`, "Authorization", "Bearer t", "Content-Type", "application/json", "X-Forwarded-For", "10.0.0.1", "Cookie", "c=1")
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "/message/send", got.URL.Path)
	require.JSONEq(t, `{"a":1}`, body)
	require.Equal(t, http.Header{"Authorization": {"Bearer t"}, "Content-Type": {"application/json"}}, got.Header, "nothing else is passed on")
	require.Equal(t, http.StatusOK, b.ask(http.MethodGet, "/frontpage/api/message/status?client_msg_no=x", "").Code)
	require.Equal(t, "client_msg_no=x", got.URL.RawQuery)
	require.Equal(t, http.StatusRequestEntityTooLarge, b.ask(http.MethodPost, "/frontpage/api/message/send", strings.Repeat("x", 256<<10+1)).Code)

	got = nil
	require.Equal(t, http.StatusForbidden, b.ask(http.MethodPost, "/frontpage/api/message/send", "{}", "X-Sendhouse-Front-Page", "").Code)
	for _, path := range []string{"/frontpage/api/user/systemuids_add", "/frontpage/api/../metrics", "/frontpage/api//message/send"} {
		require.Equal(t, http.StatusNotFound, b.ask(http.MethodPost, path, "{}").Code, path)
	}
	require.Nil(t, got)
}

// TestFormIsNoWayAround: what the API keeps to those with a certificate is not to be had through the admin listener.
func TestFormIsNoWayAround(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		api     frontpage.API
		offered bool
	}{
		{"no tokens", frontpage.API{}, true},
		{"tokens", frontpage.API{Tokens: true}, true},
		{"certificates", frontpage.API{ClientCertificates: true}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			test.api.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
			b.ShowAPI(test.api)
			form := b.state(t).Form
			require.Equal(t, test.offered, form.Offered)
			require.Equal(t, test.api.Tokens, form.Token)
			require.Equal(t, !test.offered, form.Why != "")
			want := http.StatusOK
			if !test.offered {
				want = http.StatusForbidden
			}
			require.Equal(t, want, b.ask(http.MethodPost, "/frontpage/api/message/send", "{}").Code)
		})
	}
}
