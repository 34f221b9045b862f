package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/topology"
)

var (
	// ErrForeign says that a stream belongs to another deployment.
	ErrForeign = errors.New("it belongs to another deployment")
	// ErrLost says that a stream of a deployment that was set up is not there, and cannot be made again without harm.
	ErrLost = errors.New("it was there and is lost")
)

// step is what is done about a stream that is wanted.
type step int

const (
	keep      step = iota // it is there, and is brought to what is wanted
	makeFirst             // it was never there
	makeAgain             // it was lost, and that is reported
	leave                 // it was lost or is another deployment's: nothing is made or changed
	await                 // the owner of its partition has not finished a cut of it, see CutStream
)

// planStreams decides about each stream that is wanted. It fails if a bucket is another deployment's, or all partitions are refused.
func planStreams(record recordedDeployment, there map[string]*jetstream.StreamInfo, cutting map[string]bool, wanted []jetstream.StreamConfig) (map[string]step, error) {
	if err := contradicts(record, there); err != nil {
		return nil, err
	}
	plan := make(map[string]step, len(wanted))
	refused := make(map[int]error)
	for _, want := range wanted {
		kind, partition, _ := topology.KindOf(want.Name)
		info := there[want.Name]
		err := foreign(info, record.Deployment)
		switch {
		case err != nil && partition < 0:
			return nil, err
		case err != nil:
			plan[want.Name], refused[partition] = leave, errors.Join(refused[partition], err)
		case cutting[want.Name]:
			plan[want.Name] = await
		case info != nil:
			plan[want.Name] = keep
		case !record.complete():
			plan[want.Name] = makeFirst
		case kind == topology.KindWAL, kind == topology.KindMessages && !isWhole(there[topology.WALStream(partition)]):
			plan[want.Name], refused[partition] = leave, errors.Join(refused[partition], lost(want.Name))
		case want.Name == "KV_"+topology.PermissionBucket:
			plan[want.Name] = leave
		default:
			plan[want.Name] = makeAgain
		}
	}
	if len(refused) < record.Partitions {
		return plan, nil
	}
	var all []error
	for p := range record.Partitions {
		all = append(all, refused[p])
	}
	return nil, fmt.Errorf("no partition of deployment %s can be served: %w", record.ID, errors.Join(all...))
}

// isWhole reports whether a write-ahead log has all records since the first, so that the message log can be derived from it.
func isWhole(wal *jetstream.StreamInfo) bool { return wal != nil && wal.State.FirstSeq <= 1 }

// refusals are the streams that are left as they are, and why.
func refusals(there map[string]*jetstream.StreamInfo, wanted []jetstream.StreamConfig, plan map[string]step) map[string]error {
	all := make(map[string]error)
	for _, want := range wanted {
		if plan[want.Name] != leave {
			continue
		}
		all[want.Name] = lost(want.Name)
		if info := there[want.Name]; info != nil {
			all[want.Name] = ErrForeign
		}
	}
	return all
}

// lossOf says what is lost with the content of a stream that can be made again.
func lossOf(stream string) string {
	kind, _, _ := topology.KindOf(stream)
	switch {
	case kind == topology.KindDeadLetters:
		return "the dead letters"
	case kind == topology.KindMessages:
		return "nothing: the write-ahead log is whole, and the message log is derived from it again"
	case stream == "KV_"+topology.WriterBucket:
		return "the writer's positions; a partition of which the table has rows is paused until its position is made again"
	default:
		return "the checkpoints; a partition whose write-ahead log was trimmed cannot be recovered without one, and says so"
	}
}

