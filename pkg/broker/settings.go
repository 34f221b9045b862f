package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/topology"
)

// setting is one setting of a stream: how it is, how it must be, and how it comes there.
type setting struct {
	name       string
	have, want any
	kind       settingKind
	set        func(have *jetstream.StreamConfig, want jetstream.StreamConfig) // nil of one that is fixed
}

type settingKind int

const (
	// settingOurs: no flag decides it, so every process wants the same, and one that was changed by hand is set back.
	settingOurs settingKind = iota
	// settingFlag: a flag decides it, and another process may have been given another one.
	settingFlag
	// settingFixed: JetStream cannot take it back. The stream is not what it must be until it is restored.
	settingFixed
)

// settingsThatDiffer are the settings in which a stream is not as it must be. What is not named here, such as placement
// and compression, is the operator's.
func settingsThatDiffer(have, want jetstream.StreamConfig) []setting {
	maxAge, maxBytes := settingOurs, settingOurs // no flag bounds buckets, and none the age of the write-ahead log
	if want.MaxAge > 0 {
		maxAge = settingFlag
	}
	if kind, _, _ := topology.KindOf(want.Name); want.MaxBytes > 0 || kind == topology.KindMessages {
		maxBytes = settingFlag
	}
	all := append(ourSettings(have, want),
		setting{"max_age", have.MaxAge, want.MaxAge, maxAge, func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.MaxAge = w.MaxAge }},
		setting{"max_bytes", limit(have.MaxBytes), limit(want.MaxBytes), maxBytes, func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.MaxBytes = w.MaxBytes }},
		setting{"replicas", have.Replicas, want.Replicas, settingFlag, func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.Replicas = w.Replicas }},
		setting{"sealed", have.Sealed, want.Sealed, settingFixed, nil},
		setting{"deny_delete", have.DenyDelete && !want.DenyDelete, false, settingFixed, nil},
		setting{"mirror", have.Mirror != nil, false, settingFixed, nil},
		setting{"deny_purge", have.DenyPurge, want.DenyPurge, settingFixed, nil},
	)
	return slices.DeleteFunc(all, func(s setting) bool { return s.have == s.want })
}

func ourSettings(have, want jetstream.StreamConfig) []setting {
	type config = jetstream.StreamConfig
	return []setting{
		{"description", have.Description, want.Description, settingOurs, func(h *config, w config) { h.Description = w.Description }},
		{"subjects", strings.Join(have.Subjects, ","), strings.Join(want.Subjects, ","), settingOurs, func(h *config, w config) { h.Subjects = w.Subjects }},
		{"retention", have.Retention, want.Retention, settingOurs, func(h *config, w config) { h.Retention = w.Retention }},
		{"discard", have.Discard, want.Discard, settingOurs, func(h *config, w config) { h.Discard = w.Discard }},
		{"discard_new_per_subject", have.DiscardNewPerSubject, want.DiscardNewPerSubject, settingOurs, func(h *config, w config) { h.DiscardNewPerSubject = w.DiscardNewPerSubject }},
		{"max_msgs", limit(have.MaxMsgs), limit(want.MaxMsgs), settingOurs, func(h *config, _ config) { h.MaxMsgs = -1 }},
		{"max_msgs_per_subject", limit(have.MaxMsgsPerSubject), limit(want.MaxMsgsPerSubject), settingOurs, func(h *config, w config) { h.MaxMsgsPerSubject = w.MaxMsgsPerSubject }},
		{"max_msg_size", limit(have.MaxMsgSize), limit(want.MaxMsgSize), settingOurs, func(h *config, _ config) { h.MaxMsgSize = -1 }},
		{"max_consumers", limit(have.MaxConsumers), limit(want.MaxConsumers), settingOurs, func(h *config, _ config) { h.MaxConsumers = -1 }},
		{"allow_rollup_hdrs", have.AllowRollup, want.AllowRollup, settingOurs, func(h *config, w config) { h.AllowRollup = w.AllowRollup }},
		{"allow_direct", have.AllowDirect, want.AllowDirect, settingOurs, func(h *config, w config) { h.AllowDirect = w.AllowDirect }},
		{"no_ack", have.NoAck, want.NoAck, settingOurs, func(h *config, w config) { h.NoAck = w.NoAck }},
		{"deny_delete", have.DenyDelete || !want.DenyDelete, true, settingOurs, func(h *config, w config) { h.DenyDelete = w.DenyDelete }},
		{"sources", len(have.Sources), len(want.Sources), settingOurs, func(h *config, w config) { h.Sources = w.Sources }},
		{"subject_transform", have.SubjectTransform != nil, false, settingOurs, func(h *config, _ config) { h.SubjectTransform = nil }},
	}
}

// limit makes the two ways of saying that there is none one.
func limit[N int | int32 | int64](n N) N {
	if n <= 0 {
		return -1
	}
	return n
}

// described are the differences in words.
func described(differences []setting) string {
	var texts []string
	for _, d := range differences {
		texts = append(texts, fmt.Sprintf("%s is %v, wanted %v", d.name, d.have, d.want))
	}
	return strings.Join(texts, ", ")
}

