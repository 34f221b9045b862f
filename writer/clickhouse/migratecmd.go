package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// MigrateOptions are the flags of the migrate command in addition to those of the connection.
type MigrateOptions struct {
	DryRun bool `help:"Print the pending statements without running them." env:"-"`
	All    bool `help:"With --dry-run: print the statements for an empty server, without connecting to one." env:"-"`
}

// RunMigrate is the migrate command: it updates the tables, or prints the statements that would.
func RunMigrate(ctx context.Context, cfg Config, o MigrateOptions, log *slog.Logger, out io.Writer) (err error) {
	if o.All {
		if !o.DryRun {
			return errors.New("--all: requires --dry-run")
		}
		layout, err := cfg.Layout()
		if err != nil {
			return err
		}
		all, err := Migrations(layout)
		if err != nil {
			return err
		}
		return WriteMigrations(out, layout.Database, all)
	}
	client, err := Open(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if o.DryRun {
		pending, err := client.Pending(ctx)
		if err != nil {
			return err
		}
		return WriteMigrations(out, client.Database(), pending)
	}
	if err := client.Migrate(ctx); err != nil {
		return err
	}
	return client.Check(ctx)
}

// WriteMigrations writes the statements that [Client.Migrate] runs for these migrations, including the entries in the
// ledger, for a client that runs one after another, such as clickhouse-client --multiquery.
func WriteMigrations(w io.Writer, database string, migrations []Migration) error {
	var text strings.Builder
	if len(migrations) == 0 {
		text.WriteString("-- nothing is pending\n")
	}
	var unrecorded []Migration
	for _, m := range migrations {
		fmt.Fprintf(&text, "-- %04d_%s\n%s;\n\n", m.Version, m.Name, m.SQL)
		unrecorded = append(unrecorded, m)
		if m.Version < ledgerVersion {
			continue
		}
		for _, m := range unrecorded {
			fmt.Fprintf(&text, "%s;\n\n", m.ledgerEntry(database))
		}
		unrecorded = nil
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write the statements: %w", err)
	}
	return nil
}
