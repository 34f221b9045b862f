package history

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/sendhouse/sendhouse/pkg/api"
)

// The reason codes of WuKongIM that apply here.
const (
	reasonSystemError = 15
	reasonChannelID   = 16
	reasonRateLimit   = 22
	reasonChannelType = 23
)

// The problems. This is the one place where a status is decided.

func invalidJSON(msg string) *api.Problem {
	return &api.Problem{Status: http.StatusBadRequest, Code: "invalid_json", Msg: msg}
}

func bodyUnread() *api.Problem {
	return &api.Problem{Status: http.StatusBadRequest, Code: "body_unreadable", Msg: "the body could not be read to its end"}
}

func tooLarge(bytesMax int64) *api.Problem {
	return &api.Problem{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Msg: fmt.Sprintf("the body is larger than %d bytes", bytesMax)}
}

func mediaType(rule string) *api.Problem {
	return &api.Problem{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type", Msg: rule}
}

func overloaded() *api.Problem {
	return &api.Problem{Status: http.StatusServiceUnavailable, Code: "overloaded", Reason: reasonRateLimit, RetryAfter: 1, Msg: "more is being read than can be at one time"}
}

func notServed() *api.Problem {
	return &api.Problem{Status: http.StatusNotFound, Code: "history_not_served", Reason: reasonSystemError,
		Msg: "this process has no ClickHouse to read from: it was started without --clickhouse-dsn"}
}

func messageNotFound() *api.Problem {
	return &api.Problem{Status: http.StatusNotFound, Code: "message_not_found", Msg: "the channel has no such message"}
}

// clientGone is not sent to any client; its status, nginx's 499, is for the metrics.
func clientGone() *api.Problem { return &api.Problem{Status: 499, Code: "client_gone"} }

// unavailable reports that ClickHouse did not answer. The cause is only logged, because it contains addresses.
func unavailable(ctx context.Context, client context.Context, err error) *api.Problem {
	switch {
	case client.Err() != nil:
		return clientGone()
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded): // the last can come a moment before the others
		return &api.Problem{Status: http.StatusServiceUnavailable, Code: "history_timeout", Reason: reasonSystemError, RetryAfter: 1,
			Msg: "ClickHouse did not answer in time"}
	default:
		return &api.Problem{Status: http.StatusServiceUnavailable, Code: "history_unavailable", Reason: reasonSystemError, RetryAfter: 2,
			Msg: "ClickHouse cannot be read at the moment"}
	}
}

// logsUnavailable reports that the logs could not be read although the reply depends on them.
func logsUnavailable(client context.Context) *api.Problem {
	if client.Err() != nil {
		return clientGone()
	}
	return &api.Problem{Status: http.StatusServiceUnavailable, Code: "log_unavailable", Reason: reasonSystemError, RetryAfter: 1,
		Msg: "the newest messages are not in ClickHouse yet, and the message log cannot be read at the moment"}
}

// behind reports that messages may have been answered that neither ClickHouse nor the tail of the message log has.
func behind() *api.Problem {
	return &api.Problem{Status: http.StatusServiceUnavailable, Code: "history_behind", Reason: reasonSystemError, RetryAfter: 1,
		Msg: "ClickHouse is too far behind the message log, or a send to the channel is not in the message log yet: some messages cannot be read at the moment"}
}

// issues collects the invalid fields of a request, which one error reports together.
type issues struct {
	names, texts []string
	reason       int
}

// add records the rule that a field breaks, such as "is required". Only the first record of a field counts.
func (i *issues) add(field, rule string) {
	if rule == "" {
		return
	}
	for _, name := range i.names {
		if name == field {
			return
		}
	}
	if len(i.names) == 0 {
		i.reason = map[string]int{"channel_id": reasonChannelID, "channel_type": reasonChannelType}[field]
	}
	i.names, i.texts = append(i.names, field), append(i.texts, field+" "+rule)
}

// addOf adds the issues of an element of a list, whose fields prefix names. A login_uid is that of the whole request.
func (i *issues) addOf(prefix string, element *issues) {
	for n, name := range element.names {
		rule := strings.TrimPrefix(element.texts[n], name+" ")
		if name != "login_uid" {
			name = prefix + name
		}
		first := len(i.names) == 0
		i.add(name, rule)
		if first {
			i.reason = element.reason
		}
	}
}

// problem returns nil if no field is invalid.
func (i *issues) problem() *api.Problem {
	if len(i.names) == 0 {
		return nil
	}
	return &api.Problem{Status: http.StatusBadRequest, Code: "invalid_request", Msg: strings.Join(i.texts, "; "), Field: strings.Join(i.names, ","), Reason: i.reason}
}
