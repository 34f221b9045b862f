package ingest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCrowd: where a crowd has waited too long newcomers are refused at once; who is few may wait, and when
// the crowd has been answered all is as before.
func TestCrowd(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 1, noStreams: true, config: func(c *Config) { c.WaitMax = time.Nanosecond }})
	wal := b.script(0)
	p := b.service.partitions[0]

	answers := []<-chan got{b.async(send("g", "0"))}
	first := wal.next()
	for i := range crowdMin - 1 { // each of them would wait too long, but they are no crowd
		answers = append(answers, b.async(send("g", fmt.Sprint(i+1))))
	}
	b.queued(0, crowdMin-1)
	for range 3 {
		g := b.post(send("g", "one too many"))
		require.Equal(t, http.StatusServiceUnavailable, g.status, g.raw)
		requireShape(t, g)
		require.Equal(t, "overloaded", g.code())
	}
	require.Equal(t, []string{"overloaded"}, b.bulk(t, ndjson, strings.NewReader(send("g", "also"))).codes(), "nor does it help to be in a bulk")

	first.answer(1)
	second := wal.next()
	require.Len(t, second.sends, crowdMin-1)
	answers = append(answers, b.async(send("g", "late")))
	b.queued(0, 1)
	require.Equal(t, "overloaded", b.post(send("g", "one too many")).code(), "the rest are as many, and have waited")
	second.answer(2)
	wal.next().answer(uint64(crowdMin) + 1)
	for _, c := range answers {
		require.Equal(t, http.StatusOK, receive(t, c).status)
	}
	again := b.async(send("g", "one too many"))
	wal.next().answer(1000)
	require.Equal(t, http.StatusOK, receive(t, again).status)
	requireForgotten(t, b)
	p.mu.Lock()
	defer p.mu.Unlock()
	require.LessOrEqual(t, len(p.order), 1, "what is over is let go")
}

// TestOneIsNoCrowd: the many sends of one request wait for each other, however long that takes, and none of them
// is refused for it.
func TestOneIsNoCrowd(t *testing.T) {
	t.Parallel()
	b := setup(t, options{partitions: 2, config: func(c *Config) { c.WaitMax, c.QueueSendsMax = time.Nanosecond, 2*crowdMin }})
	b.sequence()
	const items = 10 * crowdMin
	var lines, uids strings.Builder
	for i := range items {
		lines.WriteString(send(fmt.Sprint("g", i%100), fmt.Sprint(i)) + "\n")
		fmt.Fprintf(&uids, `"u%d",`, i)
	}
	m := b.bulk(t, ndjson, strings.NewReader(lines.String()))
	require.Equal(t, make([]string, items), m.codes())

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/message/sendbatch", strings.NewReader(`{"from_uid":"a","payload":"aGk=","subscribers":[`+strings.TrimSuffix(uids.String(), ",")+`]}`))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	g, err := b.do(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, g.status, g.raw)
	require.Empty(t, g.body["fail_uids"])
	requireForgotten(t, b)
}
