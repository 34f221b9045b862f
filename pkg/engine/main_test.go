package engine_test

import (
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendhouse/sendhouse/pkg/engine"
)

// parentCommand makes the test program a parent that waits to be killed: what only a process of its own can try.
const parentCommand = "parent"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case engine.Command:
			if err := engine.Serve(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case parentCommand:
			os.Exit(beParent(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

// beParent starts an engine, says so, and waits for ever.
func beParent(dir string) int {
	if _, err := engine.Start(config(dir)); err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	fmt.Println("ready")
	select {}
}

func config(dir string) engine.Config {
	return engine.Config{
		DataDir: dir, Addr: "127.0.0.1:0", ReaderDatabase: "product", Registerer: prometheus.NewRegistry(),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	}
}
