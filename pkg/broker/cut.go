package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A stream of JetStream cannot be made to end earlier: a deleted record leaves its sequence taken. CutStream therefore
// replaces the stream by a copy of its front, under the same name. The copy is made twice, by mirrors, which keep
// sequences and times:
//
//	     S whole           T mirrors S        T complete         S mirrors T         S as before, shorter
//	S: 1 2 _ 4 5   ──▶   S: 1 2          ──▶ S: 1 2         ──▶ S: 1 2         ──▶ S: 1 2
//	                     T: 1 2              T: 1 2             T: 1 2
//	  delete 4, 5          mark T complete     delete S, make it again as a mirror, promote it, delete T
//
// Until T is complete, S is the truth and T is worthless. From then on T is the truth until S is promoted. T's metadata
// holds what is needed to continue (cutPlan), so a process that dies at any step leaves something that the next one
// finishes; see ResumeCut. Both copies are synced record by record, since each replaces what was there before. A stream's
// persist mode cannot be changed, so S stays that way, also if it was persisted asynchronously before.
//
// Durable consumers of S are created again, each after the last record that it has acknowledged.
//
// The caller must be the only process that cuts this stream: the owner of its partition's lease. Writers may be connected: what they add meanwhile is refused
// or is cut off.
const (
	cutSuffix       = "_CUT"
	cutRequestKey   = "sendhouse-cut-request"  // in T's metadata: only a request, with the last record that stays
	cutPlanKey      = "sendhouse-cut-plan"     // in T's metadata
	cutCompleteKey  = "sendhouse-cut-complete" // in T's metadata, once it is complete
	cutOfKey        = "sendhouse-cut-of"       // in S's metadata, until T is gone: T's creation time
	cutAttemptsMax  = 3
	cutLookInterval = 20 * time.Millisecond
	// cutStallMax is how long a copy may make no progress.
	cutStallMax = 30 * time.Second
)

// ErrCut wraps what kept a stream from being cut.
var ErrCut = errors.New("cut stream")

// cutPlan is what is known of S when it is gone.
type cutPlan struct {
	Last      uint64                     `json:"last"` // the last record that stays
	Config    jetstream.StreamConfig     `json:"config"`
	Consumers []jetstream.ConsumerConfig `json:"consumers,omitempty"`
}

// CutName is the name of the temporary stream that a cut of a stream uses.
func CutName(stream string) string { return stream + cutSuffix }

// CutStream makes a stream end with the record last: what is after it is removed, and the next record gets the sequence
// after last. A cut that was interrupted earlier is finished first. It takes as long as copying the stream twice.
func CutStream(ctx context.Context, js jetstream.JetStream, name string, last uint64) error {
	c := &cut{js: js, name: name}
	err := c.resume(ctx)
	if err == nil {
		err = c.begin(ctx, last)
	}
	if err != nil {
		return fmt.Errorf("%w %s after record %d: %w", ErrCut, name, last, err)
	}
	return nil
}

// RequestCut asks the owner of the stream's partition to cut it, which it does when it next opens the stream, by ResumeCut.
// The same request may be made again. It fails if another one is made or a cut is not finished already.
func RequestCut(ctx context.Context, js jetstream.JetStream, name string, last uint64) error {
	stream, err := js.Stream(ctx, name)
	if err == nil {
		_, err = CreateStream(ctx, js, jetstream.StreamConfig{
			Name: CutName(name), Description: "Sendhouse: a request to cut " + name, Replicas: stream.CachedInfo().Config.Replicas,
			Metadata: map[string]string{cutRequestKey: strconv.FormatUint(last, 10)},
		})
	}
	if err != nil {
		return fmt.Errorf("request that %s is cut after record %d: %w", name, last, err)
	}
	return nil
}

// ResumeCut finishes a cut of the stream that a process has not finished or that was requested, if there is one. Until then a
// stream of this name may be missing, or be only a part of what it was, so it must be called before the stream is used.
func ResumeCut(ctx context.Context, js jetstream.JetStream, name string) error {
	if err := (&cut{js: js, name: name}).resume(ctx); err != nil {
		return fmt.Errorf("%w %s, which was begun earlier: %w", ErrCut, name, err)
	}
	return nil
}

type cut struct {
	js   jetstream.JetStream
	name string // S; T is CutName of it
}

// info returns nil if there is no such stream.
func (c *cut) info(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	stream, err := c.js.Stream(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, nil //nolint:nilnil // nothing is there
	case err != nil:
		return nil, fmt.Errorf("look at stream %s: %w", name, err)
	}
	return stream.CachedInfo(), nil
}

