package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

const (
	dialTimeout = 4 * time.Second
	// readTimeout is how long a call may take: the driver counts a deadline of the whole call instead of the
	// wait for a byte as soon as there is one, and without one a server that takes no more data would be
	// waited for in vain.
	readTimeout = 60 * time.Second
	// connectionsMax bounds the connections of one client. Each partition of a writer inserts one block at
	// a time; those that find no connection wait for one, up to the dial timeout.
	connectionsMax = 64
)

// Config says how to reach ClickHouse. Embed it in the command line.
type Config struct {
	ClickHouseDSN    string `name:"clickhouse-dsn" help:"ClickHouse: clickhouse://user:password@host:9000/database (native protocol) or http://user:password@host:8123/database. Several hosts are separated by commas; unknown parameters are settings." placeholder:"DSN"`
	ClickHouseSchema Schema `name:"clickhouse-schema" help:"Variant of the tables: full, or reduced for tests against the ClickHouse 18.16 that Debian ships." enum:"full,reduced" default:"full"`
}

// Check reports everything that is wrong with the configuration.
func (c Config) Check() error {
	_, _, err := c.options()
	return err
}

// Client is a pool of connections to one ClickHouse. It is safe for concurrent use.
type Client struct {
	conn      driver.Conn
	log       *slog.Logger
	schema    Schema
	database  string
	addresses string
	columns   []column
	types     []clickhouse.ColumnNameAndType
	statement string
	timeout   time.Duration // of an insert
}

// Open checks the configuration and makes a client. It connects with the first call.
func Open(cfg Config, log *slog.Logger) (*Client, error) {
	options, database, err := cfg.options()
	if err != nil {
		return nil, err
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		return nil, fmt.Errorf("--clickhouse-dsn: %w", err)
	}
	columns := tableColumns(cfg.ClickHouseSchema)
	return &Client{
		conn:      conn,
		log:       log.With("component", "clickhouse"),
		schema:    cfg.ClickHouseSchema,
		database:  database,
		addresses: strings.Join(options.Addr, ","),
		columns:   columns,
		types:     namesAndTypes(columns),
		statement: insertStatement(database, columns),
		timeout:   options.ReadTimeout,
	}, nil
}

// options reads the DSN. The database is kept out of the connection: it may have to be created first, and
// every statement names it.
func (c Config) options() (options *clickhouse.Options, database string, err error) {
	if c.ClickHouseDSN == "" {
		return nil, "", errors.New("--clickhouse-dsn: is missing (for example clickhouse://localhost:9000/sendhouse)")
	}
	if !c.ClickHouseSchema.Valid() {
		return nil, "", fmt.Errorf("--clickhouse-schema: %q is neither %q nor %q", c.ClickHouseSchema, SchemaFull, SchemaReduced)
	}
	if scheme, _, _ := strings.Cut(c.ClickHouseDSN, "://"); !validScheme(scheme) {
		return nil, "", fmt.Errorf("--clickhouse-dsn: scheme %q: must be clickhouse, tcp, http or https", scheme)
	}
	options, err = clickhouse.ParseDSN(c.ClickHouseDSN)
	if err != nil {
		return nil, "", fmt.Errorf("--clickhouse-dsn: %w", err) // the driver has taken out the password
	}
	database = options.Auth.Database
	if database == "" {
		database = DatabaseDefault
	}
	if !validDatabase(database) {
		return nil, "", fmt.Errorf("--clickhouse-dsn: database %q: must be letters, digits and _", database)
	}
	options.Auth.Database = ""
	applyDefaults(options, c.ClickHouseSchema)
	return options, database, nil
}

// validDatabase allows what needs no escaping in a statement.
func validDatabase(name string) bool {
	for _, c := range name {
		if c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return name != "" && len(name) <= 128
}

func validScheme(scheme string) bool {
	switch scheme {
	case "clickhouse", "tcp", "http", "https":
		return true
	default:
		return false
	}
}

// applyDefaults sets what the DSN leaves open. Settings in the DSN win, but for async_insert: with it the
// server would merge our blocks with others', and the token would mean nothing.
func applyDefaults(o *clickhouse.Options, schema Schema) {
	if o.DialTimeout == 0 {
		o.DialTimeout = dialTimeout
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = readTimeout
	}
	if o.MaxOpenConns == 0 {
		o.MaxOpenConns = connectionsMax
	}
	if o.MaxIdleConns == 0 {
		o.MaxIdleConns = connectionsMax
	}
	if o.Compression == nil {
		o.Compression = &clickhouse.Compression{Method: clickhouse.CompressionLZ4}
	}
	if schema == SchemaFull {
		o.Settings["async_insert"] = 0
	}
	o.ClientInfo.Products = append(o.ClientInfo.Products, struct{ Name, Version string }{"sendhouse", "1"})
}

// Database is the database of the DSN, or the default one.
func (c *Client) Database() string { return c.database }

// Ping reaches the server, or returns when ctx ends. The driver's handshake does not look at ctx: with a server
// that accepts and says nothing it goes on behind our back, for the dial timeout.
func (c *Client) Ping(ctx context.Context) error {
	answer := make(chan error, 1)
	go func() { answer <- c.conn.Ping(ctx) }()
	var err error
	select {
	case err = <-answer:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return newError(opConnect, c.addresses, err)
	}
	return nil
}

// Close closes the connections.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil {
		return fmt.Errorf("clickhouse: close: %w", err)
	}
	return nil
}

func (c *Client) target(table string) string {
	return c.database + "." + table + " at " + c.addresses
}
