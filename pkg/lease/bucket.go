package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

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
	pause := bucketPauseMin
	for attempt := 1; ; attempt++ {
		once, cancel := context.WithTimeout(ctx, bucketTimeout)
		_, missing := js.Stream(once, topology.BucketStream(config).Name)
		kv, err := js.CreateOrUpdateKeyValue(once, config)
		if err == nil && errors.Is(missing, jetstream.ErrStreamNotFound) {
			kv, err = js.CreateOrUpdateKeyValue(once, config) // so that it is still there at the server's next start, see broker.CreateStream
		}
		cancel()
		if err == nil {
			return kv, nil
		}
		err = fmt.Errorf("key-value bucket %s: %w", bucket, err)
		if attempt == bucketAttempts {
			return nil, err
		}
		if lifecycle.Pause(ctx, pause/2+rand.N(pause/2)) != nil {
			return nil, err
		}
		pause = min(2*pause, bucketPauseMax)
	}
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
