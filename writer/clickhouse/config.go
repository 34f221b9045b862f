package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/sendhouse/sendhouse/pkg/config"
)

const (
	// dialTimeout limits how long one server may take to accept a connection and complete the handshake.
	dialTimeout = 4 * time.Second
	// readTimeout limits a call. The driver applies a deadline to the whole call rather than to the wait for each byte;
	// without a deadline it would wait forever for a server that reads no more data.
	readTimeout = 60 * time.Second
	// connectionsMax limits the connections of one client. Each partition of a writer inserts one block at a time; a
	// partition that finds no free connection waits for one, up to the dial timeout.
	connectionsMax = 64
)

// Config is how to reach ClickHouse. Embed it in the command line.
type Config struct {
	ClickHouseDSN          string        `name:"clickhouse-dsn" help:"ClickHouse: clickhouse://host:9000/database (native protocol), http://host:8123/database or https://host:8443/database. Several hosts, separated by commas, are replicas; the first one that answers is used. Unknown parameters are passed as settings." placeholder:"DSN"`
	ClickHouseUser         string        `name:"clickhouse-user" help:"ClickHouse user, if the DSN names none." placeholder:"NAME"`
	ClickHousePasswordFile string        `name:"clickhouse-password-file" help:"File that holds the password of the ClickHouse user; trailing white space is ignored." placeholder:"PATH"`
	ClickHousePassword     config.Secret `name:"clickhouse-password" help:"Password of the ClickHouse user. Accepted only from the environment (SENDHOUSE_CLICKHOUSE_PASSWORD) or the configuration file, because others can read a command line." placeholder:"-"`
	ClickHouseTLSCA        string        `name:"clickhouse-tls-ca" help:"PEM file of the authorities that ClickHouse's certificate is verified against, instead of the system's. Enables TLS, as ?secure=true in the DSN does." placeholder:"PATH"`
	ClickHouseTLSCert      string        `name:"clickhouse-tls-cert" help:"PEM file of the client certificate for ClickHouse. It is read again for each connection." placeholder:"PATH"`
	ClickHouseTLSKey       string        `name:"clickhouse-tls-key" help:"PEM file of the client certificate's key." placeholder:"PATH"`
	ClickHouseTLSName      string        `name:"clickhouse-tls-server-name" help:"Name that ClickHouse's certificate must have, if it differs from the host's." placeholder:"NAME"`
	// ClickHouseDial, if set, connects to a ClickHouse that this process started, which may be down at any time.
	ClickHouseDial    func(ctx context.Context, addr string) (net.Conn, error) `kong:"-" json:"-"`
	ClickHouseCluster string                                                   `name:"clickhouse-cluster" help:"ClickHouse cluster, as its servers name it in remote_servers: the tables are replicated, and sharded by channel. Without it, the tables are on one server." placeholder:"NAME"`
}

// Layout returns the layout of the tables. Without a DSN it is that of the default database.
func (c Config) Layout() (Layout, error) {
	if c.ClickHouseDSN == "" {
		c.ClickHouseDSN = "clickhouse://localhost:9000/" + DatabaseDefault
	}
	_, database, err := c.options()
	if err != nil {
		return Layout{}, err
	}
	return Layout{Database: database, Cluster: c.ClickHouseCluster}, nil
}

// Check reports everything that is wrong with the configuration. It reads the files that it names. Without a DSN, the
// process uses an embedded ClickHouse or none.
func (c Config) Check() error {
	if c.ClickHouseDSN == "" {
		return c.checkEmbedded()
	}
	return c.CheckGiven()
}

// CheckGiven is Check for a command that requires a DSN.
func (c Config) CheckGiven() error {
	_, _, err := c.options()
	return err
}