func (c *cut) resume(ctx context.Context) error {
	t, err := c.info(ctx, CutName(c.name))
	switch {
	case err != nil:
		return err
	case t == nil:
		return nil
	case t.Config.Metadata[cutRequestKey] != "":
		last, err := strconv.ParseUint(t.Config.Metadata[cutRequestKey], 10, 64)
		if err != nil {
			return fmt.Errorf("request in the metadata of stream %s: %w", t.Config.Name, err)
		}
		if err := c.remove(ctx, t.Config.Name); err != nil {
			return err
		}
		return c.begin(ctx, last)
	case t.Config.Metadata[cutCompleteKey] == "":
		return c.remove(ctx, CutName(c.name)) // S is still whole
	}
	return c.replace(ctx)
}

// begin cuts S, of which no cut is under way.
func (c *cut) begin(ctx context.Context, last uint64) error {
	for range cutAttemptsMax {
		copied, err := c.copyFront(ctx, last)
		switch {
		case err != nil:
			return err
		case copied:
			return c.replace(ctx)
		}
	}
	return fmt.Errorf("records were added while it was being copied, %d times", cutAttemptsMax)
}

// copyFront makes T a complete copy of S up to last. It returns false if a writer has added a record meanwhile.
func (c *cut) copyFront(ctx context.Context, last uint64) (bool, error) {
	s, err := c.info(ctx, c.name)
	if err != nil {
		return false, err
	}
	if s == nil {
		return false, fmt.Errorf("stream %s: %w", c.name, jetstream.ErrStreamNotFound)
	}
	plan := cutPlan{Last: last, Config: s.Config}
	if plan.Consumers, err = c.consumers(ctx); err != nil {
		return false, err
	}
	encoded, err := json.Marshal(plan)
	if err != nil {
		return false, fmt.Errorf("encode the plan: %w", err)
	}
	keeps, err := c.deleteAfter(ctx, s, last)
	if err != nil {
		return false, err
	}
	config := jetstream.StreamConfig{
		Name: CutName(c.name), Description: "Sendhouse: the part of " + c.name + " that stays while it is cut",
		Storage: s.Config.Storage, Replicas: s.Config.Replicas, Metadata: map[string]string{cutPlanKey: string(encoded)},
	}
	if keeps {
		config.Mirror = &jetstream.StreamSource{Name: c.name}
	}
	if _, err := CreateStream(ctx, c.js, config); err != nil {
		return false, fmt.Errorf("create stream %s: %w", config.Name, err)
	}
	if keeps {
		if err := c.awaitCopy(ctx, config.Name, last); err != nil {
			return false, err
		}
	}
	config.Mirror = nil
	config.Metadata[cutCompleteKey] = "true"
	if !keeps {
		_, err = c.js.UpdateStream(ctx, config)
		return err == nil, err //nolint:wrapcheck // CutStream says what was being done
	}
	// Mirroring ends before T is called complete: a record that a writer has just added would come along.
	delete(config.Metadata, cutCompleteKey)
	t, err := c.js.UpdateStream(ctx, config)
	if err != nil {
		return false, fmt.Errorf("promote stream %s: %w", config.Name, err)
	}
	if end := t.CachedInfo().State.LastSeq; end != last {
		return false, c.remove(ctx, config.Name)
	}
	config.Metadata[cutCompleteKey] = "true"
	if _, err := c.js.UpdateStream(ctx, config); err != nil {
		return false, fmt.Errorf("mark stream %s as complete: %w", config.Name, err)
	}
	return true, nil
}

// consumers lists the durable consumers of S as they are made again.
func (c *cut) consumers(ctx context.Context) ([]jetstream.ConsumerConfig, error) {
	stream, err := c.js.Stream(ctx, c.name)
	if err != nil {
		return nil, fmt.Errorf("look at stream %s: %w", c.name, err)
	}
	var all []jetstream.ConsumerConfig
	lister := stream.ListConsumers(ctx)
	for info := range lister.Info() {
		if info.Config.Durable == "" {
			continue
		}
		config := info.Config
		config.DeliverPolicy, config.OptStartSeq, config.OptStartTime = jetstream.DeliverByStartSequencePolicy, info.AckFloor.Stream+1, nil
		all = append(all, config)
	}
	if err := lister.Err(); err != nil {
		return nil, fmt.Errorf("list the consumers of %s: %w", c.name, err)
	}
	return all, nil
}

// deleteAfter deletes the records of S after last, so that the mirror does not copy them, and reports whether S keeps any.
func (c *cut) deleteAfter(ctx context.Context, s *jetstream.StreamInfo, last uint64) (bool, error) {
	stream, err := c.js.Stream(ctx, c.name)
	if err != nil {
		return false, fmt.Errorf("look at stream %s: %w", c.name, err)
	}
	if s.State.Msgs == 0 || s.State.FirstSeq > last {
		return false, nil
	}
	for seq := last + 1; seq <= s.State.LastSeq; seq++ {
		err := stream.DeleteMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) { // perhaps there is none: the client does not wrap the reason
			if _, gone := RecordAt(ctx, c.js, c.name, seq); errors.Is(gone, jetstream.ErrMsgNotFound) {
				continue
			}
		}
		if err != nil {
			return false, fmt.Errorf("delete record %d of %s: %w", seq, c.name, err)
		}
	}
	return true, nil
}

