package clickhouse

import (
	"context"
	"io/fs"
	"testing/fstest"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// WrapConn puts something between the client and its connections.
func (c *Client) WrapConn(wrap func(driver.Conn) driver.Conn) { c.conn = wrap(c.conn) }

// MigrationsAnd returns the migrations of a layout, followed by others that add columns.
func MigrationsAnd(layout Layout, added []string, more map[string]string) ([]Migration, error) {
	files := make(fstest.MapFS)
	entries, err := fs.ReadDir(migrationFiles, layout.files())
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		text, err := fs.ReadFile(migrationFiles, layout.files()+"/"+entry.Name())
		if err != nil {
			return nil, err
		}
		files[entry.Name()] = &fstest.MapFile{Data: text}
	}
	for name, text := range more {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	columns := message.StoredFields()
	for _, name := range added {
		columns = append(columns, message.Field{Name: name, Column: "String"})
	}
	return readMigrations(files, layout, columns)
}

// Apply runs a migration.
func (c *Client) Apply(ctx context.Context, m Migration) error { return c.apply(ctx, m) }