// checkEmbedded reports settings that require a DSN.
func (c Config) checkEmbedded() error {
	var errs []error
	for _, flag := range []struct {
		name  string
		given bool
	}{
		{"--clickhouse-user", c.ClickHouseUser != ""},
		{"--clickhouse-password-file", c.ClickHousePasswordFile != ""},
		{"SENDHOUSE_CLICKHOUSE_PASSWORD", !c.ClickHousePassword.IsZero()},
		{"--clickhouse-tls-ca", c.ClickHouseTLSCA != ""},
		{"--clickhouse-tls-cert", c.ClickHouseTLSCert != ""},
		{"--clickhouse-tls-key", c.ClickHouseTLSKey != ""},
		{"--clickhouse-tls-server-name", c.ClickHouseTLSName != ""},
		{"--clickhouse-cluster", c.ClickHouseCluster != ""},
	} {
		if flag.given {
			errs = append(errs, fmt.Errorf("%s: requires --clickhouse-dsn", flag.name))
		}
	}
	return errors.Join(errs...)
}

// options parses the DSN and the settings beside it. It leaves the database out of the connection: the database may have
// yet to be created, and every statement names it.
func (c Config) options() (options *clickhouse.Options, database string, err error) {
	if c.ClickHouseDSN == "" {
		return nil, "", errors.New("--clickhouse-dsn: is missing (for example clickhouse://localhost:9000/sendhouse)")
	}
	scheme, _, found := strings.Cut(c.ClickHouseDSN, "://")
	if !found { // do not quote the value: it may contain a password
		return nil, "", errors.New("--clickhouse-dsn: has no scheme: want clickhouse, tcp, http or https, as in clickhouse://localhost:9000/sendhouse")
	}
	if !validScheme(scheme) {
		return nil, "", fmt.Errorf("--clickhouse-dsn: scheme %q: must be clickhouse, tcp, http or https", scheme)
	}
	if err := config.CheckURL(c.ClickHouseDSN); err != nil {
		return nil, "", fmt.Errorf("--clickhouse-dsn: %w", err)
	}
	options, err = clickhouse.ParseDSN(withSecure(scheme, c.ClickHouseDSN))
	if err != nil {
		return nil, "", fmt.Errorf("--clickhouse-dsn: %w", err) // the driver has removed the password
	}
	database = options.Auth.Database
	if database == "" {
		database = DatabaseDefault
	}
	var errs []error
	if !validName(database) {
		errs = append(errs, fmt.Errorf("--clickhouse-dsn: database %q: must be letters, digits and _", database))
	}
	if c.ClickHouseCluster != "" && !validName(strings.ReplaceAll(c.ClickHouseCluster, "-", "_")) {
		errs = append(errs, fmt.Errorf("--clickhouse-cluster: %q: must be letters, digits, _ and -", c.ClickHouseCluster))
	}
	options.Auth.Database, options.DialContext = "", c.ClickHouseDial
	errs = append(errs, checkAddresses(options.Addr), c.setAuth(&options.Auth), c.setTLS(scheme, options))
	if err := errors.Join(errs...); err != nil {
		return nil, "", err
	}
	applyDefaults(options, c)
	return options, database, nil
}

// withSecure adds the parameter that the driver requires in addition to https.
func withSecure(scheme, dsn string) string {
	if scheme != "https" || strings.Contains(dsn, "secure=") {
		return dsn
	}
	if strings.Contains(dsn, "?") {
		return dsn + "&secure=true"
	}
	return dsn + "?secure=true"
}

// checkAddresses refuses addresses that would only fail later, with an error that does not name the setting.
func checkAddresses(addresses []string) error {
	for _, addr := range addresses {
		var parsed config.Addr
		if err := parsed.UnmarshalText([]byte(addr)); err != nil {
			return fmt.Errorf("--clickhouse-dsn: host %w", err)
		}
	}
	return nil
}

// validName reports whether a name needs no escaping in a statement.
func validName(name string) bool {
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

// applyDefaults sets options that the DSN leaves open. Settings in the DSN win.
func applyDefaults(o *clickhouse.Options, c Config) {
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
	if c.ClickHouseCluster != "" {
		// An insert returns when its shards have the rows, not when they are queued.
		o.Settings["insert_distributed_sync"] = 1
		if o.Settings["distributed_ddl_task_timeout"] == nil {
			// A migration that takes longer on the cluster reports it itself, before the read timeout ends the call.
			o.Settings["distributed_ddl_task_timeout"] = int(o.ReadTimeout.Seconds()) * 5 / 6
		}
	}
	o.ClientInfo.Products = append(o.ClientInfo.Products, struct{ Name, Version string }{"sendhouse", "1"})
}
