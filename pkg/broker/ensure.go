package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/topology"
)

// ErrStreamDiffers is wrapped where a stream exists with a setting that JetStream
// cannot change.
var ErrStreamDiffers = errors.New("stream differs from what is wanted in a way that cannot be updated")

// errCodeStorageResources is JetStream's code for a stream that does not fit; its
// size is reserved when it is made.
const errCodeStorageResources jetstream.ErrorCode = 10047

// errCodeNoPeers is JetStream's code for a stream with more replicas than there are servers that it has heard from.
const errCodeNoPeers jetstream.ErrorCode = 10005

// EnsureStream creates a stream or brings it to what is wanted. A setting that
// cannot be changed on an existing stream is an error that names each difference.
func EnsureStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another process was first, with other settings
			stream, err = js.Stream(ctx, want.Name)
		}
	}
	if err != nil {
		return nil, refusedStream(want, err)
	}
	have := stream.CachedInfo().Config
	if err := mayBecome(stream.CachedInfo(), want); err != nil {
		return nil, err
	}
	merged := withUpdatable(have, want)
	if sameUpdatable(have, merged) {
		return stream, nil
	}
	stream, err = js.UpdateStream(ctx, merged)
	if err != nil {
		return nil, fmt.Errorf("update: %w", refusedStream(merged, err))
	}
	return stream, nil
}

// refusedStream says which stream the server did not make or change, and what to do where it does not fit.
func refusedStream(want jetstream.StreamConfig, err error) error {
	if api := (*jetstream.APIError)(nil); errors.As(err, &api) && api.ErrorCode == errCodeStorageResources {
		return fmt.Errorf("stream %s wants %d MiB, more than the server has left for JetStream: %w (free disk space, or lower --wal-bytes-max or --messages-bytes-max)",
			want.Name, want.MaxBytes>>20, err)
	}
	return fmt.Errorf("stream %s: %w", want.Name, err)
}

// mayBecome says what keeps a stream from being brought to what is wanted.
func mayBecome(info *jetstream.StreamInfo, want jetstream.StreamConfig) error {
	err := fixedDifferences(info.Config, want)
	for _, refuse := range []func(*jetstream.StreamInfo, jetstream.StreamConfig) error{fewerCopies, tooSmall, tooYoung} {
		if err == nil {
			err = refuse(info, want)
		}
	}
	return named(info, err)
}

func named(info *jetstream.StreamInfo, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("stream %s: %w", info.Config.Name, err)
}

// fewerCopies refuses to take copies away: it is what a process does that was started without --replicas, whose default is one.
func fewerCopies(info *jetstream.StreamInfo, want jetstream.StreamConfig) error {
	if want.Replicas >= info.Config.Replicas {
		return nil
	}
	return fmt.Errorf("%w: it has %d replicas, wanted %d (say --replicas %d; to have fewer, take them away with 'nats stream edit' first)",
		ErrStreamDiffers, info.Config.Replicas, want.Replicas, info.Config.Replicas)
}

// tooSmall refuses to make a stream smaller than what it holds: the broker would drop what is over at once, or take nothing
// more, and whoever has not read it yet is not asked.
func tooSmall(info *jetstream.StreamInfo, want jetstream.StreamConfig) error {
	if want.MaxBytes <= 0 || want.MaxBytes >= int64(info.State.Bytes) || info.Config.MaxBytes > 0 && want.MaxBytes >= info.Config.MaxBytes {
		return nil
	}
	return fmt.Errorf("%w: it holds %d MiB, and would be cut to %d MiB (--wal-bytes-max and --messages-bytes-max are shared by all partitions: give more, or take out what is not needed with 'nats stream purge' or 'edit')",
		ErrStreamDiffers, info.State.Bytes>>20, want.MaxBytes>>20)
}

// tooYoung is tooSmall for how old its messages may become.
func tooYoung(info *jetstream.StreamInfo, want jetstream.StreamConfig) error {
	kept := info.Config.MaxAge
	if want.MaxAge <= 0 || (kept > 0 && want.MaxAge >= kept) || info.State.Msgs == 0 || info.TimeStamp.Sub(info.State.FirstTime) <= want.MaxAge {
		return nil
	}
	return fmt.Errorf("%w: it holds messages since %s, and those older than %s would go (give --messages-age-max as it was, or take out what is not needed with 'nats stream purge' or 'edit')",
		ErrStreamDiffers, info.State.FirstTime.UTC().Format(time.RFC3339), want.MaxAge)
}

func fixedDifferences(have, want jetstream.StreamConfig) error {
	var differences []string
	differ := func(what string, have, want any) {
		if have != want {
			differences = append(differences, fmt.Sprintf("%s is %v, wanted %v", what, have, want))
		}
	}
	differ("storage", have.Storage, want.Storage)
	differ("retention", have.Retention, want.Retention)
	differ("no-ack", have.NoAck, want.NoAck)
	if len(differences) > 0 {
		return fmt.Errorf("%w: %s", ErrStreamDiffers, strings.Join(differences, ", "))
	}
	return nil
}

