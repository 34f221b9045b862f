package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/topology"
)

// damageCell is one thing that can be damaged, in one way, at one moment, in one layout.
type damageCell struct {
	object string // a stream with {p} for the partition, or a part of ClickHouse
	kind   damageKind
	apart  bool // the roles run apart
	live   bool // damaged while the roles run, and not while they are stopped
}

func (c damageCell) String() string {
	layout, moment := "up", "stopped"
	if c.apart {
		layout = "apart"
	}
	if c.live {
		moment = "running"
	}
	return strings.Join([]string{layout, c.object, c.kind.name, moment}, "/")
}

// damageKind is a way to damage something. One of its functions is set.
type damageKind struct {
	name  string
	api   func(c *damageCase, ctx context.Context, js jetstream.JetStream, stream string) error
	files func(c *damageCase, stream string) error // while the server of the files is stopped
	sql   func(c *damageCase) string
}

// damageCells lists everything.
func damageCells() []damageCell {
	var cells []damageCell
	add := func(object string, kinds []damageKind) {
		for _, kind := range kinds {
			for _, apart := range []bool{false, true} {
				if kind.files == nil {
					cells = append(cells, damageCell{object: object, kind: kind, apart: apart, live: true})
				}
				leases := strings.HasSuffix(object, "_LEASES") && kind.api != nil // hold nothing while the roles are stopped
				if !leases && (kind.sql == nil || apart) {                        // nothing answers SQL while `up` is stopped
					cells = append(cells, damageCell{object: object, kind: kind, apart: apart})
				}
			}
		}
	}
	logs := slices.Concat(streamKinds(), recordKinds(), fileKinds())
	values := slices.Concat(streamKinds(), valueKinds(), fileKinds())
	add("SENDS_{p}", logs)
	add("MESSAGES_{p}", logs)
	add(topology.DeadLettersStream, logs)
	for _, bucket := range damageBuckets() {
		add("KV_"+bucket, values)
	}
	add("OBJ_"+topology.CheckpointBucket, values)
	add("nats", folderKinds("nats"))
	add("clickhouse", folderKinds("clickhouse"))
	add("table", tableKinds("messages"))
	add("ledger", tableKinds("schema_migrations"))
	for _, view := range []string{"messages_latest", "channel_counts"} {
		add(view, viewKinds(view))
	}
	add("parts", append(partFileKinds(), partKinds()...))
	add("metadata", metadataKinds())
	return cells
}

func damageBuckets() []string {
	return []string{
		topology.DeploymentBucket, topology.WriterBucket, topology.CheckpointPointerBucket, topology.PermissionBucket,
		topology.LeaseBucket, topology.WriterLeaseBucket,
	}
}

// streamKinds fit each stream.
func streamKinds() []damageKind {
	limit := func(name string, set func(*jetstream.StreamConfig)) damageKind {
		return damageKind{name: name, api: func(_ *damageCase, ctx context.Context, js jetstream.JetStream, name string) error {
			stream, err := js.Stream(ctx, name)
			if err != nil {
				return err
			}
			config := stream.CachedInfo().Config
			set(&config)
			_, err = js.UpdateStream(ctx, config)
			return err
		}}
	}
	return []damageKind{
		{name: "purged", api: func(_ *damageCase, ctx context.Context, js jetstream.JetStream, name string) error {
			stream, err := js.Stream(ctx, name)
			if err != nil {
				return err
			}
			return stream.Purge(ctx)
		}},
		{name: "deleted", api: func(_ *damageCase, ctx context.Context, js jetstream.JetStream, name string) error {
			return js.DeleteStream(ctx, name)
		}},
		limit("sealed", func(c *jetstream.StreamConfig) { c.Sealed = true }),
		limit("max_msgs", func(c *jetstream.StreamConfig) { c.MaxMsgs = 3 }),
		limit("max_bytes", func(c *jetstream.StreamConfig) { c.MaxBytes = 600 }),
		limit("max_age", func(c *jetstream.StreamConfig) { c.MaxAge, c.Duplicates = 100*time.Millisecond, 100*time.Millisecond }),
		limit("max_msg_size", func(c *jetstream.StreamConfig) { c.MaxMsgSize = 10 }),
	}
}

