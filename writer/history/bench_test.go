package history

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/message"
)

const (
	// rowsVariable says how many messages the table holds: SENDHOUSE_HISTORY_ROWS=10000000 make microbench BENCH=History PKG=./writer/history
	rowsVariable  = "SENDHOUSE_HISTORY_ROWS"
	benchChannels = 100_000
	benchInserts  = 20 // over fifty days, so that a channel lies in many parts
)

// benchTable is a table of groups: the first has the most messages, one in eighteen, and so on down to one in some channels.
type benchTable struct {
	rows int
	conn driver.Conn
	name string
}

// messagesOf is how many messages a channel has.
func (bt *benchTable) messagesOf(channel int) int {
	share := func(n int) float64 { return math.Pow(float64(n)/benchChannels, 0.25) }
	return int(float64(bt.rows) * (share(channel+1) - share(channel)))
}

// fill inserts the n-th of so many parts of each channel.
func (bt *benchTable) fill(ctx context.Context, n, of int) error {
	return bt.conn.Exec(ctx, fmt.Sprintf(`INSERT INTO %s (message_id, message_seq, channel_id, channel_type, from_uid, client_msg_no, red_dot, sync_once, stream_no, tag_key, expire, subscribers, payload, timestamp, partition, partition_seq, wal_seq, wal_index)
SELECT (toUnixTimestamp(ts) - 1704067200) * 1000 * 4194304 + seq %% 4096, seq, concat('group-', toString(cityHash64(c))), 2, concat('user-', toString(cityHash64(c, seq) %% 50000)),
  concat('no-', toString(c), '-', toString(seq)), 1, 0, '', '', if(seq %% 10 = 0, 4000000000, 0), [], concat('{"type":1,"content":"', base64Encode(randomString(60 + seq %% 7 * 20)), '"}'), ts, 0, seq, seq, 0
FROM (SELECT number AS c, toUInt64(floor(%d * (pow((number + 1) / %d, 0.25) - pow(number / %d, 0.25)))) AS k, now() - 86400 * 50 + %d * 3600 * 60 AS ts FROM numbers(%d))
ARRAY JOIN range(intDiv(k * %d, %d) + 1, intDiv(k * %d, %d) + 1) AS seq`,
		bt.name, bt.rows, benchChannels, benchChannels, n, benchChannels, n, of, n+1, of))
}

// BenchmarkHistory asks for pages of 100 of random channels, those with many messages more often, and for the status of random
// messages, over HTTP; the latencies are medians and the 99th percentile. The same again while others insert as a writer does.
func BenchmarkHistory(b *testing.B) {
	bt := &benchTable{rows: 200_000}
	if text := os.Getenv(rowsVariable); text != "" {
		var err error
		bt.rows, err = strconv.Atoi(text)
		require.NoError(b, err, rowsVariable)
	}
	bundle := setup(b, options{})
	options, err := chgo.ParseDSN(engine.Named("default"))
	require.NoError(b, err)
	options.ReadTimeout = 10 * time.Minute
	bt.conn, err = chgo.Open(options)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, bt.conn.Close()) })
	bt.name = bundle.client.Database() + ".messages"
	for n := range benchInserts {
		require.NoError(b, bt.fill(b.Context(), n, benchInserts))
	}
	var rows, parts uint64
	require.NoError(b, bt.conn.QueryRow(b.Context(), "SELECT count() FROM "+bt.name).Scan(&rows))
	require.NoError(b, bt.conn.QueryRow(b.Context(), "SELECT count() FROM system.parts WHERE active AND database = '"+bundle.client.Database()+"' AND table = 'messages'").Scan(&parts))
	b.Logf("%d messages in %d parts", rows, parts)
	names := bt.channelNames(b)

	run := func(b *testing.B) {
		random := rand.New(rand.NewPCG(1, 2))
		channel := func() (int, int) {
			for {
				c := int(benchChannels * math.Pow(random.Float64(), 4))
				if k := bt.messagesOf(c); k > 0 {
					return c, k
				}
			}
		}
		b.Run("latest", func(b *testing.B) {
			bundle.measure(b, func() (string, string, string) {
				c, _ := channel()
				return http.MethodPost, pathSync, fmt.Sprintf(`{"login_uid":"u","channel_id":%q,"channel_type":2}`, names[c])
			})
		})
		for mode, name := range []string{"older", "newer"} {
			b.Run(name, func(b *testing.B) {
				bundle.measure(b, func() (string, string, string) {
					c, k := channel()
					return http.MethodPost, pathSync, fmt.Sprintf(`{"login_uid":"u","channel_id":%q,"channel_type":2,"start_message_seq":%d,"pull_mode":%d}`, names[c], 1+random.IntN(k), mode)
				})
			})
		}
		status := func(c int, from, no string) (string, string, string) {
			return http.MethodGet, pathStatus + "?" + url.Values{"client_msg_no": {no}, "from_uid": {from}, "channel_id": {names[c]}, "channel_type": {"2"}}.Encode(), ""
		}
		b.Run("status-missing", func(b *testing.B) {
			bundle.measure(b, func() (string, string, string) {
				c, _ := channel()
				return status(c, "u", fmt.Sprint("nothing-", random.Uint64()))
			})
		})
		b.Run("status-stored", func(b *testing.B) {
			var froms []string
			var channels, seqs []int
			for range 200 {
				c, k := channel()
				seq := 1 + random.IntN(k)
				var from string
				require.NoError(b, bt.conn.QueryRow(b.Context(), fmt.Sprintf("SELECT concat('user-', toString(cityHash64(toUInt64(%d), toUInt64(%d)) %% 50000))", c, seq)).Scan(&from))
				froms, channels, seqs = append(froms, from), append(channels, c), append(seqs, seq)
			}
			i := 0
			bundle.measure(b, func() (string, string, string) {
				i = (i + 1) % len(seqs)
				return status(channels[i], froms[i], fmt.Sprintf("no-%d-%d", channels[i], seqs[i]))
			})
		})
	}
	b.Run("alone", run)
	b.Run("beside-inserts", func(b *testing.B) {
		defer bundle.insertAway(b)()
		run(b)
	})
}