func withUpdatable(have, want jetstream.StreamConfig) jetstream.StreamConfig {
	merged := have
	merged.Description, merged.Subjects = want.Description, want.Subjects
	merged.Discard, merged.MaxAge, merged.MaxBytes = want.Discard, want.MaxAge, want.MaxBytes
	merged.Replicas, merged.AllowDirect = want.Replicas, want.AllowDirect
	return merged
}

func sameUpdatable(a, b jetstream.StreamConfig) bool {
	return a.Description == b.Description && slices.Equal(a.Subjects, b.Subjects) &&
		a.Discard == b.Discard && a.MaxAge == b.MaxAge && a.MaxBytes == b.MaxBytes &&
		a.Replicas == b.Replicas && a.AllowDirect == b.AllowDirect
}

// EnsureDeployment brings up everything that a deployment's roles meet at: the
// buckets, the record of its parameters, the streams. Zero fields of asked mean
// what is recorded, or the default at the first start; a field that contradicts
// the record is an error. It is safe to call from every process at once.
func EnsureDeployment(ctx context.Context, js jetstream.JetStream, asked topology.Deployment, options topology.Options) (topology.Deployment, error) {
	settled, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	ticker := time.NewTicker(awaitInterval)
	defer ticker.Stop()
	for {
		deployment, err := ensureDeployment(ctx, js, asked, options)
		if err == nil || !isPassing(err) {
			return deployment, err
		}
		select {
		case <-ticker.C:
		case <-settled.Done():
			return topology.Deployment{}, err
		}
	}
}

// settleTimeout is how long a cluster may take until all of its servers have found
// each other, and what was just made in it has leaders.
const settleTimeout = 20 * time.Second

// isPassing says whether JetStream cannot answer for the moment, or says nothing, as
// while a cluster elects a leader or one of its servers starts; or answers by a server
// that does not have yet what was just recorded.
func isPassing(err error) bool {
	if api := (*jetstream.APIError)(nil); errors.As(err, &api) {
		return api.Code == http.StatusServiceUnavailable || api.ErrorCode == errCodeNoPeers
	}
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrKeyNotFound) ||
		errors.Is(err, context.DeadlineExceeded)
}

func ensureDeployment(ctx context.Context, js jetstream.JetStream, asked topology.Deployment, options topology.Options) (topology.Deployment, error) {
	if err := options.Validate(); err != nil {
		return topology.Deployment{}, err
	}
	if err := checkBuckets(ctx, js, options); err != nil {
		return topology.Deployment{}, err
	}
	for _, bucket := range options.BucketConfigs() {
		if _, err := js.CreateOrUpdateKeyValue(ctx, bucket); err != nil {
			return topology.Deployment{}, fmt.Errorf("key-value bucket %s: %w", bucket.Bucket, err)
		}
	}
	deployment, err := recordDeployment(ctx, js, asked, options)
	if err != nil {
		return topology.Deployment{}, err
	}
	share, err := options.Share(deployment)
	if err != nil {
		return topology.Deployment{}, err
	}
	streams := []jetstream.StreamConfig{options.DeadLettersConfig()}
	for p := range deployment.Partitions {
		streams = append(streams, share.WALConfig(p))
		messages := share.MessagesConfig(p)
		switch cutting, err := isBeingCut(ctx, js, messages.Name); {
		case err != nil:
			return topology.Deployment{}, err
		case !cutting: // the owner of the partition finishes a cut; until then the stream may be missing
			streams = append(streams, messages)
		}
	}
	for _, want := range streams { // all of them before any is changed
		if err := ifThere(ctx, js, want.Name, func(info *jetstream.StreamInfo) error { return mayBecome(info, want) }); err != nil {
			return topology.Deployment{}, err
		}
	}
	if _, err := js.CreateOrUpdateObjectStore(ctx, options.CheckpointConfig()); err != nil {
		return topology.Deployment{}, fmt.Errorf("object store %s: %w", topology.CheckpointBucket, err)
	}
	for _, want := range streams {
		if _, err := EnsureStream(ctx, js, want); err != nil {
			return topology.Deployment{}, err
		}
	}
	return deployment, nil
}

