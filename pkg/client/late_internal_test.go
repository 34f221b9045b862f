package client

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendhouse/sendhouse/pkg/client/internal/clienttest"
)

// A machine that was suspended for an hour has no send that is seconds old.
func TestLateAfterSuspend(t *testing.T) {
	t.Parallel()
	c, err := New(Config{URL: "http://localhost:1"})
	require.NoError(t, err)
	c.window.set(Window{Remembers: 10 * time.Minute}, time.Now())
	lost := &tryError{err: errors.New("lost"), written: true}
	var slept, notStored SendError
	slept.add(clienttest.Before(t, time.Now(), time.Hour), lost)
	slept.add(time.Now(), lost) // the first one counts
	notStored.add(clienttest.Before(t, time.Now(), time.Hour), &Error{Status: http.StatusServiceUnavailable, Code: "draining"})
	left, err := c.resendable(t.Context(), time.Now())
	require.NoError(t, err)
	require.Greater(t, left, 9*time.Minute)
	left, err = c.resendable(t.Context(), slept.since)
	require.NoError(t, err)
	require.Negative(t, left)
	require.False(t, notStored.MaybeStored)

	// What the server said before is not relied on after that.
	c.window.asked = clienttest.Before(t, c.window.asked, time.Hour)
	_, err = c.resendable(t.Context(), time.Now())
	require.Error(t, err)
}

// Nor is its request, which waited for a connection or is to be repeated on another, sent now.
func TestTryBody(t *testing.T) {
	t.Parallel()
	body := &tryBody{text: []byte("hi"), start: time.Now(), timeout: time.Minute}
	read := func() (string, error) {
		text, err := io.ReadAll(body.open())
		return string(text), err
	}
	for range 2 {
		text, err := read()
		require.NoError(t, err)
		require.Equal(t, "hi", text)
	}
	body.start = clienttest.Before(t, body.start, time.Hour)
	text, err := read()
	require.ErrorIs(t, err, errTryLate)
	require.Empty(t, text)
	require.True(t, body.written())

	body = &tryBody{text: []byte("hi"), start: clienttest.Before(t, time.Now(), time.Hour), timeout: time.Minute}
	_, err = read()
	require.ErrorIs(t, err, errTryLate)
	require.False(t, body.written())
	body.start = time.Now()
	_, err = read()
	require.ErrorIs(t, err, errTryOver, "the try has been given up")
}
