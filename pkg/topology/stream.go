package topology

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/config"
)

// Options are the settings of the streams that an operator may choose.
type Options struct {
	Replicas         int             `help:"Copies of each stream and bucket: 1 on one server, 3 or 5 in a cluster." default:"1"`
	WALBytesMax      config.ByteSize `name:"wal-bytes-max" help:"Size of the write-ahead logs of all partitions, which share it evenly. A full one refuses sends (503) until the sequencer has trimmed it." default:"4GiB"`
	MessagesAgeMax   time.Duration   `help:"How long the message log keeps messages for replay." default:"168h"`
	MessagesBytesMax config.ByteSize `help:"How much the message logs of all partitions keep, sharing it evenly, the oldest messages going first; 0 for no bound by size." default:"8GiB"`
	// MessagesAsync lets the message log acknowledge a record before it is on disk. The server must then bring to disk at its
	// start what it finds, which only the embedded one does.
	MessagesAsync bool `kong:"-"`
	// PartitionsFirst is the number of partitions if none is asked for at a first start; 0 for the usual one.
	PartitionsFirst int `kong:"-"`
}

// walBytesLeast is the least that a partition's write-ahead log can do with.
const walBytesLeast = 16 << 20

// DefaultOptions are those of one machine.
func DefaultOptions() Options {
	return Options{
		Replicas:         1,
		WALBytesMax:      4 << 30,
		MessagesAgeMax:   7 * 24 * time.Hour,
		MessagesBytesMax: 8 << 30,
	}
}

// CheckAsked reports everything that is wrong with the settings and with the parameters that a deployment is asked to have, before it
// is known what is recorded.
func (o Options) CheckAsked(asked Deployment) error {
	errs := []error{o.Check(), asked.Or(DefaultDeployment()).Check()}
	if asked.Partitions >= 1 && asked.Partitions <= PartitionsMax {
		_, err := o.Share(asked)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Check reports every setting out of its range.
func (o Options) Check() error {
	var errs []error
	if o.Replicas != 1 && o.Replicas != 3 && o.Replicas != 5 {
		errs = append(errs, fmt.Errorf("--replicas %d: must be 1, 3 or 5", o.Replicas))
	}
	if o.WALBytesMax < walBytesLeast {
		errs = append(errs, fmt.Errorf("--wal-bytes-max %s: must be at least 16 MiB for each partition", o.WALBytesMax))
	}
	if o.MessagesAgeMax < time.Minute {
		errs = append(errs, fmt.Errorf("--messages-age-max %s: must be at least a minute", o.MessagesAgeMax))
	}
	if o.MessagesBytesMax < 0 {
		errs = append(errs, fmt.Errorf("--messages-bytes-max %d: must not be negative", o.MessagesBytesMax))
	}
	return errors.Join(errs...)
}

// First is what a deployment that is first started with these options gets where asked leaves it open.
func (o Options) First(asked Deployment) (Deployment, error) {
	partitions := o.PartitionsFirst
	if partitions == 0 {
		partitions = defaultPartitions
	}
	d := asked.first(partitions)
	if err := d.Check(); err != nil {
		return Deployment{}, err
	}
	_, err := o.Share(d)
	return d, err
}

// Share is what one partition of a deployment gets of what all of them share.
func (o Options) Share(d Deployment) (Options, error) {
	share := o
	share.WALBytesMax /= config.ByteSize(d.Partitions)
	if share.MessagesBytesMax > 0 { // a share is never 0, which is no bound
		share.MessagesBytesMax = max(share.MessagesBytesMax/config.ByteSize(d.Partitions), 1)
	}
	if share.WALBytesMax < walBytesLeast {
		return Options{}, fmt.Errorf("--wal-bytes-max %s for %d partitions is %s each: must be at least 16 MiB each", o.WALBytesMax, d.Partitions, share.WALBytesMax)
	}
	return share, nil
}

// WALConfig is the stream of a partition's write-ahead log. Limits retention
// with DiscardNew: what is not yet folded is never dropped to make room, the
// publisher is refused instead.
func (o Options) WALConfig(partition int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        WALStream(partition),
		Description: "Sendhouse write-ahead log: one record is one group commit of sends",
		Subjects:    []string{WALSubject(partition)},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    int64(o.WALBytesMax),
		Replicas:    o.Replicas,
		AllowDirect: true,
	}
}

// MessagesConfig is the stream of a partition's message log. It is derived from
// the write-ahead log, so with MessagesAsync it need not be on disk before it is
// acknowledged; what a power loss takes is derived again.
func (o Options) MessagesConfig(partition int) jetstream.StreamConfig {
	persist := jetstream.DefaultPersistMode
	if o.MessagesAsync && o.Replicas == 1 {
		persist = jetstream.AsyncPersistMode
	}
	return jetstream.StreamConfig{
		Name:        MessagesStream(partition),
		Description: "Sendhouse message log: one record is what a group commit became",
		Subjects:    []string{MessagesSubject(partition)},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxAge:      o.MessagesAgeMax,
		MaxBytes:    unlimitedIfZero(int64(o.MessagesBytesMax)),
		Replicas:    o.Replicas,
		AllowDirect: true,
		PersistMode: persist,
	}
}

// DeadLettersConfig is the stream of dead letters.
func (o Options) DeadLettersConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        DeadLettersStream,
		Description: "Sendhouse dead letters: what could not be processed, whole, with the reason",
		Subjects:    []string{"deadletters.>"},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    256 << 20,
		Replicas:    o.Replicas,
		AllowDirect: true,
	}
}

