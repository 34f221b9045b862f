package checkpoint

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// The checkpoints are objects as any client of NATS reads them (ADR-20 of NATS): chunks on a subject of their own,
// then a record that describes them. They are written and read here one chunk after the other, since nats.go gives
// every chunk five seconds and sends all of them at once, and gives five seconds to reading the whole object.
const (
	objectStream = "OBJ_" + topology.CheckpointBucket
	chunkPrefix  = "$O." + topology.CheckpointBucket + ".C."
	metaPrefix   = "$O." + topology.CheckpointBucket + ".M."

	// chunkBytes is more than other clients take, for fewer round trips; the server's limit on a message is 1 MB.
	chunkBytes = 512 << 10
	// chunksInFlightMax keeps the disk busy. More would only wait before it, with all that the message log has to sync.
	chunksInFlightMax = 4
	// chunkPatience is how long what is in flight may take to be stored.
	chunkPatience = 30 * time.Second
)

// objectWriter stores an object. What is cut short leaves chunks that no record describes; their subject
// tells whose they are.
type objectWriter struct {
	ctx    context.Context     //nolint:containedctx // of storing one object
	js     jetstream.JetStream // of its own
	info   jetstream.ObjectInfo
	digest hash.Hash
	chunk  []byte                   // not sent yet
	sent   []jetstream.PubAckFuture // not known to be stored, oldest first
}

func newObjectWriter(ctx context.Context, nc *nats.Conn, name string) (*objectWriter, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	size := min(chunkBytes, nc.MaxPayload()/2) // where the limit is lower
	return &objectWriter{
		ctx: ctx, js: js, digest: sha256.New(), chunk: make([]byte, 0, size),
		info: jetstream.ObjectInfo{
			ObjectMeta: jetstream.ObjectMeta{Name: name, Opts: &jetstream.ObjectMetaOptions{ChunkSize: uint32(size)}},
			Bucket:     topology.CheckpointBucket,
			NUID:       name + "." + rand.Text(),
		},
	}, nil
}

func (w *objectWriter) close() { w.js.CleanupPublisher() }

// Write waits where enough is in flight.
func (w *objectWriter) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n := min(len(p)-written, cap(w.chunk)-len(w.chunk))
		w.chunk = append(w.chunk, p[written:written+n]...)
		written += n
		if len(w.chunk) == cap(w.chunk) {
			if err := w.send(); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// send sends the chunk. One that nobody takes is not sent again: it would come behind those that follow it.
func (w *objectWriter) send() error {
	if len(w.sent) == chunksInFlightMax {
		if err := w.awaitStored(1); err != nil {
			return err
		}
	}
	w.digest.Write(w.chunk)
	ack, err := w.js.PublishAsync(chunkPrefix+w.info.NUID, w.chunk, jetstream.WithRetryAttempts(0))
	if err != nil {
		return fmt.Errorf("send chunk %d: %w", w.info.Chunks+1, err)
	}
	w.sent = append(w.sent, ack)
	w.info.Chunks++
	w.info.Size += uint64(len(w.chunk))
	w.chunk = make([]byte, 0, cap(w.chunk)) // the client keeps the other until it is stored
	return nil
}

// awaitStored waits until the oldest n chunks in flight are stored.
func (w *objectWriter) awaitStored(n int) error {
	timeout := time.NewTimer(chunkPatience)
	defer timeout.Stop()
	for range n {
		oldest := int(w.info.Chunks) - len(w.sent) + 1
		select {
		case <-w.sent[0].Ok():
			w.sent = w.sent[1:]
		case err := <-w.sent[0].Err():
			return fmt.Errorf("store chunk %d: %w", oldest, err)
		case <-timeout.C:
			return fmt.Errorf("store chunk %d: not acknowledged within %s (is NATS's disk too slow, or has the stream %s no leader?)", oldest, chunkPatience, objectStream)
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
	}
	return nil
}

// finish makes what was written an object.
func (w *objectWriter) finish() error {
	if len(w.chunk) > 0 {
		if err := w.send(); err != nil {
			return err
		}
	}
	if err := w.awaitStored(len(w.sent)); err != nil {
		return err
	}
	w.info.Digest = jetstream.GetObjectDigestValue(w.digest)
	data, err := json.Marshal(w.info)
	if err != nil {
		return fmt.Errorf("encode the object's description: %w", err)
	}
	ctx, cancel := context.WithTimeout(w.ctx, chunkPatience)
	defer cancel()
	described := &nats.Msg{Subject: metaSubject(w.info.Name), Data: data, Header: nats.Header{jetstream.MsgRollup: []string{jetstream.MsgRollupSubject}}}
	if _, err := w.js.PublishMsg(ctx, described); err != nil {
		return fmt.Errorf("store the object's description: %w", err)
	}
	return nil
}

// objectReader reads an object. What has a limit in time is each of its chunks, not the whole.
type objectReader struct {
	ctx     context.Context //nolint:containedctx // of reading one object
	js      jetstream.JetStream
	stream  jetstream.Stream
	subject string // of the chunks
	seq     uint64 // of the last that was read
	chunk   []byte // what is left of it
	left    uint64 // bytes behind it
	info    jetstream.ObjectInfo
	stored  time.Time // when its description was stored
}

// open opens an object for reading; the error wraps [jetstream.ErrObjectNotFound] where there is none.
func (c *Store) open(ctx context.Context, name string) (*objectReader, error) {
	info, stored, err := describedObject(ctx, c.js, metaSubject(name))
	if err != nil {
		return nil, err
	}
	if info.Deleted {
		return nil, jetstream.ErrObjectNotFound
	}
	return &objectReader{ctx: ctx, js: c.js, stream: c.stream, subject: chunkPrefix + info.NUID, left: info.Size, info: info, stored: stored}, nil
}

// Read gives io.ErrUnexpectedEOF where a chunk is lost.
func (r *objectReader) Read(p []byte) (int, error) {
	for len(r.chunk) == 0 {
		if r.left == 0 {
			return 0, io.EOF
		}
		stored, err := r.next()
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return 0, io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, err
		}
		r.seq, r.chunk = stored.Sequence, stored.Data
		r.left -= min(r.left, uint64(len(r.chunk)))
	}
	n := copy(p, r.chunk)
	r.chunk = r.chunk[n:]
	return n, nil
}

// next is the next chunk. Any replica may give it; that there is none only the leader knows.
func (r *objectReader) next() (*jetstream.RawStreamMsg, error) {
	stored, err := r.stream.GetMsg(r.ctx, r.seq+1, jetstream.WithGetMsgSubject(r.subject))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		stored, err = broker.NextRecord(r.ctx, r.js, objectStream, r.seq+1, r.subject)
	}
	if err != nil {
		return nil, fmt.Errorf("read the chunk behind record %d of stream %s: %w", r.seq, objectStream, err)
	}
	return stored, nil
}