// checkBuckets is mayBecome for the streams below the buckets, of which only the copies matter.
func checkBuckets(ctx context.Context, js jetstream.JetStream, options topology.Options) error {
	want := map[string]int{"OBJ_" + topology.CheckpointBucket: options.CheckpointConfig().Replicas}
	for _, bucket := range options.BucketConfigs() {
		want["KV_"+bucket.Bucket] = bucket.Replicas
	}
	for name, replicas := range want {
		err := ifThere(ctx, js, name, func(info *jetstream.StreamInfo) error {
			return named(info, fewerCopies(info, jetstream.StreamConfig{Replicas: replicas}))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ifThere checks a stream, if there is one of the name.
func ifThere(ctx context.Context, js jetstream.JetStream, name string, check func(*jetstream.StreamInfo) error) error {
	stream, err := js.Stream(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("look at stream %s: %w", name, err)
	default:
		return check(stream.CachedInfo())
	}
}

const deploymentKey = "deployment"

// logForm is the form of the records in the logs. Form 2: a record of the message log holds what a group commit became (docs/adr/0012). A
// deployment of before has a record for each message, and says nothing of a form.
const logForm = 2

// recordedDeployment is what is recorded.
type recordedDeployment struct {
	topology.Deployment
	LogForm int `json:"log_form"`
}

// ErrLogForm says that a deployment's logs are of a form that this program does not know.
var ErrLogForm = errors.New("the logs of this deployment are of another form")

// recordDeployment writes the parameters once; whoever comes later must agree.
func recordDeployment(ctx context.Context, js jetstream.JetStream, asked topology.Deployment, options topology.Options) (topology.Deployment, error) {
	kv, err := js.KeyValue(ctx, topology.DeploymentBucket)
	if err != nil {
		return topology.Deployment{}, fmt.Errorf("key-value bucket %s: %w", topology.DeploymentBucket, err)
	}
	recorded, err := readDeployment(ctx, kv, asked)
	if !errors.Is(err, jetstream.ErrKeyNotFound) {
		return recorded, err
	}
	first, err := options.First(asked)
	if err != nil {
		return topology.Deployment{}, err
	}
	value, err := json.Marshal(recordedDeployment{Deployment: first, LogForm: logForm})
	if err != nil {
		return topology.Deployment{}, fmt.Errorf("encode deployment parameters: %w", err)
	}
	switch _, err := kv.Create(ctx, deploymentKey, value); {
	case err == nil:
		return first, nil
	case !errors.Is(err, jetstream.ErrKeyExists):
		return topology.Deployment{}, fmt.Errorf("record deployment parameters: %w", err)
	}
	return readDeployment(ctx, kv, asked)
}

// ErrNoDeployment is returned where no sequencer has set the deployment up yet.
var ErrNoDeployment = errors.New("this NATS holds no deployment yet: start a sequencer first, it sets the streams up")

// AwaitDeployment reads the parameters that EnsureDeployment has recorded, waiting
// for them until ctx ends. A field that contradicts asked is an error, and so is a
// JetStream that could not answer until then.
func AwaitDeployment(ctx context.Context, js jetstream.JetStream, asked topology.Deployment) (topology.Deployment, error) {
	ticker := time.NewTicker(awaitInterval)
	defer ticker.Stop()
	var last error // of an attempt that ctx has not cut off
	for {
		kv, err := js.KeyValue(ctx, topology.DeploymentBucket)
		if err == nil {
			var deployment topology.Deployment
			if deployment, err = readDeployment(ctx, kv, asked); err == nil {
				return deployment, nil
			}
		}
		if ctx.Err() == nil {
			last = err
			if !isMissing(err) && !isPassing(err) {
				return topology.Deployment{}, fmt.Errorf("deployment parameters: %w", err)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if last != nil && !isMissing(last) {
				return topology.Deployment{}, fmt.Errorf("deployment parameters: %w", last)
			}
			return topology.Deployment{}, ErrNoDeployment
		}
	}
}

// isMissing says whether nobody has recorded the parameters yet.
func isMissing(err error) bool {
	return errors.Is(err, jetstream.ErrBucketNotFound) || errors.Is(err, jetstream.ErrKeyNotFound)
}

// awaitInterval is how often AwaitDeployment looks.
const awaitInterval = 200 * time.Millisecond

func readDeployment(ctx context.Context, kv jetstream.KeyValue, asked topology.Deployment) (topology.Deployment, error) {
	entry, err := kv.Get(ctx, deploymentKey)
	if err != nil {
		return topology.Deployment{}, fmt.Errorf("read deployment parameters: %w", err)
	}
	var recorded recordedDeployment
	if err := json.Unmarshal(entry.Value(), &recorded); err != nil {
		return topology.Deployment{}, fmt.Errorf("deployment parameters in bucket %s are damaged: %w", topology.DeploymentBucket, err)
	}
	if err := recorded.Check(); err != nil {
		return topology.Deployment{}, fmt.Errorf("deployment parameters in bucket %s are damaged: %w", topology.DeploymentBucket, err)
	}
	if recorded.LogForm != logForm {
		return topology.Deployment{}, fmt.Errorf("%w: form %d, and this program reads and writes form %d: use the version that made them, or begin a new deployment", ErrLogForm, recorded.LogForm, logForm)
	}
	if err := asked.Or(recorded.Deployment).Conflict(recorded.Deployment); err != nil {
		return topology.Deployment{}, fmt.Errorf("this deployment was first started with other parameters, which cannot change: %w (leave --partitions, --dedup-window and --dedup-entries-max out to take what is recorded)", err)
	}
	return recorded.Deployment, nil
}