func ofKind(differences []setting, kind settingKind) []setting {
	return slices.DeleteFunc(slices.Clone(differences), func(s setting) bool { return s.kind != kind })
}

// wayOut says what an operator does about settings that this process does not set back.
func wayOut(stream string, differences []setting) string {
	if len(ofKind(differences, settingFixed)) > 0 {
		if isLeases(stream) {
			return fmt.Sprintf("JetStream cannot take that back: `nats stream rm %s`, and start the role again that owns these leases, which makes it; leases need no restoring", stream)
		}
		return fmt.Sprintf("JetStream cannot take that back: `nats stream backup %[1]s DIR`, `nats stream rm %[1]s`, `nats stream restore DIR --config=FILE` with a configuration in which it is undone", stream)
	}
	edit := "nats stream edit " + stream
	for _, d := range ofKind(differences, settingFlag) {
		edit += fmt.Sprintf(" --%s=%v", strings.ReplaceAll(d.name, "_", "-"), d.want)
	}
	return "`" + edit + "`, or start the sequencers with flags that say what is there"
}

// bring brings an existing stream to what is wanted, as far as can be; settings of the kinds that are not named stay. It logs what
// it changes. What it must leave is for the caller to report.
func bring(ctx context.Context, js jetstream.JetStream, log *slog.Logger, info *jetstream.StreamInfo, want jetstream.StreamConfig, kinds ...settingKind) error {
	differences := settingsThatDiffer(info.Config, want)
	merged, changed := info.Config, false
	for _, d := range differences {
		if d.set != nil && slices.Contains(kinds, d.kind) {
			d.set(&merged, want)
			changed = true
		}
	}
	identified := containsMetadata(info.Config.Metadata, want.Metadata)
	if !changed && identified {
		return nil
	}
	merged.Metadata = mergedMetadata(info.Config.Metadata, want.Metadata)
	if _, err := js.UpdateStream(ctx, merged); err != nil {
		return fmt.Errorf("update: %w", refusedStream(merged, err))
	}
	if ours := ofKind(differences, settingOurs); len(ours) > 0 && slices.Contains(kinds, settingOurs) {
		log.Warn("a stream's settings were not as they must be, and were set back", "stream", want.Name, "settings", described(ours))
	}
	if flags := ofKind(differences, settingFlag); len(flags) > 0 && slices.Contains(kinds, settingFlag) {
		log.Info("a stream was brought to what the flags say", "stream", want.Name, "settings", described(flags))
	}
	return nil
}

func containsMetadata(have, want map[string]string) bool {
	for key, value := range want {
		if have[key] != value {
			return false
		}
	}
	return true
}

func mergedMetadata(have, want map[string]string) map[string]string {
	merged := make(map[string]string, len(have)+len(want))
	for _, from := range []map[string]string{have, want} {
		for key, value := range from {
			merged[key] = value
		}
	}
	return merged
}

// EnsureStream creates a stream or brings it to what is wanted. A setting that
// cannot be changed on an existing stream is an error that names each difference.
func EnsureStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	log := slog.New(slog.DiscardHandler)
	stream, err := createOrOpen(ctx, js, want)
	if err != nil {
		return nil, err
	}
	if err := mayBecome(stream.CachedInfo(), want); err != nil {
		return nil, err
	}
	if err := bring(ctx, js, log, stream.CachedInfo(), want, settingOurs, settingFlag); err != nil {
		return nil, err
	}
	if _, err := stream.Info(ctx); err != nil {
		return nil, fmt.Errorf("look at stream %s: %w", want.Name, err)
	}
	return stream, nil
}

// createOrOpen opens a stream, which is made if it is not there.
func createOrOpen(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = CreateStream(ctx, js, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another process was first, with other settings
			stream, err = js.Stream(ctx, want.Name)
		}
	}
	if err != nil {
		return nil, refusedStream(want, err)
	}
	return stream, nil
}

// CreateStream makes a stream that is still there at the server's next start. Of a stream whose description on disk is damaged
// nats-server knows nothing, and yet it keeps that file when the stream is made again, and would pass over the new one, too. An
// update writes the file (nats-server 2.15, filestore.go).
func CreateStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	if _, err := js.CreateStream(ctx, want); err != nil {
		return nil, err //nolint:wrapcheck // the callers say which stream, and what to do
	}
	stream, err := js.UpdateStream(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("write the description of the new stream: %w", err)
	}
	return stream, nil
}

// refusedStream says which stream the server did not make or change, and what to do if it does not fit.
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
// more, whether or not its readers have read it.
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

// fixedDifferences refuses a stream that was made in another way, which nothing but making it again can change.
func fixedDifferences(have, want jetstream.StreamConfig) error {
	var differences []string
	differ := func(what string, have, want any) {
		if have != want {
			differences = append(differences, fmt.Sprintf("%s is %v, wanted %v", what, have, want))
		}
	}
	differ("storage", have.Storage, want.Storage)
	if have.Retention == jetstream.WorkQueuePolicy {
		differ("retention", have.Retention, want.Retention)
	}
	if len(differences) > 0 {
		return fmt.Errorf("%w: %s", ErrStreamDiffers, strings.Join(differences, ", "))
	}
	return nil
}
