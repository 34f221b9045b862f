package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

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

// settleTimeout is how long a cluster may take until all of its servers have found
// each other, and what was just made in it has leaders.
const settleTimeout = 20 * time.Second

// isPassing reports whether JetStream cannot answer for the moment, or says nothing, as
// while a cluster elects a leader or one of its servers starts; or answers by a server
// that does not have yet what was just recorded.
func isPassing(err error) bool {
	if api := (*jetstream.APIError)(nil); errors.As(err, &api) {
		return api.Code == http.StatusServiceUnavailable || api.ErrorCode == errCodeNoPeers
	}
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrKeyNotFound) ||
		errors.Is(err, context.DeadlineExceeded)
}

// Setup brings up everything that a deployment's roles meet at: the buckets, the record of its parameters, the streams.
type Setup struct {
	JetStream jetstream.JetStream
	// Asked are the parameters that are asked for. Zero fields mean what is recorded, or the default at the first start; a field
	// that contradicts the record is an error.
	Asked   topology.Deployment
	Options topology.Options
	// Logger hears what was lost and what was set back; nil disables logging.
	Logger *slog.Logger
	// BeforeFirst, if given, is called before a deployment is made because this NATS holds nothing of one. An error refuses.
	BeforeFirst func(context.Context) error
}

// EnsureDeployment is Setup.Ensure without a logger.
func EnsureDeployment(ctx context.Context, js jetstream.JetStream, asked topology.Deployment, options topology.Options) (topology.Deployment, error) {
	return Setup{JetStream: js, Asked: asked, Options: options}.Ensure(ctx)
}