// lost is the error for a stream that cannot be made again, with the way out.
func lost(stream string) error {
	kind, partition, _ := topology.KindOf(stream)
	switch kind {
	case topology.KindWAL:
		return fmt.Errorf("stream %s: %w, and with it which numbers were given out; a new one would give them out twice (`nats stream restore` from a backup, or `sendhouse repair wal --partition %d`, which continues after the message log)", stream, ErrLost, partition)
	case topology.KindMessages:
		return fmt.Errorf("stream %s: %w, and the write-ahead log, which was trimmed or is lost, does not make all of it again (`nats stream restore` from a backup, or `sendhouse repair message-log --partition %d`)", stream, ErrLost, partition)
	case topology.KindKeyValue:
		return fmt.Errorf("stream %s: %w, and with it who may send; until it is back no send is taken (`nats stream restore` from a backup, or `sendhouse repair permissions`)", stream, ErrLost)
	case topology.KindDeadLetters, topology.KindObjects:
	}
	return fmt.Errorf("stream %s: %w", stream, ErrLost)
}

// foreign refuses a stream whose metadata name another deployment; one that there is not, or that names none, is not foreign.
func foreign(info *jetstream.StreamInfo, d topology.Deployment) error {
	if info == nil || d.ID == "" {
		return nil
	}
	id := topology.MetadataID(info.Config.Metadata)
	if id == "" || id == d.ID {
		return nil
	}
	return fmt.Errorf("stream %s: %w: its metadata name %s, and this deployment is %s (put this deployment's stream back with `nats stream restore`, or point --nats-url to the right NATS)",
		info.Config.Name, ErrForeign, id, d.ID)
}

// contradicts refuses a record if all streams that carry its ID say other parameters.
func contradicts(record recordedDeployment, there map[string]*jetstream.StreamInfo) error {
	var conflict error
	for _, info := range there {
		said, err := topology.ParseMetadata(info.Config.Metadata)
		if err != nil || said.ID != record.ID {
			continue
		}
		if err := said.Conflict(record.Deployment); err == nil {
			return nil
		} else if conflict == nil {
			conflict = fmt.Errorf("%w: stream %s says otherwise: %w (%s)", ErrRecordDamaged, info.Config.Name, err, repairRecord)
		}
	}
	return conflict
}

// CheckPartition refuses a partition whose logs are not there, or are another deployment's. The error wraps ErrLost or ErrForeign then;
// it costs one question for each of the two logs, asked at once.
func CheckPartition(ctx context.Context, js jetstream.JetStream, d topology.Deployment, partition int) error {
	names := [...]string{topology.WALStream(partition), topology.MessagesStream(partition)}
	var answers [len(names)]chan error
	for i, name := range names {
		answers[i] = make(chan error, 1)
		go func() {
			stream, err := js.Stream(ctx, name)
			switch {
			case errors.Is(err, jetstream.ErrStreamNotFound):
				err = lost(name)
			case err != nil:
				err = fmt.Errorf("look at stream %s: %w", name, err)
			default:
				err = foreign(stream.CachedInfo(), d)
			}
			answers[i] <- err
		}()
	}
	return errors.Join(<-answers[0], <-answers[1])
}

// FoundDeployment is what the streams say of the deployment that they belong to.
type FoundDeployment struct {
	topology.Deployment
	// From are the streams that name the deployment, Silent those that name none.
	From, Silent []string
	// Recorded reports whether the record says the same, so that there is nothing to write.
	Recorded bool

	replicas int
	revision uint64 // of the record to replace
}