func metaSubject(name string) string {
	return metaPrefix + base64.URLEncoding.EncodeToString([]byte(name))
}

// describedObject is what a description says, and when it was stored; the error wraps [jetstream.ErrObjectNotFound] if
// there is none, and [jetstream.ErrBadObjectMeta] if it says nothing.
func describedObject(ctx context.Context, js jetstream.JetStream, subject string) (info jetstream.ObjectInfo, at time.Time, err error) {
	stored, err := broker.LastRecord(ctx, js, objectStream, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return info, at, jetstream.ErrObjectNotFound
	}
	if err != nil {
		return info, at, err
	}
	if err := json.Unmarshal(stored.Data, &info); err != nil {
		return info, at, fmt.Errorf("%w on %s: %w", jetstream.ErrBadObjectMeta, subject, err)
	}
	if info.NUID == "" {
		return info, at, fmt.Errorf("%w on %s: it names no chunks", jetstream.ErrBadObjectMeta, subject)
	}
	return info, stored.Time, nil
}

// objectSubjects are the subjects in use, of chunks and of descriptions, each with the name of its object.
func objectSubjects(ctx context.Context, stream jetstream.Stream) (map[string]string, error) {
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		return nil, fmt.Errorf("subjects of stream %s: %w", objectStream, err)
	}
	stored := make(map[string]string)
	for subject := range info.State.Subjects {
		if encoded, ok := strings.CutPrefix(subject, metaPrefix); ok {
			if name, err := base64.URLEncoding.DecodeString(encoded); err == nil { // or it is nobody's object
				stored[subject] = string(name)
			}
		} else if key := strings.TrimPrefix(subject, chunkPrefix); strings.Contains(key, ".") {
			stored[subject] = key[:strings.LastIndexByte(key, '.')]
		}
	}
	return stored, nil
}

// purgeObject deletes what is on one of these subjects; with a description goes what it describes, which other clients
// put on a subject that does not tell whose it is.
func (c *Store) purgeObject(ctx context.Context, subject string) error {
	if strings.HasPrefix(subject, metaPrefix) {
		info, _, err := describedObject(ctx, c.js, subject)
		switch {
		case err == nil:
			err = c.purge(ctx, chunkPrefix+info.NUID)
		case errors.Is(err, jetstream.ErrObjectNotFound), errors.Is(err, jetstream.ErrBadObjectMeta):
			err = nil // it describes nothing
		}
		if err != nil {
			return err
		}
	}
	return c.purge(ctx, subject)
}

func (c *Store) purge(ctx context.Context, subject string) error {
	if err := c.stream.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
		return fmt.Errorf("purge %s from stream %s: %w", subject, objectStream, err)
	}
	return nil
}
