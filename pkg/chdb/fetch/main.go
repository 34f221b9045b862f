// Command fetch brings the pinned build of libchdb into the user's cache folder, where chdb.Open finds it. If the right one already is
// it does nothing and needs no network.
//
//	go run ./pkg/chdb/fetch [-verify]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sendhouse/sendhouse/pkg/chdb/internal/library"
)

func main() {
	verify := flag.Bool("verify", false, "hash the library that is there and fetch it again if it is damaged")
	flag.Parse()
	if err := run(*verify); err != nil {
		fmt.Fprintln(os.Stderr, "fetch libchdb:", err)
		os.Exit(1)
	}
}

func run(verify bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if named := os.Getenv(library.EnvPath); named != "" {
		if _, err := library.Locate(""); err != nil {
			return err
		}
		fmt.Printf("libchdb: %s names %s\n", library.EnvPath, named)
		return nil
	}
	installed, err := library.Install(ctx, library.NPMPack, verify)
	if err != nil {
		return err
	}
	if installed.Fetched {
		fmt.Println("libchdb: fetched to", installed.Path)
	} else {
		fmt.Println("libchdb: already at", installed.Path)
	}
	return nil
}
