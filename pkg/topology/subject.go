package topology

import (
	"strconv"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// Names that do not depend on the partition.
const (
	// DeadLettersStream holds what could not be processed.
	DeadLettersStream = "DEAD_LETTERS"
	// DeploymentBucket is the key-value bucket of the deployment's parameters.
	DeploymentBucket = "SENDHOUSE"
	// LeaseBucket is the key-value bucket of the sequencers' leases.
	LeaseBucket = "SENDHOUSE_LEASES"
	// WriterLeaseBucket is that of the writers' leases.
	WriterLeaseBucket = "SENDHOUSE_WRITER_LEASES"
	// WriterBucket is the key-value bucket of the writers' ranges.
	WriterBucket = "SENDHOUSE_WRITER"
	// CheckpointPointerBucket is the key-value bucket that says which
	// checkpoints of a partition are whole.
	CheckpointPointerBucket = "SENDHOUSE_CHECKPOINTS"
	// PermissionBucket is the key-value bucket of the channels' policies.
	PermissionBucket = "SENDHOUSE_PERMISSIONS"
	// CheckpointBucket is the object store of sequencer state.
	CheckpointBucket = "CHECKPOINTS"
)

// Headers of our records.
const (
	// HeaderReply, on a record of the write-ahead log, is the core-NATS subject
	// that its AnswerBatch goes to.
	HeaderReply = "Sendhouse-Reply"
	// HeaderRule, on a record of the write-ahead log, is the rule for time by which it is folded; see message.RuleNewest. A
	// record without it is of message.RuleFrozen.
	HeaderRule = "Sendhouse-Rule"
	// HeaderTrace, on a record of the write-ahead log or the message log of whose sends or messages some are traced,
	// says which and by which spans (package tracing). It is no part of the record.
	HeaderTrace = "Sendhouse-Trace"
	// HeaderContentType, on a record of the message log, is message.BatchContentType.
	HeaderContentType = "Content-Type"
)

// WALStream is the stream of a partition's write-ahead log.
func WALStream(partition int) string { return "SENDS_" + strconv.Itoa(partition) }

// WALSubject is the one subject of a partition's write-ahead log.
func WALSubject(partition int) string { return "sends." + strconv.Itoa(partition) }

// MessagesStream is the stream of a partition's message log.
func MessagesStream(partition int) string { return "MESSAGES_" + strconv.Itoa(partition) }

// MessagesSubject is the one subject of a partition's message log.
func MessagesSubject(partition int) string { return "messages." + strconv.Itoa(partition) }

// LiveSubjects is the wildcard of all channels' no_persist messages.
const LiveSubjects = "live.>"

// AppendLiveSubject appends the plain NATS subject of a channel's no_persist
// messages, live.<channel_type>.<channel token>.
func AppendLiveSubject(dst []byte, channelType message.ChannelType, channelID string) []byte {
	return AppendChannel(append(dst, "live"...), channelType, channelID)
}

// AppendChannel appends .<channel_type>.<channel token> to a subject.
func AppendChannel(dst []byte, channelType message.ChannelType, channelID string) []byte {
	dst = append(dst, '.')
	dst = strconv.AppendUint(dst, uint64(channelType), 10)
	dst = append(dst, '.')
	return message.AppendChannelToken(dst, channelID)
}

// DeadLetterSubject is where a role puts what it could not process.
func DeadLetterSubject(role, reason string) string {
	return "deadletters." + role + "." + reason
}

// ParseDeadLetterSubject takes apart what DeadLetterSubject has made.
func ParseDeadLetterSubject(subject string) (role, reason string) {
	role, reason, _ = strings.Cut(strings.TrimPrefix(subject, "deadletters."), ".")
	return role, reason
}

// Kind says what a stream of a deployment is for.
type Kind string

// The kinds of streams.
const (
	KindWAL         Kind = "wal"
	KindMessages    Kind = "messages"
	KindDeadLetters Kind = "dead_letters"
	KindKeyValue    Kind = "key_value"
	KindObjects     Kind = "objects"
)

// KindOf reads the kind of a stream, and the partition that it belongs to, from its name. The partition is -1 where
// the stream serves all. A stream that is not a deployment's has no kind, and ok is false.
func KindOf(stream string) (kind Kind, partition int, ok bool) {
	for prefix, kind := range map[string]Kind{"SENDS_": KindWAL, "MESSAGES_": KindMessages} {
		if number, found := strings.CutPrefix(stream, prefix); found {
			partition, err := strconv.Atoi(number)
			return kind, partition, err == nil && partition >= 0 && strconv.Itoa(partition) == number
		}
	}
	switch {
	case stream == DeadLettersStream:
		return KindDeadLetters, -1, true
	case stream == "OBJ_"+CheckpointBucket:
		return KindObjects, -1, true
	case strings.HasPrefix(stream, "KV_"+DeploymentBucket): // all buckets' names begin so
		return KindKeyValue, -1, true
	default:
		return "", -1, false
	}
}
