package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/sendhouse/sendhouse/pkg/chdb"
)

// serveNothing is the server that does nothing: it reads the body and answers a
// constant.
func serveNothing(ctx context.Context, addr string) error {
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
	defer context.AfterFunc(ctx, func() { _ = server.Close() })() // ListenAndServe returns
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// serveEngine is the embedded ClickHouse in a process of its own: what `up` has
// inside, for the case in which the roles run apart.
func serveEngine(ctx context.Context, addr, dir string) (err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	engine, err := chdb.Open(chdb.Config{DataDir: dir, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	server, err := chdb.NewServer(chdb.ServerConfig{Addr: addr}, engine)
	if err != nil {
		return err
	}
	return server.Run(ctx)
}
