package clickhouse_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	native "github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

// shardCluster is the cluster that the engine of these tests is configured with. Its shards are shards[0] and shards[1].
const shardCluster = "main-1"

// shardRevision is the revision of the native protocol that the shards speak: the last one before a query came with the secret of servers
// among themselves, traces and more that is of no use here.
const shardRevision = 54440

var shards [2]*shard

// shard is a server of a cluster, as a Distributed table sees it: it speaks the server's side of the native protocol, as far as that goes for
// an INSERT, and notes what each insert brings. The rows go where the test says, with the deduplication settings that came with them and no
// others.
//
// The engine cannot be such a server itself. It listens on no native port, and one process can have only one.
type shard struct {
	listener net.Listener

	mu      sync.Mutex
	types   map[string]string                                // of the columns, by name
	take    func(ctx context.Context, in *shardInsert) error // what to do with an insert; an error ends the connection
	inserts []*shardInsert
	faults  []error // of the protocol
}

// shardInsert is an INSERT as it came.
type shardInsert struct {
	query    string
	columns  []string
	settings map[string]string
	blocks   []*native.Block
}

// keys are the channel and message_seq of each row, in order.
func (in *shardInsert) keys() []string {
	var keys []string
	for _, block := range in.blocks {
		for i := range block.Rows() {
			key := ""
			for _, c := range block.Columns {
				switch c.Name() {
				case "channel_id", "channel_type", "message_seq":
					key += fmt.Sprintf("%v ", c.Row(i, false))
				}
			}
			keys = append(keys, key)
		}
	}
	return keys
}

// listenAsShards opens a port for each shard, and returns the configuration that names them.
func listenAsShards() (config string, stop func() error, err error) {
	var text strings.Builder
	text.WriteString("<clickhouse><remote_servers><" + shardCluster + ">")
	var serving sync.WaitGroup
	for i := range shards {
		listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return "", nil, fmt.Errorf("listen as a shard: %w", err)
		}
		shards[i] = &shard{listener: listener}
		serving.Go(shards[i].serve)
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		text.WriteString("<shard><internal_replication>true</internal_replication><replica><host>127.0.0.1</host><port>" + port +
			"</port><compression>0</compression></replica></shard>")
	}
	text.WriteString("</" + shardCluster + "></remote_servers></clickhouse>\n")
	return text.String(), func() error {
		err := errors.Join(shards[0].listener.Close(), shards[1].listener.Close())
		serving.Wait()
		return err
	}, nil
}

// serve takes connections until the listener is closed. The engine keeps its own open for as long as it runs.
func (s *shard) serve() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		go func() {
			err := s.speak(conn)
			_ = conn.Close() // it has ended one way or the other
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errHangUp) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.faults = append(s.faults, err)
			}
		}()
	}
}

// errHangUp ends a connection in the middle because the test wants it.
var errHangUp = errors.New("hung up")

// speak answers one connection.
func (s *shard) speak(conn net.Conn) error {
	from := proto.NewReader(conn)
	code, err := from.UVarInt()
	if err != nil {
		return err
	}
	var hello proto.ClientHello
	if proto.ClientCode(code) != proto.ClientCodeHello {
		return fmt.Errorf("packet %d instead of a hello", code)
	}
	if err := hello.Decode(from); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	var to proto.Buffer
	answer := proto.ServerHello{Name: "shard", Major: 23, Minor: 3, Revision: shardRevision, Timezone: "UTC"}
	answer.EncodeAware(&to, shardRevision)
	for {
		if _, err := conn.Write(to.Buf); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		to.Reset()
		code, err := from.UVarInt()
		if err != nil {
			return err
		}
		switch proto.ClientCode(code) {
		case proto.ClientCodePing:
			proto.ServerCodePong.Encode(&to)
		case proto.ClientTablesStatusRequest:
			if err := tablesStatus(from, &to); err != nil {
				return err
			}
		case proto.ClientCodeQuery:
			if err := s.query(conn, from, &to); err != nil {
				return err
			}
		default:
			return fmt.Errorf("packet %d between queries", code)
		}
	}
}

// tablesStatus says of each table that is asked for that it is there, and has no replicas that could lag.
func tablesStatus(from *proto.Reader, to *proto.Buffer) error {
	tables, err := from.Int()
	if err != nil {
		return fmt.Errorf("tables asked for: %w", err)
	}
	proto.ServerCodeTablesStatus.Encode(to)
	to.PutInt(tables)
	for range tables {
		for range 2 { // its database and its name
			name, err := from.Str()
			if err != nil {
				return fmt.Errorf("tables asked for: %w", err)
			}
			to.PutString(name)
		}
		to.PutBool(false)
	}
	return nil
}

