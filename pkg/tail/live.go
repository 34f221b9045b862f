package tail

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sendhouse/sendhouse/pkg/message"
	"github.com/sendhouse/sendhouse/pkg/messagelog"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// subscribeWait is how long the server may take to say that it knows of a subscription.
const subscribeWait = 5 * time.Second

// live hears no_persist messages.
type live struct {
	subscription *nats.Subscription
	message      message.Message
}

// hearLive subscribes to the no_persist messages that are asked for. When it returns, the server knows.
func (c Config) hearLive(nc *nats.Conn) (*live, error) {
	subject := topology.LiveSubjects
	if name, kind, ok := c.channel(); ok {
		subject = string(topology.AppendLiveSubject(nil, kind, name))
	}
	subscription, err := nc.SubscribeSync(subject)
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	if err := nc.FlushTimeout(subscribeWait); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to %s: %w", subject, err), subscription.Unsubscribe())
	}
	return &live{subscription: subscription}, nil
}

// stop ends the subscription; that the connection has ended before is fine.
func (l *live) stop() error {
	if err := l.subscription.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
		return fmt.Errorf("unsubscribe from %s: %w", l.subscription.Subject, err)
	}
	return nil
}

// follow hands over what is heard. What came faster than it was taken is lost, as the connection's log says:
// these messages are delivered once or not at all.
func (l *live) follow(ctx context.Context, entries chan<- messagelog.Entry) error {
	handOver := into(ctx, entries)
	for {
		heard, err := l.subscription.NextMsgWithContext(ctx)
		if errors.Is(err, nats.ErrSlowConsumer) {
			continue
		}
		if err != nil {
			return fmt.Errorf("hear %s: %w", l.subscription.Subject, err)
		}
		l.message.Reset()
		if err := l.message.UnmarshalVT(heard.Data); err != nil {
			return fmt.Errorf("what came on %s is not an encoded Message: %w", heard.Subject, err)
		}
		entry := messagelog.Entry{Partition: message.ID(l.message.GetMessageId()).Partition(), Data: heard.Data}
		if err := handOver(entry); err != nil {
			return err
		}
	}
}