// recordKinds fit the streams that are logs.
func recordKinds() []damageKind {
	return []damageKind{
		{name: "stray", api: func(c *damageCase, ctx context.Context, js jetstream.JetStream, name string) error {
			junk := make([]byte, 1+c.IntN(200))
			for i := range junk {
				junk[i] = byte(c.Uint32())
			}
			_, err := js.Publish(ctx, c.subjectOf(name), junk)
			return err
		}},
		{name: "repeated record", api: func(c *damageCase, ctx context.Context, js jetstream.JetStream, name string) error {
			m, err := c.anyRecord(ctx, js, name)
			if err != nil {
				return err
			}
			_, err = js.Publish(ctx, m.Subject, m.Data)
			return err
		}},
		{name: "record deleted", api: func(c *damageCase, ctx context.Context, js jetstream.JetStream, name string) error {
			m, err := c.anyRecord(ctx, js, name)
			if err != nil {
				return err
			}
			stream, err := js.Stream(ctx, name)
			if err != nil {
				return err
			}
			return stream.SecureDeleteMsg(ctx, m.Sequence)
		}},
		{name: "last record deleted", api: func(_ *damageCase, ctx context.Context, js jetstream.JetStream, name string) error {
			stream, err := js.Stream(ctx, name)
			if err != nil {
				return err
			}
			return stream.DeleteMsg(ctx, stream.CachedInfo().State.LastSeq)
		}},
		{name: "front purged", api: func(c *damageCase, ctx context.Context, js jetstream.JetStream, name string) error {
			stream, err := js.Stream(ctx, name)
			if err != nil {
				return err
			}
			state := stream.CachedInfo().State
			return stream.Purge(ctx, jetstream.WithPurgeSequence(state.FirstSeq+uint64(c.IntN(int(state.Msgs)))))
		}},
	}
}

// subjectOf is a subject that the log takes.
func (c *damageCase) subjectOf(stream string) string {
	switch {
	case strings.HasPrefix(stream, "SENDS_"):
		return topology.WALSubject(c.partition)
	case strings.HasPrefix(stream, "MESSAGES_"):
		return topology.MessagesSubject(c.partition)
	default:
		return topology.DeadLetterSubject("writer", "refused")
	}
}

func (c *damageCase) anyRecord(ctx context.Context, js jetstream.JetStream, name string) (*jetstream.RawStreamMsg, error) {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return nil, errors.New("it holds no record to be damaged")
	}
	for {
		m, err := stream.GetMsg(ctx, state.FirstSeq+uint64(c.IntN(int(state.LastSeq-state.FirstSeq+1))))
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return m, err
		}
	}
}

// valueKinds fit buckets, of which a record is the value of a key, and the object store, of which one is a chunk or a description.
func valueKinds() []damageKind {
	changed := func(name string, change func(c *damageCase, value []byte) []byte) damageKind {
		return damageKind{name: name, api: func(c *damageCase, ctx context.Context, js jetstream.JetStream, stream string) error {
			m, err := c.anyRecord(ctx, js, stream)
			if err != nil {
				return err
			}
			_, err = js.Publish(ctx, m.Subject, change(c, slices.Clone(m.Data)))
			return err
		}}
	}
	return []damageKind{
		changed("bit flipped", (*damageCase).flip),
		changed("truncated", func(c *damageCase, value []byte) []byte { return value[:c.IntN(max(len(value), 1))] }),
		changed("emptied", func(*damageCase, []byte) []byte { return nil }),
		changed("stray", func(_ *damageCase, _ []byte) []byte { return []byte("stray") }),
		{name: "key purged", api: func(c *damageCase, ctx context.Context, js jetstream.JetStream, name string) error {
			m, err := c.anyRecord(ctx, js, name)
			if err != nil {
				return err
			}
			stream, err := js.Stream(ctx, name)
			if err != nil {
				return err
			}
			return stream.Purge(ctx, jetstream.WithPurgeSubject(m.Subject))
		}},
		{name: "key deleted", api: func(c *damageCase, ctx context.Context, js jetstream.JetStream, name string) error {
			m, err := c.anyRecord(ctx, js, name)
			if err != nil {
				return err
			}
			bucket, isBucket := strings.CutPrefix(name, "KV_")
			if !isBucket { // as the object store's own client does
				return js.DeleteObjectStore(ctx, strings.TrimPrefix(name, "OBJ_"))
			}
			kv, err := js.KeyValue(ctx, bucket)
			if err != nil {
				return err
			}
			return kv.Delete(ctx, strings.TrimPrefix(m.Subject, "$KV."+bucket+"."))
		}},
	}
}