// FindDeployment reads the deployment's parameters from the metadata of its streams, of which all must agree. What no stream says, since a
// version without identities has made them all, comes from given, which must then be complete but for the ID. It changes nothing.
func FindDeployment(ctx context.Context, js jetstream.JetStream, given topology.Deployment) (FoundDeployment, error) {
	there, _, err := lookAround(ctx, js)
	if err != nil {
		return FoundDeployment{}, err
	}
	found, err := identityOf(there)
	if err != nil {
		return found, err
	}
	logs := 0
	for name, info := range there {
		found.replicas = max(found.replicas, info.Config.Replicas)
		if kind, partition, _ := topology.KindOf(name); kind == topology.KindWAL || kind == topology.KindMessages {
			logs = max(logs, partition+1)
		}
	}
	if logs == 0 {
		return found, errors.New("there is no log of a partition (SENDS_<p>, MESSAGES_<p>): nothing says that there was a deployment")
	}
	if found.ID == "" {
		if found.Deployment = given; given.Partitions == 0 {
			found.Partitions = logs
		}
		found.ID = newID()
	}
	if err := errors.Join(found.Check(), given.Or(found.Deployment).Conflict(found.Deployment)); err != nil {
		return found, fmt.Errorf("the parameters of the deployment, as far as the streams say them: %w (say what is missing with --partitions, --dedup-window and --dedup-entries-max, exactly as it was)", err)
	}
	if logs > found.Partitions {
		return found, fmt.Errorf("there are logs of %d partitions, and the parameters say %d", logs, found.Partitions)
	}
	record, err := readDeployment(ctx, js)
	found.revision = record.revision
	switch {
	case errors.Is(err, errNoRecordYet), errors.Is(err, ErrRecordDamaged):
	case err != nil:
		return found, err
	default:
		found.Recorded = record.Deployment == found.Deployment && record.Complete
	}
	return found, nil
}

// Record writes the deployment's record as it was found. It refuses if the record was written meanwhile.
func (f FoundDeployment) Record(ctx context.Context, js jetstream.JetStream) error {
	if f.Recorded {
		return nil
	}
	options := topology.DefaultOptions()
	options.Replicas = max(f.replicas, 1)
	for _, bucket := range options.BucketConfigs() {
		if want := topology.BucketStream(bucket); want.Name == deploymentStream {
			want.Metadata = f.Metadata()
			stream, err := createOrOpen(ctx, js, want)
			if err == nil { // a limit that was lowered could take the record away again
				err = bring(ctx, js, slog.New(slog.DiscardHandler), stream.CachedInfo(), want, settingOurs)
			}
			if err != nil {
				return err
			}
		}
	}
	written, err := writeDeployment(ctx, js, recordedDeployment{Deployment: f.Deployment, LogForm: topology.LogForm, Complete: true, revision: f.revision})
	if err != nil || written {
		return err
	}
	// A bucket that was made again can have the record of before.
	record, err := readDeployment(ctx, js)
	if err == nil && (record.Deployment != f.Deployment || !record.Complete) {
		err = errors.New("the deployment's record was written by another process meanwhile; look again")
	}
	return err
}

// identityOf is what the metadata of the streams say together. Nothing is found if none of them names a deployment.
func identityOf(there map[string]*jetstream.StreamInfo) (FoundDeployment, error) {
	var found FoundDeployment
	names := make([]string, 0, len(there))
	for name := range there {
		names = append(names, name)
	}
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		said, err := topology.ParseMetadata(there[name].Config.Metadata)
		switch {
		case errors.Is(err, topology.ErrNoIdentity):
			found.Silent = append(found.Silent, name)
			continue
		case err != nil:
			errs = append(errs, fmt.Errorf("stream %s: %w", name, err))
			continue
		case len(found.From) == 0:
			found.Deployment = said
		case said != found.Deployment:
			errs = append(errs, fmt.Errorf("stream %s: %w: it names %+v, and %s name %+v", name, ErrForeign, said, strings.Join(found.From, ", "), found.Deployment))
		}
		found.From = append(found.From, name)
	}
	if err := errors.Join(errs...); err != nil {
		return found, fmt.Errorf("the streams do not agree on the deployment that they belong to: %w (put the right ones back with `nats stream restore`)", err)
	}
	return found, nil
}

// Recreate makes a stream of the deployment that was lost as it would be at a first start, empty, whatever is lost with what it
// held. One that is there is left as it is. It is meant for a command that has said what is lost.
func Recreate(ctx context.Context, js jetstream.JetStream, d topology.Deployment, options topology.Options, stream string) error {
	wanted, err := options.StreamConfigs(d)
	if err != nil {
		return err
	}
	for _, want := range wanted {
		if want.Name == stream {
			_, err := createOrOpen(ctx, js, want)
			return err
		}
	}
	return fmt.Errorf("stream %s is none of deployment %s", stream, d.ID)
}