// Ensure makes a deployment if there is nothing of one, and otherwise brings the one that is there to what the
// options say. It is safe to call from every process at once.
//
// Absent is not "never was": of a deployment that was made once, nothing is made again whose loss would give out numbers
// twice or let through what was forbidden. Its record is then an error that wraps ErrRecordLost or ErrRecordDamaged;
// a partition's log is left out, and CheckPartition refuses the partition; if all partitions are refused, the error wraps
// ErrLost or ErrForeign.
func (s Setup) Ensure(ctx context.Context) (topology.Deployment, error) {
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	settled, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	ticker := time.NewTicker(awaitInterval)
	defer ticker.Stop()
	for {
		deployment, err := s.attempt(ctx)
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

func (s Setup) attempt(ctx context.Context) (topology.Deployment, error) {
	if err := s.Options.Check(); err != nil {
		return topology.Deployment{}, err
	}
	there, cutting, err := lookAround(ctx, s.JetStream) // before the record is read: it is older than all streams but its own
	if err != nil {
		return topology.Deployment{}, err
	}
	record, err := s.record(ctx, there)
	if err != nil {
		return topology.Deployment{}, err
	}
	if err := record.agrees(s.Asked); err != nil {
		return topology.Deployment{}, err
	}
	wanted, err := s.Options.StreamConfigs(record.Deployment)
	if err != nil {
		return topology.Deployment{}, err
	}
	plan, err := planStreams(record, there, cutting, wanted)
	if err != nil {
		return topology.Deployment{}, err
	}
	for _, want := range wanted { // all of them before any is changed
		if info, ok := there[want.Name]; ok && plan[want.Name] == keep {
			if err := mayBecome(info, want); err != nil {
				return topology.Deployment{}, err
			}
		}
	}
	if record, err = s.identify(ctx, record, there); err != nil {
		return topology.Deployment{}, err
	}
	if wanted, err = s.Options.StreamConfigs(record.Deployment); err != nil { // with the ID
		return topology.Deployment{}, err
	}
	if err := s.carryOut(ctx, there, wanted, plan); err != nil {
		return topology.Deployment{}, err
	}
	if !record.Complete {
		record.Complete = true
		if _, err := writeDeployment(ctx, s.JetStream, record); err != nil { // if another process was first, it wrote the same
			return topology.Deployment{}, err
		}
	}
	return record.Deployment, nil
}

// looksAtOnceMax bounds the questions about streams that are asked at once.
const looksAtOnceMax = 32

// lookAround finds the streams of a deployment that there are, and how they are. It asks for the names, which a cluster's
// leader knows for sure; a list of the streams leaves out those that do not answer. Cutting names those that a cut of is not
// finished, which may be missing meanwhile.
func lookAround(ctx context.Context, js jetstream.JetStream) (there map[string]*jetstream.StreamInfo, cutting map[string]bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, js.Options().DefaultTimeout)
	defer cancel()
	var names []string
	cutting = make(map[string]bool)
	lister := js.StreamNames(ctx)
	for name := range lister.Name() {
		if _, _, ok := topology.KindOf(name); ok {
			names = append(names, name)
		}
		if stream, ok := strings.CutSuffix(name, cutSuffix); ok {
			cutting[stream] = true
		}
	}
	if err := lister.Err(); err != nil {
		return nil, nil, fmt.Errorf("list the names of the streams: %w", err)
	}
	infos := make([]*jetstream.StreamInfo, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(looksAtOnceMax)
	for i, name := range names {
		group.Go(func() error {
			stream, err := js.Stream(ctx, name)
			switch {
			case errors.Is(err, jetstream.ErrStreamNotFound): // deleted meanwhile
			case err != nil:
				return fmt.Errorf("look at stream %s: %w", name, err)
			default:
				infos[i] = stream.CachedInfo()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err //nolint:wrapcheck // it is ours
	}
	there = make(map[string]*jetstream.StreamInfo, len(names))
	for i, info := range infos {
		if info != nil {
			there[names[i]] = info
		}
	}
	return there, cutting, nil
}

// record reads the deployment's record. At a first start, it writes one.
func (s Setup) record(ctx context.Context, there map[string]*jetstream.StreamInfo) (recordedDeployment, error) {
	if _, ok := there[deploymentStream]; ok {
		record, err := readDeployment(ctx, s.JetStream)
		if !errors.Is(err, errNoRecordYet) {
			return record, err
		}
	}
	if err := neverWas(there); err != nil {
		return recordedDeployment{}, err
	}
	first, err := s.Options.First(s.Asked)
	if err != nil {
		return recordedDeployment{}, err
	}
	if s.BeforeFirst != nil {
		if err := s.BeforeFirst(ctx); err != nil {
			return recordedDeployment{}, err
		}
	}
	if first.ID == "" {
		first.ID = newID()
	}
	for _, bucket := range s.Options.BucketConfigs() {
		if want := topology.BucketStream(bucket); want.Name == deploymentStream {
			if _, err := createOrOpen(ctx, s.JetStream, want); err != nil {
				return recordedDeployment{}, err
			}
		}
	}
	if _, err := writeDeployment(ctx, s.JetStream, recordedDeployment{Deployment: first, LogForm: topology.LogForm}); err != nil {
		return recordedDeployment{}, err
	}
	record, err := readDeployment(ctx, s.JetStream) // that of the process that was first
	if errors.Is(err, errNoRecordYet) {
		return record, fmt.Errorf("read the deployment's record: %w", jetstream.ErrKeyNotFound) // for a server that does not have it yet
	}
	return record, err
}

// neverWas refuses to take for a first start what has streams of a deployment: logs at all, or a bucket that was ever written.
// A first start that was cut short leaves empty buckets.
func neverWas(there map[string]*jetstream.StreamInfo) error {
	var found []string
	for name, info := range there {
		kind, _, _ := topology.KindOf(name)
		switch {
		case isLeases(name): // what is in them expires
		case kind == topology.KindWAL, kind == topology.KindMessages, info.State.LastSeq > 0:
			found = append(found, name)
		}
	}
	if len(found) == 0 {
		return nil
	}
	slices.Sort(found)
	return fmt.Errorf("%w: there is no record, and there are the streams %s (%s; to begin a new deployment without their messages, remove them with `nats stream rm`)",
		ErrRecordLost, strings.Join(found, ", "), repairRecord)
}

func isLeases(stream string) bool {
	return stream == "KV_"+topology.LeaseBucket || stream == "KV_"+topology.WriterLeaseBucket
}

// identify assigns an ID to a deployment that a version without one has set up: by compare-and-set, so that of several processes
// that start at once one decides. Streams that carry one already say which: the record is an older one then.
func (s Setup) identify(ctx context.Context, record recordedDeployment, there map[string]*jetstream.StreamInfo) (recordedDeployment, error) {
	if record.ID != "" {
		return record, nil
	}
	found, err := identityOf(there)
	switch {
	case err != nil:
		return record, err
	case found.ID == "":
		record.ID = newID()
		s.Logger.Info("the deployment gets an identity: a version without identities has set it up", "deployment", record.ID)
	default:
		if err := found.Conflict(record.Or(found.Deployment)); err != nil {
			return record, fmt.Errorf("%w: the streams %s say otherwise: %w (%s)", ErrRecordDamaged, strings.Join(found.From, ", "), err, repairRecord)
		}
		record.ID = found.ID
		s.Logger.Warn("the deployment's record is one from before the deployment had an identity; taking that of the streams", "deployment", record.ID)
	}
	if _, err := writeDeployment(ctx, s.JetStream, record); err != nil {
		return record, err
	}
	return readDeployment(ctx, s.JetStream) // that of the process that was first
}

// carryOut makes and changes streams as planned.
func (s Setup) carryOut(ctx context.Context, there map[string]*jetstream.StreamInfo, wanted []jetstream.StreamConfig, plan map[string]step) error {
	for _, want := range wanted {
		switch plan[want.Name] {
		case leave, await:
			continue
		case makeAgain:
			s.Logger.Error("a stream of the deployment was lost, and what it held with it; it is made again, empty", "stream", want.Name, "lost", lossOf(want.Name))
		case keep, makeFirst:
		}
		info, ok := there[want.Name]
		if !ok || plan[want.Name] != keep {
			stream, err := createOrOpen(ctx, s.JetStream, want)
			if err != nil {
				return err
			}
			info = stream.CachedInfo()
		}
		if fixed := ofKind(settingsThatDiffer(info.Config, want), settingFixed); len(fixed) > 0 {
			s.Logger.Error("a stream has a setting that it must not have", "stream", want.Name, "settings", described(fixed), "mend", wayOut(want.Name, fixed))
			if info.Config.Sealed {
				continue // nothing of it can be changed
			}
		}
		if err := bring(ctx, s.JetStream, s.Logger, info, want, settingOurs, settingFlag); err != nil {
			return err
		}
	}
	for name, refusal := range refusals(there, wanted, plan) {
		s.Logger.Error("a part of the deployment is refused; the rest is served", "stream", name, "error", refusal)
	}
	return nil
}
