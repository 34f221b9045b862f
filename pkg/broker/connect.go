package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sendhouse/sendhouse/pkg/config"
)

const (
	connectTimeout = 5 * time.Second
	reconnectWait  = 250 * time.Millisecond
	// pingInterval is the default: three of them are how long a network that loses everything and
	// closes nothing goes unnoticed. The client's own default would have it go unnoticed for six minutes.
	pingInterval = 5 * time.Second
	// A command line has at most this long to get an answer from JetStream.
	apiTimeout = 5 * time.Second
)

// Config says how to reach NATS.
type Config struct {
	// URL is one or more nats:// or tls:// addresses, separated by commas.
	URL string
	// Name is shown by the server's connection listings.
	Name string
	// Options are added last: credentials, TLS, an in-process server.
	Options []nats.Option
	// Check looks at the connection before anything is asked over it; nil: nothing is looked at.
	Check  func(*nats.Conn) error
	Logger *slog.Logger
}

// Connect reaches NATS and checks that JetStream answers. It fails within about
// ten seconds if it cannot, and says what to look at.
func Connect(ctx context.Context, cfg Config) (*nats.Conn, jetstream.JetStream, error) {
	log := cfg.Logger.With("component", "nats", "connection", cfg.Name)
	options := append([]nats.Option{
		nats.Name(cfg.Name),
		nats.Timeout(connectTimeout),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // a server can come up before its users, and the client would give up for ever at the second refusal
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectWait, reconnectWait),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingInterval),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("disconnected from NATS, reconnecting", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("reconnected to NATS", "server", nc.ConnectedUrlRedacted())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Error("NATS connection", "error", err, "subject", subject)
		}),
	}, cfg.Options...)

	if err := checkURLs(cfg.URL); err != nil {
		return nil, nil, err
	}
	shown := config.RedactURL(cfg.URL)
	nc, err := nats.Connect(cfg.URL, options...)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to NATS at %s: %w (is the server running, and --nats-url right?)", shown, err)
	}
	if cfg.Check != nil {
		if err := cfg.Check(nc); err != nil {
			nc.Close()
			return nil, nil, err
		}
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		nc.Close()
		return nil, nil, fmt.Errorf("open JetStream: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if _, err := js.AccountInfo(ctx); err != nil {
		nc.Close()
		hint := "is the server healthy?"
		if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) || errors.Is(err, nats.ErrNoResponders) {
			hint = "start nats-server with -js, or enable JetStream for this account"
		}
		return nil, nil, fmt.Errorf("ask JetStream at %s: %w (%s)", shown, err, hint)
	}
	return nc, js, nil
}

// checkURLs refuses what the client would refuse, or try in vain, with an error that shows part of a password.
func checkURLs(list string) error {
	for i, address := range strings.Split(list, ",") {
		address = strings.TrimSpace(address)
		if !strings.Contains(address, "://") {
			address = "nats://" + address
		}
		if err := config.CheckURL(address); err != nil {
			return fmt.Errorf("--nats-url: address %d: %w", i+1, err)
		}
		if _, err := url.Parse(address); err != nil {
			// What url.Parse says can hold the password.
			return fmt.Errorf("--nats-url: address %d is not a URL: want nats://HOST:4222, and special characters in user and password as %%XX", i+1)
		}
	}
	return nil
}

// Drained closes a connection after its subscriptions have handled what they
// have and its publishes have left, or when ctx ends.
func Drained(ctx context.Context, nc *nats.Conn) error {
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	if err := nc.Drain(); err != nil {
		nc.Close()
		if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionReconnecting) {
			return nil
		}
		return fmt.Errorf("drain NATS connection: %w", err)
	}
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		nc.Close()
		return fmt.Errorf("drain NATS connection: %w", context.Cause(ctx))
	}
}