func (c *damageCase) flip(value []byte) []byte {
	if len(value) > 0 {
		bit := c.IntN(8 * len(value))
		c.note("bit %d of %d bytes", bit, len(value))
		value[bit/8] ^= 1 << (bit % 8)
	}
	return value
}

// fileKinds damage the files of a stream.
func fileKinds() []damageKind {
	of := func(c *damageCase, stream string) string { return c.streamDir(c.dir, stream) }
	return slices.Concat(oneFileKinds(of), []damageKind{
		{name: "folder deleted", files: func(c *damageCase, stream string) error { return os.RemoveAll(of(c, stream)) }},
		{name: "older copy", files: func(c *damageCase, stream string) error {
			return c.replace(of(c, stream), c.streamDir(c.template.older, stream))
		}},
		{name: "swapped", files: func(c *damageCase, stream string) error {
			return c.replace(of(c, stream), c.streamDir(c.template.other, stream))
		}},
	})
}

func (c *damageCase) streamDir(data, stream string) string {
	return filepath.Join(data, "nats", "jetstream", "$G", "streams", stream)
}

// oneFileKinds damage one file of a folder.
func oneFileKinds(of func(c *damageCase, stream string) string) []damageKind {
	changed := func(name string, change func(c *damageCase, content []byte) []byte) damageKind {
		return damageKind{name: name, files: func(c *damageCase, stream string) error {
			path, content, err := c.anyFile(of(c, stream))
			if err != nil {
				return err
			}
			return os.WriteFile(path, change(c, content), 0o600)
		}}
	}
	return []damageKind{
		changed("file: bit flipped", (*damageCase).flip),
		changed("file: truncated", func(c *damageCase, content []byte) []byte { return content[:c.IntN(len(content))] }),
		changed("file: emptied", func(*damageCase, []byte) []byte { return nil }),
		{name: "file: deleted", files: func(c *damageCase, stream string) error {
			path, _, err := c.anyFile(of(c, stream))
			if err != nil {
				return err
			}
			return os.Remove(path)
		}},
	}
}

// anyFile chooses a file that is not empty.
func (c *damageCase) anyFile(dir string) (path string, content []byte, err error) {
	var files []string
	err = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Size() > 0 {
			files = append(files, path)
		}
		return err
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s has no file to be damaged", dir)
	}
	if err != nil {
		return "", nil, err
	}
	path = files[c.IntN(len(files))]
	c.note("file %s", strings.TrimPrefix(path, c.dir))
	content, err = os.ReadFile(path)
	return path, content, err
}

// replace puts a copy of one folder in the place of another.
func (c *damageCase) replace(dir, by string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.CopyFS(dir, os.DirFS(by))
}

// folderKinds damage all of what one server has.
func folderKinds(server string) []damageKind {
	return []damageKind{
		{name: "folder deleted", files: func(c *damageCase, _ string) error { return os.RemoveAll(filepath.Join(c.dir, server)) }},
		{name: "older copy", files: func(c *damageCase, _ string) error {
			return c.replace(filepath.Join(c.dir, server), filepath.Join(c.template.older, server))
		}},
		{name: "swapped", files: func(c *damageCase, _ string) error {
			return c.replace(filepath.Join(c.dir, server), filepath.Join(c.template.other, server))
		}},
	}
}

