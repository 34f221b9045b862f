package clickhouse

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// Client is a pool of connections to one ClickHouse. It is safe for concurrent use.
type Client struct {
	conn      driver.Conn
	log       *slog.Logger
	layout    Layout
	database  string
	addresses string
	columns   []message.Field // that are stored
	types     []clickhouse.ColumnNameAndType
	statement string
	timeout   time.Duration // limit of an insert
	kept      keptColumns
	single    atomic.Bool // see SingleServer
}

// Open checks the configuration and returns a client, which connects with the first call.
func Open(cfg Config, log *slog.Logger) (*Client, error) {
	options, database, err := cfg.options()
	if err != nil {
		return nil, err
	}
	log = log.With("component", "clickhouse")
	options.DialStrategy = newFailover(log, options.DialTimeout).dial
	conn, err := clickhouse.Open(options)
	if err != nil {
		return nil, fmt.Errorf("--clickhouse-dsn: %w", err)
	}
	columns := message.StoredFields()
	return &Client{
		conn:      conn,
		log:       log,
		layout:    Layout{Database: database, Cluster: cfg.ClickHouseCluster},
		database:  database,
		addresses: strings.Join(options.Addr, ","),
		columns:   columns,
		types:     namesAndTypes(columns),
		statement: insertStatement(database, columns),
		timeout:   options.ReadTimeout,
	}, nil
}

// Database returns the database of the DSN, or the default one.
func (c *Client) Database() string { return c.database }

// Ping reaches the server, or returns when ctx ends. The driver's handshake ignores ctx: if a server accepts a connection
// and sends nothing, the handshake continues in the background until the dial timeout.
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
