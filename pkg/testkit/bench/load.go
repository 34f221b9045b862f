package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
)

//go:embed send.lua
var sendScript string

// figures are what one run of wrk gave.
type figures struct {
	Requests  int     `json:"requests"`
	Refused   int     `json:"refused"`   // answers other than 200
	Broken    int     `json:"broken"`    // connections and time-outs
	Seconds   float64 `json:"seconds"`   // that it took
	P50       float64 `json:"p50_ms"`    // latency
	P99       float64 `json:"p99_ms"`    // latency
	PerSecond float64 `json:"rate"`      // requests answered 200, per second
	CPU       float64 `json:"cpu_cores"` // of the server meanwhile, in cores
}

// load runs wrk against a server.
func load(dir, url string, connections int, o options, run string) (figures, error) {
	script := filepath.Join(dir, "send.lua")
	if err := os.WriteFile(script, []byte(sendScript), 0o600); err != nil {
		return figures{}, err
	}
	//nolint:gosec // the arguments are this program's own
	cmd := exec.Command("wrk", "-t1", fmt.Sprintf("-c%d", connections), fmt.Sprintf("-d%ds", int(o.duration.Seconds())),
		"--timeout", "10s", "-s", script, url)
	cmd.Env = append(os.Environ(), fmt.Sprintf("CHANNELS=%d", o.channels), "RUN="+run)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return figures{}, errors.New("wrk is not installed (Debian: apt-get install wrk)")
	}
	if err != nil {
		return figures{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	var f figures
	for line := range strings.Lines(string(out)) {
		if n, _ := fmt.Sscanf(line, "RESULT %d %d %d %f %f %f", &f.Requests, &f.Refused, &f.Broken, &f.Seconds, &f.P50, &f.P99); n == 6 {
			f.PerSecond = float64(f.Requests-f.Refused) / f.Seconds
			return f, nil
		}
	}
	return figures{}, fmt.Errorf("wrk printed no result: %s", out)
}

// serveBaseline is the server that does nothing: it reads the body and answers a
// constant.
func serveBaseline(addr string) error {
	answer := []byte(`{"message_id":383347413777121280,"message_idstr":"383347413777121280","message_seq":1,"client_msg_no":"client_msg_123"}`)
	r := chi.NewRouter()
	r.Post("/message/send", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer) // the load generator counts what it gets
	})
	r.Get("/readyz", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Addr: addr, Handler: r, ReadHeaderTimeout: time.Minute}
	return server.ListenAndServe()
}

// get fetches a URL and wants 200.
func get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }() // it is only read
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}
