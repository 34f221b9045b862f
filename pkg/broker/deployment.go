package broker

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/topology"
)

const (
	deploymentKey    = "deployment"
	deploymentStream = "KV_" + topology.DeploymentBucket
)

// recordedDeployment is what is recorded. Versions that knew no identity recorded neither an ID nor Complete.
type recordedDeployment struct {
	topology.Deployment
	LogForm int `json:"log_form"`
	// Complete: all streams and buckets were made. One that is missing since was lost.
	Complete bool `json:"complete,omitempty"`

	revision uint64
}

// complete reports whether all streams and buckets were made once.
func (r recordedDeployment) complete() bool { return r.Complete || r.ID == "" }

var (
	// ErrLogForm says that a deployment's logs are of a form that this program does not know.
	ErrLogForm = errors.New("the logs of this deployment are of another form")
	// ErrNoDeployment is returned if no sequencer has set the deployment up yet.
	ErrNoDeployment = errors.New("this NATS holds no deployment yet: start a sequencer first, it sets the streams up")
	// ErrRecordDamaged says that the deployment's record cannot be read, or is not what the streams say of it.
	ErrRecordDamaged = errors.New("the deployment's record in bucket " + topology.DeploymentBucket + " is damaged")
	// ErrRecordLost says that there is no record of a deployment though there are streams of one.
	ErrRecordLost = errors.New("the deployment's record in bucket " + topology.DeploymentBucket + " is lost")

	errNoRecordYet = errors.New("no deployment is recorded")
	errIncomplete  = errors.New("a sequencer is still setting the deployment up")
)

// repairRecord is the way out where the record is lost or damaged.
const repairRecord = "`sendhouse repair deployment` makes it again from the streams"

// newID makes the ID of a deployment, a random UUID (RFC 9562, version 4).
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (r recordedDeployment) encode() ([]byte, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode the deployment's record: %w", err)
	}
	return WithChecksum(value), nil
}

// parseDeployment reads a record; an error wraps ErrRecordDamaged or ErrLogForm.
func parseDeployment(value []byte) (recordedDeployment, error) {
	var r recordedDeployment
	err := UnmarshalChecked(value, &r)
	if err == nil {
		err = r.Check()
	}
	if err != nil {
		return r, fmt.Errorf("%w: %w (%s)", ErrRecordDamaged, err, repairRecord)
	}
	if r.LogForm != topology.LogForm {
		return r, fmt.Errorf("%w: form %d, and this program reads and writes form %d: use the version that made them, or begin a new deployment", ErrLogForm, r.LogForm, topology.LogForm)
	}
	return r, nil
}

// readDeployment asks the leader for the record: another server may not have it yet, and a record that is thought to be
// missing makes another deployment. The error wraps errNoRecordYet if there is no record, or no bucket.
func readDeployment(ctx context.Context, js jetstream.JetStream) (recordedDeployment, error) {
	record, err := LastRecord(ctx, js, deploymentStream, "$KV."+topology.DeploymentBucket+"."+deploymentKey)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		return recordedDeployment{}, errNoRecordYet
	case err != nil:
		return recordedDeployment{}, fmt.Errorf("read the deployment's record: %w", err)
	case record.Header.Get("KV-Operation") != "":
		return recordedDeployment{}, errNoRecordYet // it was deleted
	}
	r, err := parseDeployment(record.Data)
	r.revision = record.Sequence
	return r, err
}

// writeDeployment replaces the record of the given revision, 0 for none. It is false if another process was first.
func writeDeployment(ctx context.Context, js jetstream.JetStream, r recordedDeployment) (bool, error) {
	value, err := r.encode()
	if err != nil {
		return false, err
	}
	kv, err := js.KeyValue(ctx, topology.DeploymentBucket)
	if err != nil {
		return false, fmt.Errorf("key-value bucket %s: %w", topology.DeploymentBucket, err)
	}
	if r.revision == 0 {
		_, err = kv.Create(ctx, deploymentKey, value)
	} else {
		_, err = kv.Update(ctx, deploymentKey, value, r.revision)
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, jetstream.ErrKeyExists): // of Update, too: the revision is another
		return false, nil
	default:
		return false, fmt.Errorf("write the deployment's record: %w", err)
	}
}

// agrees refuses what contradicts the record. Zero fields of asked ask for nothing.
func (r recordedDeployment) agrees(asked topology.Deployment) error {
	if err := asked.Or(r.Deployment).Conflict(r.Deployment); err != nil {
		return fmt.Errorf("this deployment was first started with other parameters, which cannot change: %w (leave --partitions, --dedup-window and --dedup-entries-max out to take what is recorded)", err)
	}
	return nil
}

// awaitInterval is how often AwaitDeployment looks.
const awaitInterval = 200 * time.Millisecond

// AwaitDeployment reads the parameters that EnsureDeployment has recorded, waiting
// for them until ctx ends. A field that contradicts asked is an error, and so is a
// JetStream that could not answer until then. It needs to read no more than the record.
func AwaitDeployment(ctx context.Context, js jetstream.JetStream, asked topology.Deployment) (topology.Deployment, error) {
	ticker := time.NewTicker(awaitInterval)
	defer ticker.Stop()
	var last error // of an attempt that ctx has not cut off
	for {
		deployment, err := recordedFor(ctx, js, asked)
		if err == nil {
			return deployment, nil
		}
		if ctx.Err() == nil {
			last = err
			if !isMissing(err) && !isPassing(err) && !errors.Is(err, errIncomplete) {
				return topology.Deployment{}, fmt.Errorf("deployment parameters: %w", err)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if last != nil && !isMissing(last) {
				return topology.Deployment{}, fmt.Errorf("deployment parameters: %w", last)
			}
			return topology.Deployment{}, missingRecord(ctx, js)
		}
	}
}

// recordedFor reads the record from any server that has it.
func recordedFor(ctx context.Context, js jetstream.JetStream, asked topology.Deployment) (topology.Deployment, error) {
	kv, err := js.KeyValue(ctx, topology.DeploymentBucket)
	if err != nil {
		return topology.Deployment{}, err
	}
	entry, err := kv.Get(ctx, deploymentKey)
	if err != nil {
		return topology.Deployment{}, fmt.Errorf("read the deployment's record: %w", err)
	}
	recorded, err := parseDeployment(entry.Value())
	if err == nil {
		err = recorded.agrees(asked)
	}
	if err == nil && !recorded.complete() {
		err = errIncomplete
	}
	return recorded.Deployment, err
}

// isMissing reports whether the parameters are not recorded yet.
func isMissing(err error) bool {
	return errors.Is(err, jetstream.ErrBucketNotFound) || errors.Is(err, jetstream.ErrKeyNotFound)
}

// lookTimeout bounds a look at what is there after ctx has ended.
const lookTimeout = time.Second

// missingRecord distinguishes a deployment that was never set up from one whose record is lost, by its first log. A process
// that may not look at that gets the first answer.
func missingRecord(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, topology.WALStream(0))
	if err != nil {
		return ErrNoDeployment
	}
	return fmt.Errorf("%w: there is no record, and there is stream %s (%s)", ErrRecordLost, stream.CachedInfo().Config.Name, repairRecord)
}
