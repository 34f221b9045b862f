package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// MigrateOptions are the flags of the migrate command besides those of the connection.
type MigrateOptions struct {
	DryRun bool `help:"Print the statements that are pending, and run none." env:"-"`
	All    bool `help:"With --dry-run: print the statements for an empty server; nothing is asked, so no server is needed." env:"-"`
}

// RunMigrate is the migrate command: it brings the tables up to date, or prints what would do it.
func RunMigrate(ctx context.Context, cfg Config, o MigrateOptions, log *slog.Logger, out io.Writer) (err error) {
	if o.All {
		if !o.DryRun {
			return errors.New("--all: goes with --dry-run")
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

// WriteMigrations writes statements that do what [Client.Migrate] does with these migrations, for a client that
// runs one after another, such as clickhouse-client --multiquery. They include the entries in the ledger.
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