// query takes one INSERT, and leaves the last words of the answer in to.
func (s *shard) query(conn net.Conn, from *proto.Reader, to *proto.Buffer) error {
	in, err := readInsert(from)
	if err != nil {
		return fmt.Errorf("query: %w", err)
	}
	// Tables that come with the query; there are none, and the empty block says so.
	if block, err := readBlock(from); err != nil || len(block.Columns) > 0 {
		return fmt.Errorf("the block before the data: %d columns, %w", len(block.Columns), err)
	}
	s.mu.Lock()
	types, take := s.types, s.take
	s.mu.Unlock()
	header(to, in.columns, types)
	if _, err := conn.Write(to.Buf); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	to.Reset()
	for {
		block, err := readBlock(from)
		if err != nil {
			return fmt.Errorf("data: %w", err)
		}
		if len(block.Columns) == 0 {
			break
		}
		in.blocks = append(in.blocks, block)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.mu.Lock()
	s.inserts = append(s.inserts, in)
	s.mu.Unlock()
	if err := take(ctx, in); err != nil {
		return err
	}
	proto.ServerCodeEndOfStream.Encode(to)
	return nil
}

// What a query is sent with, as one byte each.
const (
	queryOfServer = 2 // it is a part of another server's query
	queryOfLocal  = 6 // which came from within that process
)

var insertInto = regexp.MustCompile(`^INSERT INTO \S+ \(([^)]*)\)`)

// readInsert reads a query, which must be an INSERT. The driver's own reader knows of no query that began in an embedded engine.
func readInsert(from *proto.Reader) (*shardInsert, error) {
	var failed error
	text := func() string {
		value, err := from.Str()
		failed = errors.Join(failed, err)
		return value
	}
	number := func() int {
		value, err := from.Int()
		failed = errors.Join(failed, err)
		return value
	}
	in := &shardInsert{settings: make(map[string]string)}
	text()           // ID
	kind := number() // 2: on behalf of another server
	text()           // user, ID and address where it began
	text()
	text()
	began := number()
	text() // key of the quota
	if failed == nil && (kind != queryOfServer || began != queryOfLocal) {
		return nil, fmt.Errorf("kind %d, begun by %d", kind, began)
	}
	for {
		var setting proto.Setting
		if err := setting.Decode(from); err != nil {
			return nil, errors.Join(failed, err)
		}
		if setting.Key == "" {
			break
		}
		in.settings[setting.Key] = setting.Value
	}
	stage, compression := number(), number()
	in.query = text()
	parts := insertInto.FindStringSubmatch(in.query)
	if failed != nil || parts == nil || compression != 0 {
		return nil, fmt.Errorf("stage %d, compression %d, %q: %w", stage, compression, in.query, failed)
	}
	for name := range strings.SplitSeq(parts[1], ",") {
		in.columns = append(in.columns, strings.Trim(name, " `"))
	}
	return in, nil
}

// header tells the other side of the columns and their types: a block without rows.
func header(to *proto.Buffer, columns []string, types map[string]string) {
	proto.ServerCodeData.Encode(to)
	to.PutString("") // of no temporary table
	proto.Block{Info: proto.BlockInfo{BucketNum: -1}, Columns: len(columns)}.EncodeAware(to, shardRevision)
	for _, name := range columns {
		to.PutString(name)
		to.PutString(types[name])
	}
}

func readBlock(from *proto.Reader) (*native.Block, error) {
	block := &native.Block{ServerContext: &column.ServerContext{Timezone: time.UTC}}
	code, err := from.UVarInt()
	if err != nil {
		return block, err
	}
	if proto.ClientCode(code) != proto.ClientCodeData {
		return block, fmt.Errorf("packet %d instead of data", code)
	}
	if _, err := from.Str(); err != nil { // the name of a temporary table
		return block, err
	}
	return block, block.Decode(from, shardRevision)
}

// intoEngine puts the rows of an insert into a table of the engine.
func (in *shardInsert) intoEngine(ctx context.Context, address, table string) error {
	values := url.Values{"query": {"INSERT INTO " + table + " (" + strings.Join(in.columns, ", ") + ") FORMAT Native"}}
	for _, name := range []string{"insert_deduplicate", "insert_deduplication_token"} {
		if value, given := in.settings[name]; given {
			values.Set(name, value)
		}
	}
	var body proto.Buffer
	for _, block := range in.blocks {
		if err := block.Encode(&body, 0); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"?"+values.Encode(), bytes.NewReader(body.Buf))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the engine answers %d %s", resp.StatusCode, text)
	}
	return nil
}

// let says what the shard does with inserts from now on, and forgets those before.
func (s *shard) let(take func(ctx context.Context, in *shardInsert) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take, s.inserts = take, nil
}

// taken are the inserts since then.
func (s *shard) taken() []*shardInsert {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.inserts)
}