// BucketConfigs are the key-value buckets of a deployment. All of them live in
// streams that are on disk before a write is acknowledged.
func (o Options) BucketConfigs() []jetstream.KeyValueConfig {
	bucket := func(name, description string) jetstream.KeyValueConfig {
		return jetstream.KeyValueConfig{Bucket: name, Description: description, History: 1, Storage: jetstream.FileStorage, Replicas: o.Replicas}
	}
	return []jetstream.KeyValueConfig{
		bucket(DeploymentBucket, "Sendhouse deployment parameters"),
		bucket(WriterBucket, "Sendhouse writer ranges"),
		bucket(CheckpointPointerBucket, "Sendhouse checkpoint pointers"),
		bucket(PermissionBucket, "Sendhouse permissions: who may send to which channel"),
	}
}

// CheckpointConfig is the object store of sequencer state.
func (o Options) CheckpointConfig() jetstream.ObjectStoreConfig {
	return jetstream.ObjectStoreConfig{Bucket: CheckpointBucket, Description: "Sendhouse sequencer state", Storage: jetstream.FileStorage, Replicas: o.Replicas}
}

// StreamConfigs are the streams of a deployment, the buckets' among them, in the order in which they are made: that of
// the deployment's record first. The buckets of leases are not among them: their owners make them.
func (o Options) StreamConfigs(d Deployment) ([]jetstream.StreamConfig, error) {
	share, err := o.Share(d)
	if err != nil {
		return nil, err
	}
	var all []jetstream.StreamConfig
	for _, bucket := range o.BucketConfigs() {
		all = append(all, BucketStream(bucket))
	}
	all = append(all, objectStream(o.CheckpointConfig()), o.DeadLettersConfig())
	for p := range d.Partitions {
		all = append(all, share.WALConfig(p), share.MessagesConfig(p))
	}
	for i := range all {
		all[i].Metadata = d.Metadata()
	}
	return all, nil
}

// BucketStream is the stream of a key-value bucket as NATS's clients make it (ADR-8 of NATS).
func BucketStream(bucket jetstream.KeyValueConfig) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              "KV_" + bucket.Bucket,
		Description:       bucket.Description,
		Subjects:          []string{"$KV." + bucket.Bucket + ".>"},
		Storage:           bucket.Storage,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardNew,
		MaxMsgsPerSubject: int64(bucket.History),
		MaxBytes:          -1,
		MaxAge:            bucket.TTL,
		Replicas:          bucket.Replicas,
		AllowRollup:       true,
		AllowDirect:       true,
		DenyDelete:        true,
	}
}

// objectStream is the stream of an object store as NATS's clients make it (ADR-20 of NATS).
func objectStream(store jetstream.ObjectStoreConfig) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        "OBJ_" + store.Bucket,
		Description: store.Description,
		Subjects:    []string{"$O." + store.Bucket + ".C.>", "$O." + store.Bucket + ".M.>"},
		Storage:     store.Storage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    -1,
		Replicas:    store.Replicas,
		AllowRollup: true,
		AllowDirect: true,
	}
}

func unlimitedIfZero(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}
