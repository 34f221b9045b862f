package ingest

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// openInbox subscribes to what is said to this process.
func (s *Service) openInbox() (closeInbox func() error, err error) {
	sub, err := s.nc.Subscribe(s.inbox.prefix+".>", func(m *nats.Msg) { s.inbox.receive(s.partitions, m) })
	if err != nil {
		return nil, fmt.Errorf("ingest: subscribe to the inbox: %w", err)
	}
	closed := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(closed) })
	return func() error {
		if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
			return fmt.Errorf("ingest: close the inbox: %w", err)
		}
		select {
		case <-closed:
		case <-time.After(closeTimeout):
			return errors.New("ingest: the inbox did not close")
		}
		return nil
	}, nil
}

// watchConnection follows the state of the connection until the returned function
// is called, which waits for its goroutine.
func (s *Service) watchConnection() (stop func()) {
	changes := s.nc.StatusChanged()
	s.connected.Store(s.nc.IsConnected())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for status := range changes {
			if status != nats.CONNECTED {
				s.connected.Store(false)
				for _, p := range s.partitions {
					p.onDisconnect()
				}
			}
			// Changes may be lost where they come fast, so the last word is the
			// connection's.
			s.connected.Store(s.nc.IsConnected())
			if end := s.endWatch.Load(); end != nil && status == nats.CONNECTED {
				(*end)(errReconnected)
			}
		}
	}()
	return func() {
		s.nc.RemoveStatusListener(changes)
		<-done
	}
}
