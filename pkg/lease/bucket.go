package lease

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/lifecycle"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

const (
	bucketTimeout  = 5 * time.Second
	bucketAttempts = 10
	bucketPauseMin = 50 * time.Millisecond
	bucketPauseMax = 5 * time.Second
)

// BucketConfig is the bucket that the instances of a role share. Its values do not
// expire: when they did would depend on the broker's clock.
func BucketConfig(bucket string, replicas int) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: bucket, Description: "Sendhouse leases", History: 1,
		Storage: jetstream.FileStorage, Replicas: replicas,
	}
}

// Streams are those of the buckets of leases of both roles, for a monitor of what they must be.
func Streams(replicas int, metadata map[string]string) (all []jetstream.StreamConfig) {
	for _, bucket := range []string{topology.LeaseBucket, topology.WriterLeaseBucket} {
		stream := topology.BucketStream(BucketConfig(bucket, max(replicas, 1)))
		stream.Metadata = metadata
		all = append(all, stream)
	}
	return all
}

// OpenBucket makes such a bucket, or brings it to the deployment's metadata; one of an
// earlier version, whose values expired, is changed. In a cluster that has just come up,
// or where two make it at once, the first tries may go unanswered.
func OpenBucket(ctx context.Context, js jetstream.JetStream, bucket string, replicas int, metadata map[string]string) (jetstream.KeyValue, error) {
	config := BucketConfig(bucket, max(replicas, 1))
	config.Metadata = metadata
	backoff := lifecycle.Backoff{Min: bucketPauseMin, Max: bucketPauseMax}
	for attempt := 1; ; attempt++ {
		kv, err := openBucket(ctx, js, config)
		if err == nil {
			return kv, nil
		}
		if attempt == bucketAttempts || backoff.Wait(ctx, attempt) != nil {
			return nil, fmt.Errorf("key-value bucket %s: %w", bucket, err)
		}
	}
}

func openBucket(ctx context.Context, js jetstream.JetStream, config jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, bucketTimeout)
	defer cancel()
	stream := topology.BucketStream(config)
	stream.Metadata = config.Metadata
	_, err := js.Stream(ctx, stream.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = broker.CreateStream(ctx, js, stream)
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller names the bucket
	}
	return js.CreateOrUpdateKeyValue(ctx, config) //nolint:wrapcheck // the caller names the bucket
}

// RandomInstance names a process so that an operator can find it and no other has
// the name: host, process id, and something random.
func RandomInstance() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%d-%s", subjectSafe(host), os.Getpid(), nuid.Next()[16:])
}

func subjectSafe(host string) string {
	safe := []byte(host)
	for i, b := range safe {
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') {
			safe[i] = '-'
		}
	}
	return string(safe)
}
