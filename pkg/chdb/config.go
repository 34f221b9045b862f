package chdb

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sendhouse/sendhouse/pkg/guard"
)

// Config says how the engine runs. The zero value of a field other than DataDir and Logger means its default.
type Config struct {
	// DataDir is the folder that holds everything: tables, the lock, the engine's configuration and the data of inserts on their way in.
	// It is made if it is missing. Its path may not hold any of * ? { }, which ClickHouse would take for patterns.
	DataDir string
	// LibraryPath is the libchdb to load. Empty: the path in the environment variable SENDHOUSE_CHDB_LIB, else the pinned build in the
	// user's cache folder, where `make deps` puts it.
	LibraryPath string

	// MemoryBytesMax bounds the memory of the engine (max_server_memory_usage). It is compared with the resident size of the whole
	// process, so what the rest of the process uses counts too. Default 2 GiB.
	MemoryBytesMax int64
	// QueryMemoryBytesMax bounds the memory of one query (max_memory_usage). Default half of MemoryBytesMax.
	QueryMemoryBytesMax int64
	// QueryTimeout bounds one query (max_execution_time); a client may ask for another in its settings. Default 5 minutes.
	QueryTimeout time.Duration
	// QueriesMax is how many statements other than inserts run at once. Default 16.
	QueriesMax int
	// InsertsMax is how many inserts run at once, beside QueriesMax. Default 4.
	InsertsMax int
	// QueueTimeout is how long a statement waits when as many run as may. Four times as many may wait. Default 5 seconds.
	QueueTimeout time.Duration
	// CloseTimeout is how long Close waits for running statements before it ends them. Default 10 seconds.
	CloseTimeout time.Duration

	// InsertBytesMax bounds the data of one insert, uncompressed. Default 1 GiB.
	InsertBytesMax int64
	// SpoolBytesMax bounds the data of all inserts that are on their way in, on disk. Default 4 GiB.
	SpoolBytesMax int64

	// User and Password are what a client must give for all rights. User is "default" by default. Without a password every client has all
	// rights, those of table functions that reach files and networks included; with one, no client has those.
	User, Password string
	// Hosts are the names by which requests without a password may ask for the engine.
	Hosts guard.Hosts
	// ReaderDatabase, which needs a password, is the database that clients on this machine may read without one, beside the system
	// tables. Empty: without the password nothing may be read.
	ReaderDatabase string

	// Settings are query-level settings of ClickHouse that hold unless a client sets them otherwise.
	Settings map[string]string

	// Logger receives what the package has to say. Default: nothing is logged.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	setDefault(&c.MemoryBytesMax, 2<<30)
	setDefault(&c.QueryMemoryBytesMax, c.MemoryBytesMax/2)
	setDefault(&c.QueryTimeout, 5*time.Minute)
	setDefault(&c.QueriesMax, 16)
	setDefault(&c.InsertsMax, 4)
	setDefault(&c.QueueTimeout, 5*time.Second)
	setDefault(&c.CloseTimeout, 10*time.Second)
	setDefault(&c.InsertBytesMax, 1<<30)
	setDefault(&c.SpoolBytesMax, 4<<30)
	setDefault(&c.User, "default")
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// memoryBytesLeast is the least that the engine is given: with less it cannot answer the questions a client asks when it connects.
const memoryBytesLeast = 256 << 20

// settingName is what a setting may be called. What passes it needs no quoting in SQL.
var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// validate reports everything that is wrong, together.
func (c Config) validate() error {
	var problems []error
	if c.DataDir == "" {
		problems = append(problems, errors.New("data folder is not set"))
	}
	if path, err := filepath.Abs(c.DataDir); err != nil || strings.ContainsAny(path, "*?{}") {
		problems = append(problems, fmt.Errorf("data folder %q may not hold any of * ? { } in its path; choose another", c.DataDir))
	}
	if c.MemoryBytesMax < memoryBytesLeast {
		problems = append(problems, fmt.Errorf("memory limit is %d bytes and must be at least %d", c.MemoryBytesMax, memoryBytesLeast))
	}
	for name, value := range map[string]int64{
		"memory limit of a query": c.QueryMemoryBytesMax, "query timeout": int64(c.QueryTimeout), "number of queries": int64(c.QueriesMax),
		"number of inserts": int64(c.InsertsMax), "queue timeout": int64(c.QueueTimeout), "close timeout": int64(c.CloseTimeout),
		"size limit of an insert": c.InsertBytesMax, "size limit of all inserts": c.SpoolBytesMax,
	} {
		if value < 0 {
			problems = append(problems, fmt.Errorf("%s is negative: %d", name, value))
		}
	}
	if _, _, err := c.guards(); err != nil {
		problems = append(problems, err)
	}
	if c.ReaderDatabase != "" && (c.Password == "" || !settingName.MatchString(c.ReaderDatabase) || strings.Contains(c.ReaderDatabase, ".")) {
		problems = append(problems, fmt.Errorf("database of readers %q must be a plain name, beside a password", c.ReaderDatabase))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Settings)) {
		if !settingName.MatchString(name) {
			problems = append(problems, fmt.Errorf("%q is no name of a setting", name))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("chdb configuration: %w", errors.Join(problems...))
	}
	return nil
}

// querySettings are the settings that each connection starts with. The engine's own defaults are those of the command-line tool
// clickhouse-local; these make it behave as a server does, and bound it.
func (c Config) querySettings() settings {
	result := settings{
		{"implicit_select", "0"},               // "1 + 1" is no query.
		{"allow_introspection_functions", "0"}, // They read the process.
		{"async_insert", "0"},                  // An insert is acknowledged when it is in a part, not when it is in a queue.
		{"max_memory_usage", fmt.Sprint(c.QueryMemoryBytesMax)},
		{"max_execution_time", fmt.Sprint(c.QueryTimeout.Seconds())},
	}
	for _, name := range slices.Sorted(maps.Keys(c.Settings)) {
		result = result.with(name, c.Settings[name])
	}
	return result
}

// serverXML is the configuration of the engine. Without one of its own, the engine would take ./config.xml or one in the home folder.
// The caches are bounds, not allocations: the defaults are for a server with the machine to itself.
func (c Config) serverXML(usersPath string) string {
	const mebibyte = 1 << 20
	var text strings.Builder
	text.WriteString("<!-- Written again at each start. -->\n<clickhouse>\n")
	for _, entry := range []struct {
		name  string
		value any
	}{
		{"display_name", "sendhouse"},
		{"max_server_memory_usage", c.MemoryBytesMax},
		{"mark_cache_size", 64 * mebibyte},
		{"primary_index_cache_size", 64 * mebibyte},
		{"index_mark_cache_size", 16 * mebibyte},
		{"index_uncompressed_cache_size", 16 * mebibyte},
		{"vector_similarity_index_cache_size", 16 * mebibyte},
		{"text_index_tokens_cache_size", 16 * mebibyte},
		{"text_index_header_cache_size", 16 * mebibyte},
		{"text_index_postings_cache_size", 16 * mebibyte},
		{"iceberg_metadata_files_cache_size", 16 * mebibyte},
		{"parquet_metadata_cache_size", 16 * mebibyte},
		{"query_condition_cache_size", 16 * mebibyte},
		{"compiled_expression_cache_size", 16 * mebibyte},
		{"background_pool_size", 2},
		{"background_schedule_pool_size", 2},
		// Threads of parts that are loaded at a start and removed after merges, 64 and 128 by default. Those stay, with files of their own.
		{"max_active_parts_loading_thread_pool_size", 4},
		{"max_outdated_parts_loading_thread_pool_size", 2},
		{"max_unexpected_parts_loading_thread_pool_size", 2},
		{"max_parts_cleaning_thread_pool_size", 2},
		{"max_thread_pool_free_size", 16},
	} {
		fmt.Fprintf(&text, "    <%s>%v</%s>\n", entry.name, entry.value, entry.name)
	}
	if c.Password != "" {
		fmt.Fprintf(&text, "    <users_config>%s</users_config>\n", xmlText(usersPath))
	}
	// Defaults of tables. No query uses statistics of columns, and they took a tenth of what an insert costs. Parts of less than this, as all
	// inserts make them, are a few files and not a few for each column.
	text.WriteString("    <merge_tree>\n        <auto_statistics_types></auto_statistics_types>\n")
	fmt.Fprintf(&text, "        <min_bytes_for_wide_part>%d</min_bytes_for_wide_part>\n    </merge_tree>\n", 64*mebibyte)
	text.WriteString("</clickhouse>\n")
	return text.String()
}

func xmlText(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}