func (bt *benchTable) channelNames(b *testing.B) []string {
	b.Helper()
	rows, err := bt.conn.Query(b.Context(), fmt.Sprintf("SELECT concat('group-', toString(cityHash64(number))) FROM numbers(%d) ORDER BY number", benchChannels))
	require.NoError(b, err)
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		require.NoError(b, rows.Scan(&name))
		names = append(names, name)
	}
	require.NoError(b, rows.Err())
	return names
}

// measure makes one request after another and reports how long they took.
func (bu *bundle) measure(b *testing.B, next func() (method, path, body string)) {
	b.Helper()
	var took []time.Duration
	for b.Loop() {
		method, path, body := next()
		req, err := http.NewRequestWithContext(b.Context(), method, bu.url+path, strings.NewReader(body))
		require.NoError(b, err)
		req.Header.Set("Content-Type", "application/json")
		start := time.Now()
		res, err := http.DefaultClient.Do(req)
		require.NoError(b, err)
		text, err := io.ReadAll(res.Body)
		require.NoError(b, err)
		took = append(took, time.Since(start))
		require.NoError(b, res.Body.Close())
		require.Equal(b, http.StatusOK, res.StatusCode, string(text))
	}
	slices.Sort(took)
	at := func(share float64) float64 {
		return float64(took[min(len(took)-1, int(share*float64(len(took))))]) / float64(time.Millisecond)
	}
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
}

// insertAway inserts 5,000 messages a second, twice a second, as the writer does at that rate, until stop is called.
func (bu *bundle) insertAway(b *testing.B) (stop func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() {
		ticker := time.NewTicker(500 * time.Millisecond)
		defer ticker.Stop()
		for n := 0; ; n++ {
			var all []*message.Message
			for i := range 2500 {
				m := sample(fmt.Sprintf("busy-%d", i%997), n*2500+i+1)
				m.Payload = []byte(strings.Repeat("busy ", 30))
				all = append(all, m)
			}
			bu.insert(all...)
			select {
			case <-ticker.C:
			case <-ctx.Done():
				ended <- nil
				return
			}
		}
	}()
	return func() {
		cancel()
		require.NoError(b, <-ended)
	}
}

// BenchmarkLag reads while ClickHouse lags by 1,024 group commits of 24 messages. It reports what the process allocates, the client
// of the test included.
func BenchmarkLag(b *testing.B) {
	bundle := setup(b, options{})
	const records, each = 1024, 24
	seq := 0
	for range records {
		var batch []*message.Message
		for range each {
			seq++
			m := sample(fmt.Sprintf("g%d", seq%100), 1+seq/100)
			m.FromUid, m.ClientMsgNo, m.Payload = "u1", fmt.Sprintf("no-%d", seq), []byte(strings.Repeat("lag ", 30))
			batch = append(batch, m)
		}
		bundle.publish(batch...)
	}
	require.Equal(b, stateAccepted, bundle.status("no-1", "channel_id", "g1").State)
	b.Run("status", func(b *testing.B) {
		b.ReportAllocs()
		n := 0
		bundle.measure(b, func() (string, string, string) {
			n++
			return http.MethodGet, fmt.Sprintf("%s?client_msg_no=nothing-%d&from_uid=u1&channel_id=g%d&channel_type=2", pathStatus, n, n%100), ""
		})
	})
	b.Run("newest", func(b *testing.B) {
		b.ReportAllocs()
		n := 0
		bundle.measure(b, func() (string, string, string) {
			n++
			return http.MethodPost, pathSync, fmt.Sprintf(`{"login_uid":"u","channel_id":"g%d","channel_type":2}`, n%100)
		})
	})
}