func statement(name, sql string) damageKind {
	return damageKind{name: name, sql: func(*damageCase) string { return sql }}
}

func tableKinds(table string) []damageKind {
	table = "sendhouse." + table
	kinds := []damageKind{
		statement("dropped", "DROP TABLE "+table+" SYNC"),
		statement("emptied", "TRUNCATE TABLE "+table+" SYNC"),
		statement("renamed", "RENAME TABLE "+table+" TO "+table+"_old"),
		statement("detached", "DETACH TABLE "+table+" PERMANENTLY"),
	}
	if table == "sendhouse.messages" {
		return append(kinds,
			statement("column of another type", "ALTER TABLE "+table+" MODIFY COLUMN stream_no Array(String) DEFAULT []"),
			statement("column dropped", "ALTER TABLE "+table+" DROP COLUMN tag_key"),
			statement("window dropped", "ALTER TABLE "+table+" MODIFY SETTING non_replicated_deduplication_window = 0"),
			statement("made again", "CREATE OR REPLACE TABLE "+table+" AS "+table),
			damageKind{name: "row changed", sql: func(c *damageCase) string {
				r := c.records[c.IntN(len(c.template.records))]
				return fmt.Sprintf("INSERT INTO %s SELECT * REPLACE ('changed' AS payload) FROM %s WHERE message_id = %d", table, table, r.id)
			}},
		)
	}
	return append(kinds,
		statement("rows deleted", "DELETE FROM "+table+" WHERE version > 3"),
		statement("stray row", "INSERT INTO "+table+" SELECT * REPLACE (toUInt32(version + 90) AS version, 'stray' AS name) FROM "+table+" LIMIT 1"),
	)
}

func viewKinds(view string) []damageKind {
	view = "sendhouse." + view
	return []damageKind{
		statement("dropped", "DROP TABLE "+view+" SYNC"),
		statement("another", "CREATE OR REPLACE VIEW "+view+" AS SELECT 1 AS one"),
	}
}

func partKinds() []damageKind {
	part := func(do string) func(c *damageCase) string {
		return func(c *damageCase) string {
			name := c.anyPart()
			c.note("part %s", name)
			return fmt.Sprintf("ALTER TABLE sendhouse.messages %s PART '%s'", do, name)
		}
	}
	return []damageKind{{name: "dropped", sql: part("DROP")}, {name: "detached", sql: part("DETACH")}}
}

func (c *damageCase) anyPart() string {
	var names []string
	require.NoError(c.t, c.table.conn.QueryRow(c.t.Context(),
		"SELECT groupArray(name) FROM system.parts WHERE database = 'sendhouse' AND table = 'messages' AND active").Scan(&names))
	require.NotEmpty(c.t, names)
	slices.Sort(names)
	return names[c.IntN(len(names))]
}

// partFileKinds damage the files of one part of the table.
func partFileKinds() []damageKind {
	return append(oneFileKinds(func(c *damageCase, _ string) string { return c.partDir() }),
		damageKind{name: "folder deleted", files: func(c *damageCase, _ string) error { return os.RemoveAll(c.partDir()) }})
}

// partDir chooses a part of the table. Only the table is partitioned by month.
func (c *damageCase) partDir() string {
	dirs, err := filepath.Glob(filepath.Join(c.dir, "clickhouse", "engine", "store", "*", "*", "20????_*"))
	require.NoError(c.t, err)
	require.NotEmpty(c.t, dirs)
	return dirs[c.IntN(len(dirs))]
}

// metadataKinds damage the files in which ClickHouse keeps the definitions of our database's tables.
func metadataKinds() []damageKind {
	return oneFileKinds(func(c *damageCase, _ string) string {
		dir, err := filepath.EvalSymlinks(filepath.Join(c.dir, "clickhouse", "engine", "metadata", "sendhouse"))
		require.NoError(c.t, err)
		return dir
	})
}