// awaitCopy waits until a mirror has the record last.
func (c *cut) awaitCopy(ctx context.Context, mirror string, last uint64) error {
	ticker := time.NewTicker(cutLookInterval)
	defer ticker.Stop()
	reached, progress := uint64(0), time.Now()
	for {
		info, err := c.info(ctx, mirror)
		switch {
		case err != nil:
			return err
		case info == nil:
			return fmt.Errorf("stream %s: %w", mirror, jetstream.ErrStreamNotFound)
		case info.State.LastSeq >= last:
			return nil
		case info.State.LastSeq > reached:
			reached, progress = info.State.LastSeq, time.Now()
		case time.Since(progress) > cutStallMax:
			return fmt.Errorf("copying to %s stopped at record %d (%+v)", mirror, reached, info.Mirror)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// replace makes S of T, which is complete. It may be run again at any point.
func (c *cut) replace(ctx context.Context) error {
	t, err := c.info(ctx, CutName(c.name))
	if err != nil || t == nil {
		return err
	}
	var plan cutPlan
	if err := json.Unmarshal([]byte(t.Config.Metadata[cutPlanKey]), &plan); err != nil {
		return fmt.Errorf("metadata of stream %s: %w", t.Config.Name, err)
	}
	mark := t.Created.UTC().Format(time.RFC3339Nano)
	s, err := c.info(ctx, c.name)
	if err != nil {
		return err
	}
	if s != nil && s.Config.Metadata[cutOfKey] != mark { // the old one
		if err := c.remove(ctx, c.name); err != nil {
			return err
		}
		s = nil
	}
	config := plan.Config
	config.Metadata = maps.Clone(config.Metadata)
	if config.Metadata == nil {
		config.Metadata = make(map[string]string)
	}
	config.Metadata[cutOfKey] = mark
	config.PersistMode = jetstream.DefaultPersistMode
	if s == nil || s.Config.Mirror != nil {
		if err := c.copyBack(ctx, t, config, plan.Last, s == nil); err != nil {
			return err
		}
	}
	for _, consumer := range plan.Consumers {
		if _, err := c.js.CreateOrUpdateConsumer(ctx, c.name, consumer); err != nil {
			return fmt.Errorf("make consumer %s of %s again: %w", consumer.Durable, c.name, err)
		}
	}
	return c.remove(ctx, CutName(c.name))
}

// copyBack makes S of what T has, with the configuration that it had.
func (c *cut) copyBack(ctx context.Context, t *jetstream.StreamInfo, config jetstream.StreamConfig, last uint64, create bool) error {
	if t.State.Msgs == 0 {
		config.FirstSeq = last + 1
		if _, err := CreateStream(ctx, c.js, config); err != nil {
			return fmt.Errorf("create stream %s again: %w", c.name, err)
		}
		return nil
	}
	if create {
		mirror := jetstream.StreamConfig{
			Name: c.name, Description: config.Description, Storage: config.Storage, Replicas: config.Replicas,
			Metadata: config.Metadata, Mirror: &jetstream.StreamSource{Name: t.Config.Name},
		}
		if _, err := CreateStream(ctx, c.js, mirror); err != nil {
			return fmt.Errorf("create stream %s again: %w", c.name, err)
		}
	}
	if err := c.awaitCopy(ctx, c.name, last); err != nil {
		return err
	}
	s, err := c.js.UpdateStream(ctx, config)
	if err != nil {
		return fmt.Errorf("promote stream %s: %w", c.name, err)
	}
	if end := s.CachedInfo().State.LastSeq; end < last { // a writer may have continued it already
		return fmt.Errorf("stream %s ends at %d, wanted %d", c.name, end, last)
	}
	return nil
}

func (c *cut) remove(ctx context.Context, name string) error {
	if err := c.js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("delete stream %s: %w", name, err)
	}
	return nil
}

// FirstGap asks the leader of a stream for the first record that is missing, from the record since on: one that is not
// there although an older and a newer one are. It is 0 if none is. Records that retention has dropped from the front are
// not missing. Older counts those that are missing before since.
func FirstGap(ctx context.Context, stream jetstream.Stream, since uint64) (gap, older uint64, err error) {
	state := stream.CachedInfo().State
	if state.Msgs == 0 || state.Msgs == state.LastSeq-state.FirstSeq+1 {
		return 0, 0, nil
	}
	info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return 0, 0, fmt.Errorf("ask for the missing records of stream %s: %w", stream.CachedInfo().Config.Name, err)
	}
	for _, seq := range info.State.Deleted { // ascending
		switch {
		case seq < info.State.FirstSeq || seq > info.State.LastSeq:
		case seq < since:
			older++
		default:
			return seq, older, nil
		}
	}
	return 0, older, nil
}
