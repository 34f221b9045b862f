package broker

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/sendhouse/sendhouse/pkg/topology"
)

// anyMessages stands in a pattern for the name of any partition's message log.
const anyMessages = "MESSAGES_*"

// ReaderSubjects are the subjects on which a user who only reads publishes: requests that look at streams, make and use consumers of the
// message logs, and acknowledge. MESSAGES_* stands for each partition's stream. The reader of deploy/nats has the same.
//
// Names of consumers are not among what can be asked for, so that a consumer can be used, deleted or changed only by those who
// know its name.
func ReaderSubjects() []string {
	return []string{
		"$JS.API.INFO",
		"$JS.API.STREAM.INFO.*",
		"$JS.API.STREAM.NAMES",
		"$JS.API.STREAM.LIST",
		"$JS.API.DIRECT.GET.KV_SENDHOUSE.>",
		"$JS.API.STREAM.MSG.GET." + anyMessages,
		"$JS.API.CONSUMER.CREATE." + anyMessages,
		"$JS.API.CONSUMER.CREATE." + anyMessages + ".>",
		"$JS.API.CONSUMER.DURABLE.CREATE." + anyMessages + ".>",
		"$JS.API.CONSUMER.INFO." + anyMessages + ".>",
		"$JS.API.CONSUMER.DELETE." + anyMessages + ".>",
		"$JS.API.CONSUMER.MSG.NEXT." + anyMessages + ".>",
		"$JS.ACK." + anyMessages + ".>",
		"$JS.FC." + anyMessages + ".>",
	}
}

// readerSubjectsOfOneServer are those that only a single server allows: on a cluster a server that is behind would answer them.
func readerSubjectsOfOneServer() []string {
	return []string{"$JS.API.DIRECT.GET." + anyMessages, "$JS.API.DIRECT.GET." + anyMessages + ".>"}
}

const (
	inboxPrefix = "_INBOX."
	livePrefix  = "live."
)

// privateInboxes are the roles whose answers no other client may read: see InboxPrefix. A reader's own inboxes lie beside them.
func privateInboxes() []string {
	return []string{"ingest", "history", "sequencer", "writer", "question"}
}

// reader decides what a client without credentials may say to the embedded server. The server itself would not ask two of these questions: it
// answers a request on any subject that the request names, and delivers the messages of a consumer to any subject that the consumer names, so
// that any client that may make a request could write into every stream.
type reader struct{ publish [][]string }

func newReader() *reader {
	r := new(reader)
	for _, pattern := range append(ReaderSubjects(), readerSubjectsOfOneServer()...) {
		r.publish = append(r.publish, strings.Split(pattern, "."))
	}
	return r
}

// permissions are what the server itself holds the reader to. They are wider than what the gate lets through, since a wildcard of NATS
// stands for a whole token.
func (r *reader) permissions() *server.Permissions {
	p := &server.Permissions{Publish: new(server.SubjectPermission), Subscribe: &server.SubjectPermission{Allow: []string{inboxPrefix + ">", livePrefix + ">"}}}
	for _, pattern := range r.publish {
		p.Publish.Allow = append(p.Publish.Allow, strings.ReplaceAll(strings.Join(pattern, "."), anyMessages, "*"))
	}
	for _, role := range privateInboxes() {
		p.Subscribe.Deny = append(p.Subscribe.Deny, InboxPrefix(role)+".>")
	}
	return p
}

// mayPublish reports whether a reader may publish a payload on subject and have it answered on reply.
func (r *reader) mayPublish(subject, reply string, payload []byte) bool {
	tokens := strings.Split(subject, ".")
	return slices.ContainsFunc(r.publish, func(pattern []string) bool { return matches(pattern, tokens) }) &&
		(reply == "" || ownInbox(reply)) && (!makesConsumer(tokens) || deliversHome(payload)) && (!asksForInfo(tokens) || asksForNoSubjects(tokens, payload))
}

// asksForInfo reports whether a subject is that of a request for information about a stream.
func asksForInfo(tokens []string) bool {
	return len(tokens) == 5 && tokens[2] == "STREAM" && tokens[3] == "INFO"
}

// asksForNoSubjects reports whether a request for information is about a message log, or leaves out the subjects of the records: those of a
// bucket are its keys, which name channels and users.
func asksForNoSubjects(tokens []string, payload []byte) bool {
	if kind, _, ok := topology.KindOf(tokens[4]); ok && kind == topology.KindMessages {
		return true
	}
	var request server.JSApiStreamInfoRequest
	return len(payload) == 0 || json.Unmarshal(payload, &request) == nil && request.SubjectsFilter == ""
}

// maySubscribe reports whether a reader may subscribe to subject: live messages, and inboxes that it can name.
func maySubscribe(subject string) bool {
	return subject == livePrefix+">" || strings.HasPrefix(subject, livePrefix) || ownInbox(subject)
}

// ownInbox reports whether subject lies below an inbox that only its owner can name: what follows _INBOX is no wildcard and no role's.
func ownInbox(subject string) bool {
	rest, is := strings.CutPrefix(subject, inboxPrefix)
	name, _, _ := strings.Cut(rest, ".")
	return is && name != "" && name != "*" && name != ">" && !slices.Contains(privateInboxes(), name)
}

// makesConsumer reports whether a subject is that of a request to make or change a consumer.
func makesConsumer(tokens []string) bool {
	return len(tokens) > 3 && tokens[2] == "CONSUMER" && (tokens[3] == "CREATE" || tokens[3] == "DURABLE")
}

// deliversHome reports whether a request makes a consumer that delivers nothing but to its maker. It reads the request as the server does,
// and refuses one that can be read in two ways.
func deliversHome(payload []byte) bool {
	var request server.CreateConsumerRequest
	if err := json.Unmarshal(payload, &request); err != nil {
		return false
	}
	// Consumers of the server's own kinds count against no limit.
	return (request.Config.DeliverSubject == "" || ownInbox(request.Config.DeliverSubject)) && !request.Config.Direct && !request.Config.Sourcing
}

// matches reports whether a subject fits a pattern of ReaderSubjects.
func matches(pattern, subject []string) bool {
	for i, want := range pattern {
		switch {
		case i >= len(subject):
			return false
		case want == ">":
			return true
		case want == anyMessages:
			if kind, _, ok := topology.KindOf(subject[i]); !ok || kind != topology.KindMessages {
				return false
			}
		case want != "*" && want != subject[i]:
			return false
		}
	}
	return len(pattern) == len(subject)
}
