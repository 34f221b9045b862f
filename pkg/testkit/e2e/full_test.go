package e2e

import "testing"

const (
	// fullClients and fullPayload fill a small write-ahead log within seconds, though no send is answered.
	fullClients = 256
	fullPayload = 60 << 10
)

// TestEndToEndFullWriteAheadLog fills the write-ahead log while no sequencer is there. Sends are refused, until
// one is there again and has trimmed the log by itself; all that was taken is there once.
func TestEndToEndFullWriteAheadLog(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	a := startApart(t, "--wal-bytes-max=64MiB", "--messages-bytes-max=4GiB")
	a.sequencer.Kill9()
	load := startLoad(t, a.ingest.api, loadConfig{seed: seed, clients: fullClients, payloadBytesMax: fullPayload})
	load.awaitOutcome("503 wal_full")
	a.sequencer.Start()
	load.await(2 * fullClients) // a client has one send under way
	a.verify(t, load.finish())
}
