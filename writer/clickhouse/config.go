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
	// dialTimeout bounds how long one server may take to accept a connection and to say hello.
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
	ClickHouseDSN          string        `name:"clickhouse-dsn" help:"ClickHouse: clickhouse://host:9000/database (native protocol), http://host:8123/database or https://host:8443/database. Several hosts, separated by commas, are replicas of which the first that answers is used; unknown parameters are settings." placeholder:"DSN"`
	ClickHouseUser         string        `name:"clickhouse-user" help:"User of ClickHouse, where the DSN names none." placeholder:"NAME"`
	ClickHousePasswordFile string        `name:"clickhouse-password-file" help:"File that holds the password of the ClickHouse user; white space at its end is not part of it." placeholder:"PATH"`
	ClickHousePassword     config.Secret `name:"clickhouse-password" help:"Password of the ClickHouse user. Only from the environment (SENDHOUSE_CLICKHOUSE_PASSWORD) or the configuration file: a command line can be read by others." placeholder:"-"`
	ClickHouseTLSCA        string        `name:"clickhouse-tls-ca" help:"PEM file of the authorities that may have signed the certificate of ClickHouse, instead of the system's. Turns TLS on, as ?secure=true in the DSN does." placeholder:"PATH"`
	ClickHouseTLSCert      string        `name:"clickhouse-tls-cert" help:"PEM file of the certificate that is shown to ClickHouse. It is read again for each connection." placeholder:"PATH"`
	ClickHouseTLSKey       string        `name:"clickhouse-tls-key" help:"PEM file of the key of that certificate." placeholder:"PATH"`
	ClickHouseTLSName      string        `name:"clickhouse-tls-server-name" help:"Name that the certificate of ClickHouse must have, where it is not the host's." placeholder:"NAME"`
	// ClickHouseDial, if set, makes the connections to a ClickHouse that this process started, which may be away at any time.
	ClickHouseDial    func(ctx context.Context, addr string) (net.Conn, error) `kong:"-" json:"-"`
	ClickHouseCluster string                                                   `name:"clickhouse-cluster" help:"Cluster of ClickHouse, as its servers name it in remote_servers: the tables are replicated, and sharded by channel. Without it they are those of one server." placeholder:"NAME"`
}

// Layout is where the tables lie that the configuration speaks of. Without a DSN it is the default database's.
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

// Check reports everything that is wrong with the configuration. It reads the files that it names. Without a DSN there is no ClickHouse, or an
// embedded one.
func (c Config) Check() error {
	if c.ClickHouseDSN == "" {
		return c.checkEmbedded()
	}
	return c.CheckGiven()
}

// CheckGiven is Check if there must be a DSN.
func (c Config) CheckGiven() error {
	_, _, err := c.options()
	return err
}

// checkEmbedded reports settings that are for a ClickHouse that a DSN names.
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
			errs = append(errs, fmt.Errorf("%s: is for a ClickHouse of your own, and --clickhouse-dsn does not name one", flag.name))
		}
	}
	return errors.Join(errs...)
}

// options reads the DSN and what stands beside it. The database is kept out of the connection: it may have to
// be created first, and every statement names it.
func (c Config) options() (options *clickhouse.Options, database string, err error) {
	if c.ClickHouseDSN == "" {
		return nil, "", errors.New("--clickhouse-dsn: is missing (for example clickhouse://localhost:9000/sendhouse)")
	}
	scheme, _, found := strings.Cut(c.ClickHouseDSN, "://")
	if !found { // what there is instead can hold a password
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
		return nil, "", fmt.Errorf("--clickhouse-dsn: %w", err) // the driver has taken out the password
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

// withSecure spares the user of https the parameter that the driver wants besides.
func withSecure(scheme, dsn string) string {
	if scheme != "https" || strings.Contains(dsn, "secure=") {
		return dsn
	}
	if strings.Contains(dsn, "?") {
		return dsn + "&secure=true"
	}
	return dsn + "?secure=true"
}

// checkAddresses refuses what could only fail later, and then without saying where it came from.
func checkAddresses(addresses []string) error {
	for _, addr := range addresses {
		var parsed config.Addr
		if err := parsed.UnmarshalText([]byte(addr)); err != nil {
			return fmt.Errorf("--clickhouse-dsn: host %w", err)
		}
	}
	return nil
}

// validName allows what needs no escaping in a statement.
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

// applyDefaults sets what the DSN leaves open. Settings in the DSN win.
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
		// An insert returns when its shards have it, and not when it is in a queue to them.
		o.Settings["insert_distributed_sync"] = 1
		if o.Settings["distributed_ddl_task_timeout"] == nil {
			// A migration that the cluster takes longer for says so itself, before the read timeout ends the call.
			o.Settings["distributed_ddl_task_timeout"] = int(o.ReadTimeout.Seconds()) * 5 / 6
		}
	}
	o.ClientInfo.Products = append(o.ClientInfo.Products, struct{ Name, Version string }{"sendhouse", "1"})
}
